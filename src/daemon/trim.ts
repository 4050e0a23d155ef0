/**
 * What a daemon that has started does about its memory: heaps keep their size, large blocks go back to the kernel when
 * they are freed, and pages of Node's own program text that only starting up has used are given back: 30 of 42 MB that
 * a daemon per pod would show as its own. They stay in the page cache, shared by all daemons of a host, and come back by
 * a minor fault (64 KiB around it at once) when they are needed after all.
 */
import { readFileSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { MADV, madvise } from '../sys/memory.ts';
import { mapLargeBlocks } from '../sys/process.ts';

/** Smaller mappings are not worth a system call. */
const TRIM_BYTES_MIN = 256 * 1024;

/** Chunks of up to 16 MiB come and go; in glibc's heaps they left 50 MB of holes after some thousand cases of the fuzzer. */
const MAPPED_BYTES_MIN = 1 << 20;

/**
 * Keeps the young generation of both threads as it is, instead of letting it grow to 48 MiB each: the request path
 * allocates nothing, so that a bigger one would only hold garbage. Not from the start, because it has to grow once
 * while modules load (25 ms of collections otherwise).
 */
export function settleHeap(): void {
  setFlagsFromString('--semi-space-growth-factor=1');
  mapLargeBlocks(MAPPED_BYTES_MIN);
}

/**
 * From now on the old generation is collected when it has grown by half (8 MiB at least), not fourfold: of 8 MB that live,
 * whole-image prefetch made 33 with what it had planned and done. (`scripts/build.mjs` knows all flags that are set here.)
 */
export function collectSooner(): void {
  setFlagsFromString('--heap-growing-percent=50');
}

let trimming: NodeJS.Timeout | null = null;
let trimAtMs = Number.POSITIVE_INFINITY;

/**
 * Trims program text `afterMs` from now, or sooner where somebody has asked for that. It takes some 10 ms of main and slows
 * down whoever needs the pages next: it had better come when a program that is being started from an image has loaded.
 */
export function trimLater(afterMs: number): void {
  const atMs = performance.now() + afterMs;
  if (atMs >= trimAtMs) return;
  if (trimming !== null) clearTimeout(trimming);
  trimAtMs = atMs;
  trimming = setTimeout(() => {
    trimming = null;
    trimAtMs = Number.POSITIVE_INFINITY;
    trimProgramText();
  }, afterMs).unref();
}

/** Drops clean, read-only pages of mapped program files from this process. */
function trimProgramText(): void {
  for (const block of readFileSync('/proc/self/smaps', 'latin1').split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)) {
    const head = /^([0-9a-f]+)-([0-9a-f]+) r-[x-]p \S+ \S+ [1-9]\d* +(\/.*)/.exec(block);
    if (head === null) continue;
    const kib = (name: string): number =>
      Number(new RegExp(`^${name}: +(\\d+) kB`, 'm').exec(block)?.[1] ?? Number.NaN);
    const residentBytes = kib('Rss') * 1024;
    // A page with anonymous memory behind it holds relocations: it exists nowhere else.
    if (!(residentBytes >= TRIM_BYTES_MIN) || kib('Anonymous') !== 0 || kib('Private_Dirty') !== 0) continue;
    const from = Number.parseInt(head[1]!, 16);
    const to = Number.parseInt(head[2]!, 16);
    madvise(from, to - from, MADV.DONTNEED);
  }
}
