/** Starts a device thread over a ParkFs for a test file, and gives commands to it. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { Worker } from 'node:worker_threads';
import { bundleWorker } from '../../common/bundle.testing.ts';
import { STATS_BYTES } from '../../fuse/stats-layout.ts';
import { StatsView } from '../../fuse/stats-view.ts';
import { eventfd, notify } from '../../sys/wait.ts';
import { listenAt } from '../../vhost/listener.ts';
import { COMMAND, type DeviceWorkerData, SHARED } from './device-worker.ts';

const COMMAND_TIMEOUT_MS = 20_000;

export class DeviceRig {
  readonly sock: string;
  private readonly counters = new SharedArrayBuffer(STATS_BYTES);
  readonly stats = new StatsView(this.counters);
  /** Words of the control block, see SHARED; fresh after each command. */
  readonly shared: Int32Array;
  private readonly dir = fs.mkdtempSync(path.join(os.tmpdir(), 'device-'));
  private readonly wakeFd = eventfd();
  private readonly bundle: string;
  private readonly worker: Worker;

  constructor() {
    this.sock = path.join(this.dir, 's');
    const control = new SharedArrayBuffer(64);
    this.shared = new Int32Array(control);
    this.bundle = bundleWorker(new URL('./device-worker.ts', import.meta.url));
    const workerData: DeviceWorkerData = {
      fd: listenAt(this.sock),
      wakeFd: this.wakeFd,
      control,
      stats: this.counters,
      polling: true,
    };
    this.worker = new Worker(this.bundle, { workerData, execArgv: [] });
    this.worker.on('error', (error) => process.stderr.write(`device thread: ${error.stack}\n`));
  }

  /** Runs a command on the device thread and waits until it is done. */
  command(code: number): void {
    Atomics.store(this.shared, SHARED.COMMAND, code);
    notify(this.wakeFd);
    const waited = Atomics.wait(this.shared, SHARED.COMMAND, code, COMMAND_TIMEOUT_MS);
    if (waited === 'timed-out') assert.fail('the device thread is stuck');
  }

  parked(): number {
    this.command(COMMAND.LOOK);
    return this.shared[SHARED.PARKED] as number;
  }

  /** Waits until `count` requests are parked: they are served by another thread. */
  waitParked(count: number): void {
    for (let i = 0; i < 200; i++) {
      if (this.parked() === count) return;
      this.pause(10);
    }
    assert.equal(this.parked(), count);
  }

  /** Blocks this thread. */
  pause(ms: number): void {
    Atomics.wait(this.shared, SHARED.DONE, 0, ms);
  }

  async stop(): Promise<void> {
    this.command(COMMAND.STOP);
    await this.worker.terminate();
    fs.rmSync(this.dir, { recursive: true });
    fs.rmSync(this.bundle);
  }
}
