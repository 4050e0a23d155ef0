/** A device thread over a ParkFs, steered through shared memory: the device alone, without daemon or storage. */
import { isMainThread, workerData } from 'node:worker_threads';
import { Stats } from '../../fuse/stats.ts';
import { drain, Epoll, eventfd } from '../../sys/wait.ts';
import { VirtioFsDevice } from '../device.ts';
import { DeviceIo } from '../device-io.ts';
import { type LoopBody, READABLE, runLoop, TOKEN } from '../loop.ts';
import { Polling } from '../polling.ts';
import { ParkFs } from './park-fs.ts';

/** Words of the shared control block. */
export const SHARED = { COMMAND: 0, PARKED: 1, RESETS: 2, DONE: 3, HEAP: 4 } as const;
export const COMMAND = { NONE: 0, COMPLETE_ALL: 1, STOP: 2, LOOK: 3 } as const;

export interface DeviceWorkerData {
  fd: number;
  wakeFd: number;
  control: SharedArrayBuffer;
  stats: SharedArrayBuffer;
  polling: boolean;
}

class TestDevice implements LoopBody {
  private readonly shared: Int32Array;
  private readonly epoll = new Epoll(64);
  private readonly fs = new ParkFs();
  private readonly device: VirtioFsDevice;
  private leaving = false;

  constructor(private readonly data: DeviceWorkerData) {
    this.shared = new Int32Array(data.control);
    const stats = new Stats(data.stats);
    const io = new DeviceIo(
      eventfd(),
      () => {},
      () => {},
      () => {},
    );
    const spec = {
      kind: 'virtiofs',
      sock: null,
      fd: data.fd,
      fdIs: 'listening',
      tag: 'test',
      requestQueues: 2,
    } as const;
    this.device = new VirtioFsDevice(
      this.fs,
      io,
      this.epoll,
      spec,
      stats,
      () => {},
      () => {},
    );
    this.epoll.add(data.wakeFd, READABLE, TOKEN.WAKE);
    const failed = this.device.start();
    if (failed !== null) throw new Error(failed);
    runLoop(this.epoll, this, new Polling(data.polling), stats);
  }

  event(token: number): void {
    if (token !== TOKEN.WAKE) {
      this.device.event(token);
      return;
    }
    drain(this.data.wakeFd);
    const command = Atomics.load(this.shared, SHARED.COMMAND);
    if (command === COMMAND.COMPLETE_ALL) {
      for (const [ticket, result] of this.fs.parked.splice(0)) this.device.session.complete(ticket, result);
    } else if (command === COMMAND.STOP) {
      this.leaving = true;
      this.device.stop();
    }
    this.shared[SHARED.PARKED] = this.device.session.parked.count;
    this.shared[SHARED.RESETS] = this.fs.resets;
    this.shared[SHARED.HEAP] = process.memoryUsage().heapUsed / 1024;
    Atomics.store(this.shared, SHARED.COMMAND, COMMAND.NONE);
    Atomics.notify(this.shared, SHARED.COMMAND);
  }

  serve(): number {
    return this.device.serve();
  }
  beforeSleep(): boolean {
    return this.device.beforeSleep();
  }
  stopped(): boolean {
    return this.leaving;
  }
  failed(error: unknown): void {
    throw error;
  }
}

if (!isMainThread) new TestDevice(workerData as DeviceWorkerData);
