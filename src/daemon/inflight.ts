/**
 * `GET /api/v1/metrics/inflight`: requests that are not answered. Those that wait (for a registry, for a disk) are in
 * the device thread's table, and the one it is working on is in its request buffer: a thread that hangs in a system call
 * shows what it hangs in.
 */
import {
  CLOCK_ORIGIN_MS,
  LOOKED_MS,
  PARKED_IN_USE,
  PARKED_REQUEST_BYTES_MAX,
  parkedIn,
  SERVING_ADDRESS,
} from '../fuse/stats-layout.ts';
import { StatsView } from '../fuse/stats-view.ts';
import { IN_HEADER, IN_HEADER_BYTES } from '../fuse/wire/layout.ts';
import { copyMemory } from '../sys/io.ts';
import { NativeMemory } from '../sys/native-memory.ts';

/** kata-contract 4.5; `age_ms` is ours. */
interface InflightRequest {
  inode: number;
  opcode: number;
  unique: number;
  timestamp_secs: number;
  age_ms: number;
}

const WORD = 0x1_0000_0000;

let header: NativeMemory | null = null;

/** All of them, the oldest first. @param shared the counters of a device thread */
export function inflightRequests(shared: SharedArrayBuffer): InflightRequest[] {
  const stats = new StatsView(shared);
  const { saved, sincesMs, next } = parkedIn(shared);
  const originMs = stats.at(CLOCK_ORIGIN_MS);
  const found: InflightRequest[] = [];
  const add = (words: Uint32Array, at: number, sinceMs: number): void => {
    const word = (index: number): number => words[at + index] as number;
    found.push({
      inode: word(IN_HEADER.NODEID) + word(IN_HEADER.NODEID + 1) * WORD,
      opcode: word(IN_HEADER.OPCODE),
      unique: word(IN_HEADER.UNIQUE) + word(IN_HEADER.UNIQUE + 1) * WORD,
      timestamp_secs: Math.floor((originMs + sinceMs) / 1000),
      age_ms: Math.max(0, Math.round(Date.now() - originMs - sinceMs)),
    });
  };
  for (let slot = 0; slot < next.length; slot++) {
    if (next[slot] === PARKED_IN_USE) add(saved, (slot * PARKED_REQUEST_BYTES_MAX) / 4, sincesMs[slot] as number);
  }
  const address = stats.at(SERVING_ADDRESS);
  if (address !== 0) {
    header ??= new NativeMemory(IN_HEADER_BYTES);
    copyMemory(header.address, address, IN_HEADER_BYTES);
    if (header.u32[IN_HEADER.OPCODE] !== 0) add(header.u32, 0, stats.at(LOOKED_MS));
  }
  return found.sort((a, b) => b.age_ms - a.age_ms);
}
