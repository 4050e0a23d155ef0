/**
 * The vhost-user-fs device: one listener, one frontend at a time, its rings, one FUSE session.
 *
 *     listener ─accept─► Backend (vhost-user) ─owner calls─► queues ─► VirtioPort ─► Session ─► file system
 *         ▲                     │ hang-up
 *         └─────────────────────┘            mounts stay; the guest's handles and lookups are void
 *
 * Life of a ring's parked requests: a ring that is stopped and started where it stood goes on, completions in between
 * wait; a ring that starts elsewhere (reset, reboot) or whose frontend left forgets them.
 */
import type { FileSystem } from '../fuse/file-system.ts';
import { VIRTIOFS_POLICY } from '../fuse/init.ts';
import { Session, type SessionLog } from '../fuse/session.ts';
import type { Stats } from '../fuse/stats.ts';
import { STAT } from '../fuse/stats-layout.ts';
import { errnoText } from '../sys/errno.ts';
import { close } from '../sys/io.ts';
import type { Epoll } from '../sys/wait.ts';
import { Backend, type BackendOwner } from '../vhost/backend.ts';
import type { BackendRing } from '../vhost/backend-ring.ts';
import { ChainWalker } from '../vhost/chain.ts';
import { acceptFrontend, adoptSocket } from '../vhost/listener.ts';
import { GuestMemory } from '../vhost/memory.ts';
import { configSpace } from './config.ts';
import type { TransportSpec } from './control.ts';
import type { DeviceIo } from './device-io.ts';
import { READABLE, TOKEN } from './loop.ts';
import { type Queue, VirtioPort } from './port.ts';

/** Requests served per queue and turn, so that hiprio, completions and control messages get theirs. */
const REQUESTS_PER_TURN = 64;
/** Requests between two publications: the guest wakes up and asks for more while the rest of its batch is served. */
const REQUESTS_PER_PUBLISH = 16;
/** Largest readable or writable part of a request: 256 pages of 64 KiB guests, and room for headers. */
const CHAIN_BYTES_MAX = 32 * 1024 * 1024;

/** The frontend waits for a stopping ring without time-out; it gets its answer within 1 s whatever a disk does. */
const SETTLE_MS = 500;

export type VirtioSpec = Extract<TransportSpec, { kind: 'virtiofs' }>;

interface DeviceQueue extends Queue {
  /** Requests found when it was last looked at. */
  depth: number;
  readonly vhost: BackendRing;
}

export class VirtioFsDevice implements BackendOwner {
  readonly session: Session;
  private readonly memory = new GuestMemory();
  private readonly port: VirtioPort;
  private backend: Backend | null = null;
  private queues: DeviceQueue[] = [];
  private listener = -1;

  constructor(
    fs: FileSystem,
    private readonly io: DeviceIo,
    private readonly epoll: Epoll,
    private readonly spec: VirtioSpec,
    private readonly stats: Stats,
    private readonly log: SessionLog,
    private readonly onSession: (connected: boolean) => void,
  ) {
    this.port = new VirtioPort(this.memory, new ChainWalker(this.memory, CHAIN_BYTES_MAX), stats, log);
    this.session = new Session(fs, this.port, VIRTIOFS_POLICY, io, stats, log);
    this.port.session = this.session;
    this.port.queueAt = (index) => this.queues.find((queue) => queue.index === index);
    this.port.onBroken = (queue) => (queue as DeviceQueue).vhost.reportFault();
  }

  /** Takes over the socket main bound (or was passed). Null, or a sentence saying what failed and what to do. */
  start(): string | null {
    const { fd } = this.spec;
    const kind = adoptSocket(fd);
    if (kind === 'connected') this.connect(fd);
    else if (kind === 'listening') {
      this.listener = fd;
      this.watchListener();
    } else {
      return `descriptor ${fd} is no stream socket (${errnoText(kind)}); pass a listening or a connected one`;
    }
    return null;
  }

  private watchListener(): void {
    if (this.listener >= 0) this.epoll.add(this.listener, READABLE, TOKEN.LISTENER);
  }

  private accept(): void {
    const fd = acceptFrontend(this.listener);
    if (fd < 0) return;
    this.epoll.remove(this.listener); // the next frontend waits in the backlog until this one hangs up
    this.connect(fd);
  }

  private connect(fd: number): void {
    const { tag, requestQueues } = this.spec;
    this.backend = new Backend(
      fd,
      this.memory,
      {
        queues: requestQueues + 1,
        config: tag === null ? null : configSpace(tag, requestQueues),
        offerInflight: false, // until inode and handle tables survive a restart of the process
      },
      this,
    );
    this.epoll.add(fd, READABLE, TOKEN.SOCKET);
    this.stats.add(STAT.sessions, 1);
    this.log('info', 'VMM connected');
    this.onSession(true);
  }

  /** Events of TOKEN.LISTENER, SOCKET and KICK. */
  event(token: number): void {
    if (token === TOKEN.LISTENER) this.accept();
    else if (token === TOKEN.SOCKET) this.backend?.onReadable();
    else if (token >= TOKEN.KICK) this.backend?.onKick(token - TOKEN.KICK);
  }

  serve(): number {
    let served = 0;
    const queues = this.queues;
    for (let i = 0; i < queues.length; i++) {
      const queue = queues[i] as DeviceQueue;
      served += this.serveQueue(queue);
    }
    return served;
  }

  /** Serves one turn of `queue`; how many requests there were. */
  private serveQueue(queue: DeviceQueue): number {
    let served = 0;
    while (served < REQUESTS_PER_TURN) {
      const part = queue.vhost.serving ? this.port.drain(queue, REQUESTS_PER_PUBLISH) : 0;
      if (queue.dirty) this.flush(queue);
      served += part;
      if (part < REQUESTS_PER_PUBLISH) break;
    }
    this.found(queue, served + queue.ring.waiting);
    return served;
  }

  private found(queue: DeviceQueue, depth: number): void {
    if (depth === queue.depth) return;
    queue.depth = depth;
    this.stats.depth(queue.index, depth);
  }

  /** Publishes what was completed and signals the guest once if it wants that. */
  private flush(queue: DeviceQueue): void {
    queue.dirty = false;
    if (queue.ring.publish()) queue.vhost.signal();
  }

  beforeSleep(): boolean {
    let more = false;
    const queues = this.queues;
    for (let i = 0; i < queues.length; i++) {
      const queue = queues[i] as DeviceQueue;
      if (queue.vhost.serving && queue.ring.enableKicks()) more = true;
      if (queue.dirty) this.flush(queue);
    }
    return more;
  }

  stop(): void {
    this.backend?.close('daemon stops');
    if (this.listener >= 0) close(this.listener);
    this.listener = -1;
  }

  // -- BackendOwner -------------------------------------------------------------------------------------------------

  watchKick(ring: BackendRing): number {
    return this.epoll.add(ring.kickFd, READABLE, TOKEN.KICK + ring.index);
  }

  unwatchKick(ring: BackendRing): void {
    this.epoll.remove(ring.kickFd);
  }

  ringStarted(ring: BackendRing, resumed: boolean): void {
    let queue = this.queues.find((q) => q.index === ring.index);
    if (queue === undefined) {
      queue = { index: ring.index, ring: ring.vring, vhost: ring, running: false, life: 0, dirty: false, depth: 0 };
      this.queues.push(queue);
      this.queues.sort((a, b) => a.index - b.index); // hiprio is 0 and comes first
    }
    queue.running = true;
    queue.dirty = false;
    if (resumed) {
      this.session.resumeDeferred();
    } else {
      queue.life++;
      this.session.dropParked((slot) => this.port.isGone(slot));
    }
  }

  /** What the ring holds is served in the same turn of the loop: the message that enabled it came from there. */
  ringEnabled(): void {}

  ringStopping(ring: BackendRing): void {
    const queue = this.queues.find((q) => q.index === ring.index);
    if (queue === undefined) return;
    this.io.settle(SETTLE_MS);
    queue.running = false;
    queue.dirty = false; // the library publishes what is complete
  }

  /** Addresses are translated for each request and again at its end: there is nothing to forget. */
  memoryChanged(): void {}

  reset(cause: 'device' | 'status'): void {
    if (cause === 'device') this.endSession();
  }

  disconnected(reason: string): void {
    this.log('info', `VMM disconnected: ${reason}`);
    this.endSession();
    for (const queue of this.queues) this.found(queue, 0);
    this.queues = [];
    this.backend = null;
    this.onSession(false);
    this.watchListener();
  }

  private endSession(): void {
    for (const queue of this.queues) {
      queue.running = false;
      queue.life++;
    }
    this.session.dropParked((slot) => this.port.isGone(slot));
    this.session.endSession();
  }

  warn(text: string): void {
    this.log('warn', text);
  }
}
