/**
 * How requests are offered.
 *
 * Closed: `depth` requests are always under way; each is published by itself, as the tasks of a guest do it. When nothing
 * is in the used ring the client asks for an interrupt and sleeps on the call eventfd, as a vCPU does.
 *
 * Open: request i is due at start + i / rate, and its latency counts from then, however late it is sent.
 */
import { drain, POLL, pollOne } from '../src/sys/wait.ts';
import { type BenchClient, SLOTS } from './client.ts';
import type { Workload } from './rows.ts';
import { quantile } from './summary.ts';
import { cpuUs, ownCpuUs } from './usage.ts';

const SAMPLES_MAX = 2 ** 18;
const STALL_MS = 5000;

export interface Slice {
  requests: number;
  wallUs: number;
  /** Back end's CPU per request. */
  cpuUs: number;
  p50Us: number;
  p99Us: number;
  /** Part of the time the client's thread was on its core; 1 is all of it. */
  clientBusy: number;
  /** Interrupts the client got. */
  signals: number;
  /** Open loops: how much of one CPU everybody else used meanwhile. */
  others?: number;
}

const samples = new Float64Array(SAMPLES_MAX);
const startedAt = new Float64Array(SLOTS);
const free = new Int32Array(SLOTS);

/** Runs `workload` with `depth` requests under way for `ms`. @param pids the back end's processes */
export function closedLoop(
  client: BenchClient,
  workload: Workload,
  depth: number,
  ms: number,
  pids: readonly number[],
): Slice {
  const { ring } = client;
  let taken = 0;
  let signals = 0;
  let underWay = 0;
  const cpuFrom = pids.reduce((sum, pid) => sum + cpuUs(pid), 0);
  const ownFrom = ownCpuUs();
  const from = performance.now();
  const until = from + ms;
  let seen = from;
  let now = from;
  ring.enableInterrupts();
  for (let slot = 0; slot < depth; slot++) {
    startedAt[slot] = performance.now();
    workload.next(slot);
    ring.submit();
    underWay++;
  }
  while (underWay > 0) {
    let slot = ring.takeUsed();
    if (slot < 0) {
      ring.enableInterrupts();
      slot = ring.takeUsed();
    }
    if (slot < 0) {
      if (pollOne(ring.callFd, POLL.IN, 100) > 0) signals++;
      drain(ring.callFd);
      if (performance.now() - seen > STALL_MS) throw new Error(`${workload.name}: no reply for ${STALL_MS} ms`);
      continue;
    }
    underWay--;
    now = performance.now();
    seen = now;
    workload.check(slot);
    if (workload.isWhole(slot)) {
      samples[taken++ % SAMPLES_MAX] = now - startedAt[slot];
      if (now >= until) continue;
      startedAt[slot] = now;
    }
    workload.next(slot);
    ring.submit();
    underWay++;
  }
  const wallMs = performance.now() - from;
  const ownUs = ownCpuUs() - ownFrom;
  const used = pids.reduce((sum, pid) => sum + cpuUs(pid), 0) - cpuFrom;
  drain(ring.callFd);
  client.settleForgets();
  return slice(taken, wallMs, used, ownUs, signals);
}

/** `count` requests, one after the other. */
export function countedLoop(client: BenchClient, workload: Workload, count: number, pids: readonly number[]): Slice {
  const { ring } = client;
  const cpuFrom = pids.reduce((sum, pid) => sum + cpuUs(pid), 0);
  const ownFrom = ownCpuUs();
  const from = performance.now();
  for (let i = 0; i < count; i++) {
    const startedMs = performance.now();
    workload.next(0);
    ring.submit();
    if (ring.waitUsed(STALL_MS) !== 0) throw new Error(`${workload.name}: no reply for ${STALL_MS} ms`);
    samples[i] = performance.now() - startedMs;
    workload.check(0);
  }
  const wallMs = performance.now() - from;
  const used = pids.reduce((sum, pid) => sum + cpuUs(pid), 0) - cpuFrom;
  client.settleForgets();
  return slice(count, wallMs, used, ownCpuUs() - ownFrom, 0);
}

function slice(taken: number, wallMs: number, usedUs: number, ownUs: number, signals: number): Slice {
  const kept = samples.subarray(0, Math.min(taken, SAMPLES_MAX));
  return {
    requests: taken,
    wallUs: wallMs * 1000,
    cpuUs: usedUs / taken,
    p50Us: quantile(kept, 0.5) * 1000,
    p99Us: quantile(kept, 0.99) * 1000,
    clientBusy: ownUs / (wallMs * 1000),
    signals,
  };
}

/** Offers `rate` requests per second for `ms`. */
export function openLoop(
  client: BenchClient,
  workload: Workload,
  rate: number,
  ms: number,
  pids: readonly number[],
): Slice {
  const { ring } = client;
  const total = Math.floor((rate * ms) / 1000);
  const stepMs = 1000 / rate;
  let freeCount = SLOTS;
  for (let i = 0; i < SLOTS; i++) free[i] = i;
  let sent = 0;
  let taken = 0;
  const cpuFrom = pids.reduce((sum, pid) => sum + cpuUs(pid), 0);
  const ownFrom = ownCpuUs();
  const from = performance.now();
  let seen = from;
  ring.enableInterrupts();
  while (taken < total) {
    const now = performance.now();
    const due = from + sent * stepMs;
    if (sent < total && now >= due && freeCount > 0) {
      const slot = free[--freeCount];
      startedAt[slot] = due;
      workload.next(slot);
      ring.submit();
      sent++;
    }
    for (let slot = ring.takeUsed(); slot >= 0; slot = ring.takeUsed()) {
      seen = performance.now();
      samples[taken++ % SAMPLES_MAX] = seen - startedAt[slot];
      workload.check(slot);
      free[freeCount++] = slot;
    }
    ring.enableInterrupts();
    if (now - seen > STALL_MS) throw new Error(`${workload.name}: no reply for ${STALL_MS} ms`);
  }
  const wallMs = performance.now() - from;
  const used = pids.reduce((sum, pid) => sum + cpuUs(pid), 0) - cpuFrom;
  drain(ring.callFd);
  client.settleForgets();
  return slice(taken, wallMs, used, ownCpuUs() - ownFrom, 0);
}
