/**
 * The main thread's end of one device thread: starts the worker, asks it things, hands on what it asks for.
 *
 * The device thread sleeps in a native wait and never runs its event loop, so every post is followed by a write to its
 * eventfd.
 */
import { Worker } from 'node:worker_threads';
import { explain } from '../common/app-error.ts';
import type { LogLevel } from '../common/log.ts';
import { errnoText } from '../sys/errno.ts';
import { eventfd, notify } from '../sys/wait.ts';
import type { DeviceThreadData, FromDevice, MemberSpec, SavedDevice, ToDevice } from '../virtiofs/control.ts';
import { daemonError } from './errors.ts';

/** Who has no answer by then is told that the thread is stuck: clients have 30 s. */
export const ANSWER_MS_MAX = 20_000;

type Fetch = Extract<FromDevice, { type: 'fetch' }>;
type Io = Extract<FromDevice, { type: 'io' }>;

/** What the device thread wants from main. */
export interface DeviceHandlers {
  fetch(request: Fetch): void;
  io(request: Io): void;
  log(level: LogLevel, text: string): void;
  session(connected: boolean): void;
  unmounted(): void;
  /** Blobs that the device thread will not touch again. */
  released(blobs: readonly number[]): void;
  /** The thread ended although nobody asked it to. */
  gone(reason: string): void;
}

export interface DeviceAnswer {
  /** Id under which requests of what was mounted are counted. */
  member: number;
  /** Blobs that the device thread will not touch again; more may follow as `released` when open files are closed. */
  blobs: number[];
  /** Of `save`. */
  saved?: SavedAnswer | undefined;
  /** Of `restore`: the numbers that the bootstraps have now, in the order of the saved mounts. */
  bootstrapFds?: number[] | undefined;
}

/** What a successor needs. The descriptor stays the device thread's. */
type SavedAnswer = NonNullable<Extract<FromDevice, { type: 'answer' }>['saved']>;

interface Waiter {
  resolve(answer: DeviceAnswer): void;
  reject(error: unknown): void;
  /** Undefined: it is waited for as long as the thread lives. */
  timer: NodeJS.Timeout | undefined;
}

/** The thread is stuck. */
export const noAnswer = (waitedMs: number) =>
  daemonError('DEVICE_GONE', { reason: `none within ${waitedMs / 1000} s` });

export class Device {
  /** Resolves when the socket listens or the directory is mounted; rejects with TRANSPORT when that cannot be. */
  readonly ready: Promise<void>;
  private readonly worker: Worker;
  private readonly waiters = new Map<number, Waiter>();
  private readonly wakeFd: number;
  private lastId = 0;
  private stopping = false;
  private dead = false;

  /** @param entry script of the worker; it gets `data` as workerData */
  constructor(
    entry: string,
    data: Omit<DeviceThreadData, 'wakeFd'>,
    private readonly handlers: DeviceHandlers,
  ) {
    this.wakeFd = eventfd();
    if (this.wakeFd < 0) throw daemonError('TRANSPORT', { reason: `eventfd: ${errnoText(this.wakeFd)}` });
    this.worker = new Worker(entry, { workerData: { ...data, wakeFd: this.wakeFd } satisfies DeviceThreadData });
    this.ready = new Promise((resolve, reject) => {
      this.worker.on('message', (message: FromDevice) => {
        if (message.type === 'ready') resolve();
        else if (message.type === 'failed') {
          reject(daemonError('TRANSPORT', { reason: message.message }));
        } else this.receive(message);
      });
      this.worker.on('error', (error) => {
        reject(error);
        this.ended(explain(error));
      });
      this.worker.on('exit', (code) => {
        reject(daemonError('DEVICE_GONE', { reason: `it ended with exit code ${code}` }));
        this.ended(`exit code ${code}`);
      });
    });
    // Whoever awaits `ready` sees the rejection; a late one after `ready` resolved is no event at all.
    this.ready.catch(() => {});
  }

  // Changes: a thread that is stuck makes them when it goes on, and has what belongs to them until it has said how they
  // ended. So their answers are waited for without a limit.

  mount(path: string, member: MemberSpec, files: SharedArrayBuffer | null): Promise<DeviceAnswer> {
    return this.ask((id) => ({ type: 'mount', id, path, member, files }), null);
  }

  remount(path: string, member: MemberSpec, files: SharedArrayBuffer | null): Promise<DeviceAnswer> {
    return this.ask((id) => ({ type: 'remount', id, path, member, files }), null);
  }

  umount(path: string): Promise<DeviceAnswer> {
    return this.ask((id) => ({ type: 'umount', id, path }), null);
  }

  /** Resolves when the thread's loop has come round. @throws AppError DEVICE_GONE */
  ping(): Promise<DeviceAnswer> {
    return this.ask((id) => ({ type: 'ping', id }));
  }

  /** What a successor needs to go on with this device. @throws AppError DEVICE when something mounted cannot travel */
  async save(): Promise<SavedAnswer> {
    const { saved } = await this.ask((id) => ({ type: 'save', id }));
    if (saved === undefined) throw daemonError('DEVICE_GONE', { reason: 'it saved nothing' });
    return saved;
  }

  /** Goes on with what a predecessor saved; owns `fd` and the bootstraps afterwards. @throws AppError DEVICE */
  restore(fd: number, saved: SavedDevice, files: (SharedArrayBuffer | null)[]): Promise<DeviceAnswer> {
    return this.ask((id) => ({ type: 'restore', id, fd, saved, files }), null);
  }

  /** Serves what was restored. */
  takeOver(): Promise<DeviceAnswer> {
    return this.ask((id) => ({ type: 'take-over', id }));
  }

  /** Tells the thread to unmount (or leave the mount to a successor), close its sockets and leave its loop. */
  stop(leaveMount: boolean): Promise<DeviceAnswer> {
    this.stopping = true;
    return this.ask((id) => ({ type: 'stop', id, leaveMount }));
  }

  /** Posts and wakes. */
  post(message: ToDevice): void {
    this.worker.postMessage(message);
    notify(this.wakeFd);
  }

  /** @param limitMs null: as long as the thread lives */
  private ask(build: (id: number) => ToDevice, limitMs: number | null = ANSWER_MS_MAX): Promise<DeviceAnswer> {
    if (this.dead) return Promise.reject(daemonError('DEVICE_GONE', { reason: 'it ended earlier' }));
    const id = ++this.lastId;
    return new Promise((resolve, reject) => {
      const late = (waitedMs: number) => {
        this.waiters.delete(id);
        reject(noAnswer(waitedMs));
      };
      const timer = limitMs === null ? undefined : setTimeout(late, limitMs, limitMs);
      this.waiters.set(id, { resolve, reject, timer });
      this.post(build(id));
    });
  }

  private receive(message: Exclude<FromDevice, { type: 'ready' | 'failed' }>): void {
    switch (message.type) {
      case 'answer':
        this.answered(message);
        break;
      case 'fetch':
        this.handlers.fetch(message);
        break;
      case 'io':
        this.handlers.io(message);
        break;
      case 'log':
        this.handlers.log(message.level, message.text);
        break;
      case 'session':
        this.handlers.session(message.connected);
        break;
      case 'unmounted':
        this.handlers.unmounted();
        break;
      case 'released':
        this.handlers.released(message.blobs);
        break;
    }
  }

  private answered(message: Extract<FromDevice, { type: 'answer' }>): void {
    const waiter = this.waiters.get(message.id);
    if (waiter === undefined) return;
    this.waiters.delete(message.id);
    clearTimeout(waiter.timer);
    const { blobs = [], member = 0, saved, bootstrapFds } = message;
    if (message.error === null) waiter.resolve({ blobs, member, saved, bootstrapFds });
    else waiter.reject(daemonError('DEVICE', { errno: message.error.errno, text: message.error.message }));
  }

  private ended(reason: string): void {
    if (this.dead) return;
    this.dead = true;
    for (const waiter of this.waiters.values()) {
      clearTimeout(waiter.timer);
      waiter.reject(daemonError('DEVICE_GONE', { reason }));
    }
    this.waiters.clear();
    if (!this.stopping) this.handlers.gone(reason);
  }
}
