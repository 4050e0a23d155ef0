/**
 * Entry of the device thread: one transport, one union of members, one loop that never ends before `stop`.
 *
 * Its event loop never runs: nothing below uses a Promise, a timer or the console. It posts to main through the port
 * (that wakes main by itself) and is woken by an eventfd that main writes after posting.
 */
import { getHeapStatistics } from 'node:v8';
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { explain } from '../common/app-error.ts';
import { Garbage } from '../common/garbage.ts';
import { DevFuse } from '../fuse/dev-fuse.ts';
import { FileStats } from '../fuse/file-stats.ts';
import type { Session } from '../fuse/session.ts';
import { Stats } from '../fuse/stats.ts';
import { Arena } from '../sys/arena.ts';
import { errno, errnoText } from '../sys/errno.ts';
import { close } from '../sys/io.ts';
import { umask } from '../sys/path.ts';
import { drain, Epoll, eventfd } from '../sys/wait.ts';
import { createMember, type MemberEnvironment } from '../vfs/members.ts';
import { Union } from '../vfs/union.ts';
import type { DeviceThreadData, FromDevice, MemberSpec, ToDevice } from './control.ts';
import { pollingPays } from './cpus.ts';
import { VirtioFsDevice } from './device.ts';
import { DeviceIo } from './device-io.ts';
import { DeviceLog } from './device-log.ts';
import { restoreDevice, saveDevice } from './hand-over.ts';
import { type LoopBody, READABLE, runLoop, TOKEN } from './loop.ts';
import { Polling } from './polling.ts';

const EVENTS_PER_WAIT = 64;

/** What both transports have in common here. */
interface Transport {
  readonly session: Session;
  start(): string | null;
  stop(): void;
}

class DeviceThread implements LoopBody {
  private readonly wakeFd: number;
  private readonly uringFd = eventfd();
  private readonly epoll = new Epoll(EVENTS_PER_WAIT);
  private readonly stats: Stats;
  private readonly log: DeviceLog;
  private readonly io: DeviceIo;
  private union = new Union(Arena.create());
  private readonly virtio: VirtioFsDevice | null;
  private readonly fuse: DevFuse | null;
  private readonly transport: Transport;
  /** Blob handles of each image mounted, given back when it is gone. */
  private readonly blobs = new Map<number, number[]>();
  /** Waits for `restore` in place of starting the transport. */
  private readonly succeeds: boolean;
  private leaving = false;

  constructor(
    data: DeviceThreadData,
    private readonly port: NonNullable<typeof parentPort>,
  ) {
    const post = (message: FromDevice): void => port.postMessage(message);
    this.log = new DeviceLog(data.logLevel, post);
    this.stats = new Stats(data.stats);
    this.wakeFd = data.wakeFd;
    const say = (level: 'error' | 'warn' | 'info', text: string): void => this.log.write(level, text);
    this.io = new DeviceIo(this.uringFd, post, say, (ticket, result) =>
      this.transport.session.complete(ticket, result),
    );
    const { transport: spec } = data;
    if (spec.kind === 'virtiofs') {
      const garbage = new Garbage(() => getHeapStatistics().used_heap_size);
      this.virtio = new VirtioFsDevice(this.union, this.io, this.epoll, spec, this.stats, say, (connected) => {
        post({ type: 'session', connected });
        if (!connected) garbage.collectIfGrown(); // nobody waits for this thread now
      });
      this.fuse = null;
      this.transport = this.virtio;
    } else {
      this.virtio = null;
      this.fuse = new DevFuse(this.union, this.io, this.stats, say, spec);
      this.transport = this.fuse;
    }
    this.union.onMemberGone = (member) => this.memberGone(member);
    this.succeeds = spec.kind === 'fuse' && spec.succeeds;
  }

  run(): void {
    umask(0); // modes come from the guest, which has applied its own umask
    this.epoll.add(this.wakeFd, READABLE, TOKEN.WAKE);
    this.epoll.add(this.uringFd, READABLE, TOKEN.URING);
    const failed = this.succeeds ? null : this.transport.start();
    if (failed !== null) {
      this.port.postMessage({ type: 'failed', message: failed } satisfies FromDevice);
      return;
    }
    if (this.fuse !== null && !this.succeeds) this.epoll.add(this.fuse.fd, READABLE, TOKEN.FUSE);
    this.port.postMessage({ type: 'ready' } satisfies FromDevice);
    runLoop(this.epoll, this, new Polling(this.virtio !== null && pollingPays()), this.stats);
  }

  // -- LoopBody -----------------------------------------------------------------------------------------------------

  event(token: number): void {
    if (token === TOKEN.WAKE) this.receive();
    else if (token === TOKEN.URING) {
      drain(this.uringFd);
      this.io.reap();
    } else if (token === TOKEN.FUSE) {
      if (this.fuse !== null && !this.fuse.onReadable()) this.unmounted();
    } else this.virtio?.event(token);
  }

  serve(): number {
    return this.virtio === null ? 0 : this.virtio.serve();
  }

  beforeSleep(): boolean {
    this.union.collect(); // members replaced by a remount whose last file was closed
    return this.virtio?.beforeSleep() ?? false;
  }

  stopped(): boolean {
    return this.leaving;
  }

  failed(error: unknown): void {
    this.log.error(`device loop: ${explain(error)}`);
  }

  private unmounted(): void {
    if (this.fuse === null) return;
    this.epoll.remove(this.fuse.fd);
    this.port.postMessage({ type: 'unmounted' } satisfies FromDevice);
  }

  // -- control ------------------------------------------------------------------------------------------------------

  private receive(): void {
    drain(this.wakeFd);
    for (;;) {
      const got = receiveMessageOnPort(this.port);
      if (got === undefined) return;
      const message = got.message as ToDevice;
      try {
        this.control(message);
      } catch (error) {
        // Main waits for an answer, and what is behind it has no wake-up of its own.
        this.failed(error);
        if ('id' in message) this.answer(message.id, -errno.EIO, explain(error));
      }
      if (this.leaving) return;
    }
  }

  private control(message: ToDevice): void {
    switch (message.type) {
      case 'mount':
      case 'remount':
        this.mount(message);
        return;
      case 'umount':
        this.umount(message.id, message.path);
        return;
      case 'io':
        this.io.byMainDone(message.ticket);
        this.transport.session.complete(message.ticket, message.result);
        return;
      case 'fetched':
        this.transport.session.complete(message.ticket, message.result);
        return;
      case 'log-level':
        this.log.level = message.level;
        return;
      case 'ping':
        this.stats.tick(); // who asks reads the counters next: what was answered is in them
        this.answer(message.id, 0, '');
        return;
      case 'save':
        this.attempt(message.id, (fuse) => this.save(message.id, fuse));
        return;
      case 'restore':
        this.attempt(message.id, (fuse) => this.restore(fuse, message));
        return;
      case 'take-over':
        this.attempt(message.id, (fuse) => this.takeOver(message.id, fuse));
        return;
      case 'stop':
        this.stop(message.id, message.leaveMount);
        return;
    }
  }

  // -- from one process to the next ---------------------------------------------------------------------------------

  private attempt(id: number, step: (fuse: DevFuse) => void): void {
    if (this.fuse === null) {
      this.answer(id, -errno.EOPNOTSUPP, 'only /dev/fuse can be handed over');
      return;
    }
    try {
      step(this.fuse);
    } catch (error) {
      this.answer(id, -errno.EINVAL, explain(error));
    }
  }

  private save(id: number, fuse: DevFuse): void {
    const saved = { fd: fuse.fd, device: saveDevice(this.union, fuse) };
    this.port.postMessage({ type: 'answer', id, error: null, saved } satisfies FromDevice);
  }

  private restore(fuse: DevFuse, { id, fd, saved, files }: Extract<ToDevice, { type: 'restore' }>): void {
    const { union, bootstrapFds } = restoreDevice(saved, { log: this.log, fetch: this.fetch }, fuse);
    this.union.destroy();
    this.union.arena.close();
    this.union = union;
    union.onMemberGone = (member) => this.memberGone(member);
    for (const [i, mount] of saved.union.mounts.entries()) {
      if (mount.spec !== null) this.keep(mount.id, mount.spec, files[i] ?? null);
    }
    fuse.adopt(fd);
    this.port.postMessage({ type: 'answer', id, error: null, bootstrapFds } satisfies FromDevice);
  }

  private takeOver(id: number, fuse: DevFuse): void {
    fuse.takeOver();
    this.epoll.add(fuse.fd, READABLE, TOKEN.FUSE);
    this.answer(id, 0, '');
  }

  private mount({ type: how, id, path, member: spec, files }: Extract<ToDevice, { type: 'mount' | 'remount' }>): void {
    const allowed = how === 'mount' ? this.union.check(path) : 0;
    if (allowed < 0) {
      this.answer(id, allowed, `${how} on ${path}: ${errnoText(allowed)}`);
      return;
    }
    const memberId = this.union.newMemberId();
    try {
      const { log, fetch } = this;
      const member = createMember(spec, { id: memberId, arena: this.union.arena, log, fetch });
      const union = this.union;
      const result =
        how === 'mount' ? union.mount(path, member, spec, memberId) : union.remount(path, member, spec, memberId);
      // After an error main still owns the bootstrap descriptor of an image; a directory's descriptors are the member's.
      if (result < 0 && spec.kind === 'passthrough') member.destroy();
      if (result === 0) {
        this.keep(memberId, spec, files);
        this.fuse?.forgetRoot();
      }
      this.answer(id, result, `${how} on ${path}: ${errnoText(result)}`, memberId);
    } catch (error) {
      // An AppError of the member says what is wrong with the image or the directory; the errno is for machines.
      this.answer(id, -errno.EINVAL, explain(error));
    }
  }

  private readonly fetch: MemberEnvironment['fetch'] = (ticket, blob, chunks, isPartial) => {
    const { request } = this.transport.session;
    // Run again, it may ask for what another blob has of it.
    if (request.attempt === 0) this.stats.missed(request.nodeHigh, isPartial);
    this.port.postMessage({ type: 'fetch', ticket, blob, chunks } satisfies FromDevice);
  };

  private keep(memberId: number, spec: MemberSpec, files: SharedArrayBuffer | null): void {
    this.stats.mounted(memberId, files === null ? null : new FileStats(files));
    if (spec.kind !== 'rafs') return;
    this.blobs.set(
      memberId,
      spec.blobs.map((blob) => blob.handle),
    );
  }

  private umount(id: number, path: string): void {
    const result = this.union.umount(path);
    if (result === 0) this.fuse?.forgetRoot();
    this.answer(id, result, `umount of ${path}: ${errnoText(result)}`);
  }

  /** The last use of a member ended: what is parked there gets an answer, main may close its blobs. */
  private memberGone(memberId: number): void {
    this.transport.session.failParkedOf(memberId, -errno.ESTALE);
    this.stats.unmounted(memberId);
    const blobs = this.blobs.get(memberId);
    if (blobs === undefined) return;
    this.blobs.delete(memberId);
    this.port.postMessage({ type: 'released', blobs } satisfies FromDevice);
  }

  private answer(id: number, result: number, text: string, member = 0): void {
    const error = result < 0 ? { errno: -result, message: text } : null;
    this.port.postMessage({ type: 'answer', id, error, member } satisfies FromDevice);
  }

  private stop(id: number, leaveMount: boolean): void {
    this.leaving = true;
    if (leaveMount && this.fuse !== null) this.fuse.leave();
    else this.transport.stop();
    this.union.destroy();
    close(this.uringFd);
    this.answer(id, 0, '');
  }
}

const data = workerData as DeviceThreadData;
if (parentPort !== null) new DeviceThread(data, parentPort).run();
