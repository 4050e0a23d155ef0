/**
 * One daemon: its state, its device thread, its mounts. What the API and the command line steer.
 *
 *   INIT ──device thread ready, initial mount made, API bound──▶ RUNNING ──stop──▶ STOPPED
 *   INIT ──takeover: all a predecessor left is here──▶ READY ──start──▶ RUNNING     (failover/)
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { LogLevel } from '../common/log.ts';
import { LOG_LEVELS } from '../common/log.ts';
import { STATS_BYTES } from '../fuse/stats-layout.ts';
import { errnoText } from '../sys/errno.ts';
import { MNT_DETACH, umount } from '../sys/mount.ts';
import type { TransportSpec } from '../virtiofs/control.ts';
import type { AccessTrace } from './access-trace.ts';
import { BUILD_INFO, type BuildInfo } from './build-info.ts';
import { Device } from './device.ts';
import { daemonError } from './errors.ts';
import type { HandOver, OwnConfig } from './failover/hand-over.ts';
import { Fetcher } from './fetcher.ts';
import { LazyImages } from './images.ts';
import type { LogWriter } from './log-writer.ts';
import { mountPath } from './mount-path.ts';
import { Mounts } from './mounts.ts';

/** States of kata-contract 4.4. */
export type DaemonState = 'INIT' | 'READY' | 'RUNNING' | 'STOPPED';

export interface DaemonOptions {
  id: string | null;
  supervisor: string | null;
  transport: TransportSpec;
  logLevel: LogLevel;
  /** A writable overlay goes over the image at `/`. */
  servesOverlay: boolean;
  /** Script of the device thread. */
  workerEntry: string;
  log: LogWriter;
  /** Configuration that the command line has for the image `source` at `path`; null when it has none. */
  ownConfig: (path: string, source: string) => OwnConfig | null;
  onRunning: () => void;
  /** Somebody else unmounted the FUSE mount: nothing comes any more. */
  onUnmounted: () => void;
  /** The device thread ended by itself: nothing can be served any more. */
  onDeviceGone: (reason: string) => void;
}

/** The device thread stops within milliseconds, unless a system call of it hangs. */
const LEAVE_MS_MAX = 500;

interface BackendInfo {
  backend_type: 'Rafs' | 'PassthroughFs';
  mountpoint: string;
  mounted_time: string;
  config: object | null;
}

/** `GET /api/v1/daemon`, kata-contract 4.4. */
export interface DaemonInfo {
  version: BuildInfo;
  id: string | null;
  supervisor: string | null;
  state: DaemonState;
  backend_collection: Record<string, BackendInfo> | null;
}

export class Daemon {
  readonly log: LogWriter;
  readonly mounts: Mounts;
  readonly images: LazyImages;
  /** Counters that the device thread writes and metrics read (`src/fuse/stats-layout.ts`). */
  readonly stats = new SharedArrayBuffer(STATS_BYTES);
  state: DaemonState = 'INIT';
  private readonly device: Device;
  /** Failover steps run one after another. */
  private steps: Promise<unknown> = Promise.resolve();
  /** The successor gets the mount: the end of this process does not unmount. */
  private leavesMount = false;
  private stopped: Promise<void> | null = null;
  /** A sign of life that somebody has waited for in vain: until it comes no other is asked for, a stuck thread would keep them. */
  private overdue: Promise<boolean> | null = null;

  /** Starts the device thread at once; `ready` tells how that went. */
  constructor(private readonly options: DaemonOptions) {
    this.log = options.log;
    this.images = new LazyImages(options.log, options.servesOverlay);
    const fetcher = new Fetcher(
      (blob, chunks) => this.images.fetch(blob, chunks),
      (message) => this.device.post(message),
      options.log,
    );
    this.device = new Device(
      options.workerEntry,
      { transport: options.transport, logLevel: options.logLevel, stats: this.stats },
      {
        fetch: (request) => fetcher.fetch(request),
        io: (request) => fetcher.io(request),
        log: (level, text) => options.log.line(level, text),
        session: (connected) =>
          options.log.info(connected ? 'a VMM connected' : 'the VMM disconnected; listening again'),
        unmounted: options.onUnmounted,
        released: (blobs) => this.images.release(blobs),
        gone: options.onDeviceGone,
      },
    );
    const { transport } = options;
    this.mounts = new Mounts(this.device, this.images, transport.kind === 'fuse' ? transport.mountpoint : null);
  }

  /** Resolves when the vhost-user socket listens or the file system is mounted. @throws AppError TRANSPORT */
  get ready(): Promise<void> {
    return this.device.ready;
  }

  /** Both sockets are bound and the initial mount is made. Nothing is said any more when the end has begun meanwhile. */
  run(): void {
    if (this.state === 'STOPPED') return;
    this.state = 'RUNNING';
    this.options.onRunning();
  }

  // -- failover (kata-contract 4.6) -------------------------------------------------------------------------------------

  /** `PUT fuse/sendfd`: leaves everything with the supervisor. @throws AppError UNSUPPORTED, NOT_READY, NO_SUPERVISOR, … */
  sendFd(): Promise<void> {
    return this.step(async () => {
      const parts = this.handOver('sendfd');
      if (this.state !== 'RUNNING' && this.state !== 'READY') throw daemonError('NOT_READY', { state: this.state });
      const { save } = await import('./failover/hand-over.ts');
      await save(parts, this.state === 'RUNNING');
    });
  }

  /** `PUT fuse/takeover`: INIT → READY with all of it, or INIT as before. @throws AppError WRONG_STATE, NO_SUPERVISOR, … */
  takeOver(): Promise<void> {
    return this.step(async () => {
      const { transport } = this.options;
      const waits = transport.kind === 'fuse' && transport.succeeds && this.state === 'INIT';
      if (!waits) throw daemonError('WRONG_STATE', { event: 'Takeover', state: this.state });
      const parts = this.handOver('takeover');
      const { restore } = await import('./failover/hand-over.ts');
      await this.ready;
      await restore(parts);
      if (this.state === 'INIT') this.state = 'READY';
    });
  }

  /** `PUT start`: READY → RUNNING. @throws AppError WRONG_STATE */
  start(): Promise<void> {
    return this.step(async () => {
      if (this.state !== 'READY') throw daemonError('WRONG_STATE', { event: 'Start', state: this.state });
      const { transport } = this.options;
      await this.device.takeOver();
      if (transport.kind === 'fuse') await (await import('./failover/hand-over.ts')).showRoot(transport.mountpoint);
      for (const { image, request } of this.mounts.list()) if (image !== null) this.images.mounted(image, request);
      this.run();
    });
  }

  /**
   * `PUT exit`: with a supervisor somebody else goes on with the mount. Resolves when we take nothing more from the
   * kernel: what we took after the successor had asked for everything unanswered would be lost.
   */
  async leave(): Promise<void> {
    const { transport, supervisor } = this.options;
    if (transport.kind !== 'fuse' || supervisor === null) return;
    this.leavesMount = true;
    const stopped = this.stop().catch(() => {}); // a device thread that is gone takes nothing either
    await Promise.race([stopped, sleep(LEAVE_MS_MAX, undefined, { ref: false })]);
  }

  private step(work: () => Promise<void>): Promise<void> {
    const step = this.steps.then(work);
    this.steps = step.catch(() => {});
    return step;
  }

  private handOver(event: string): HandOver {
    const { transport, supervisor, log, ownConfig } = this.options;
    if (transport.kind !== 'fuse') throw daemonError('UNSUPPORTED', { what: event });
    if (supervisor === null) throw daemonError('NO_SUPERVISOR', { event });
    const { mountpoint } = transport;
    return { supervisor, mountpoint, device: this.device, mounts: this.mounts, images: this.images, log, ownConfig };
  }

  // -- what clients ask -------------------------------------------------------------------------------------------------

  info(withBackends: boolean): DaemonInfo {
    const backends: Record<string, BackendInfo> = {};
    if (withBackends) {
      for (const mount of this.mounts.list()) {
        backends[mount.path] = {
          backend_type: mount.kind,
          mountpoint: mount.path,
          mounted_time: mount.mountedTime,
          config: mount.image?.shownConfig ?? null,
        };
      }
    }
    return {
      version: BUILD_INFO,
      id: this.options.id,
      supervisor: this.options.supervisor,
      state: this.state,
      backend_collection: withBackends ? backends : null,
    };
  }

  /** `GET /api/v1/daemon/backend`. @throws AppError MOUNT_UNKNOWN, MOUNT_NOT_RAFS */
  superblockOf(where: string): object {
    const path = mountPath(where);
    const mount = this.mounts.get(path);
    if (mount === undefined) throw daemonError('MOUNT_UNKNOWN', { path });
    if (mount.image === null) throw daemonError('MOUNT_NOT_RAFS', { path });
    return mount.image.superblock;
  }

  /** `GET /api/v1/trace`. @throws AppError NO_COUNTER for what is no mounted image */
  trace(where: string): Promise<AccessTrace> {
    const image = this.mounts.get(mountPath(where))?.image ?? null;
    if (image === null) throw daemonError('NO_COUNTER', { id: where });
    return this.images.trace(image);
  }

  /** @throws AppError NOT_READY before RUNNING: mounts sent earlier would be lost */
  demandRunning(): void {
    if (this.state !== 'RUNNING') throw daemonError('NOT_READY', { state: this.state });
  }

  /** Sets the level of this thread and of the device thread; upstream's spelling `off` means errors only. */
  setLogLevel(text: string): void {
    const name = text.toLowerCase();
    const level = name === 'off' ? 'error' : LOG_LEVELS.find((known) => known === name);
    if (level === undefined) throw daemonError('LOG_LEVEL', { level: text.slice(0, 40) });
    this.log.setLevel(level);
    this.device.post({ type: 'log-level', level });
  }

  /** Asks the device thread for a sign of life; false when none came within `waitMs`. */
  async answers(waitMs: number): Promise<boolean> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<'late'>((resolve) => {
      timer = setTimeout(() => resolve('late'), waitMs);
    });
    const answered = this.overdue ?? this.ping();
    const result = await Promise.race([answered, late]);
    clearTimeout(timer);
    if (result !== 'late') return result;
    this.overdue ??= answered.finally(() => {
      this.overdue = null;
    });
    return false;
  }

  private ping(): Promise<boolean> {
    return this.device.ping().then(
      () => true,
      () => false,
    );
  }

  /** Stops the device thread: resolves when it has closed its sockets and left the kernel mount. */
  stop(): Promise<void> {
    this.stopped ??= this.stopDevice();
    return this.stopped;
  }

  private async stopDevice(): Promise<void> {
    const { transport } = this.options;
    if (transport.kind === 'fuse' && transport.succeeds && this.state !== 'RUNNING') this.leavesMount = true; // not ours yet
    this.state = 'STOPPED';
    await this.device.stop(this.leavesMount);
  }

  /** The device thread hangs in a system call: a mount it left behind would answer ENOTCONN to everybody for ever. */
  abandon(): void {
    const { transport } = this.options;
    if (transport.kind !== 'fuse' || this.leavesMount) return;
    const done = umount(transport.mountpoint, MNT_DETACH);
    if (done < 0) this.log.warn(`cannot unmount ${transport.mountpoint}: ${errnoText(done)}`);
  }
}
