/**
 * Which byte ranges to ask the backend for, given the chunks that readers wait for. Pure: no I/O, no clock of its own.
 *
 * Neighbouring chunks become one request. Small gaps are read over and a window behind a wanted chunk is read ahead; where
 * that is there already, what is left of the window goes backwards, for programs read their folders in no order. All that
 * only within a budget: bytes nobody asked for are speculation, and `speculation.ts` bounds how much of it can be wrong. A cold
 * read of one file therefore never fetches more than SPECULATION_BYTES_MAX beyond its own chunks. Who waits for a chunk does
 * not wait for what lies before it: that is a request of its own, side by side.
 *
 * Each file that is begun gives a window of its own. `npm run bench -- coldstart` (Python / the 60 files) with windows of
 * several sizes, forward only; ms = requests at 5.5 ms and bytes at 100 MB/s, one after the other; CPU of the daemon on a
 * busy machine, ms:
 *
 *   window    none     128 KiB  256 KiB  512 KiB  768 KiB  1 MiB   | nydusd 2.2, 1 MiB
 *   requests  112/80   51/58    41/52    33/47    29/45    25/37   | 29/44
 *   MB        8.6/12   12/16    13/19    16/23    17/28    18/33   | 19/32
 *   ms        702/562  400/483  357/477  339/492  325/526  322/529 | 348/566
 *   CPU                389/593  376/702  390/834  425/893          | 150/455
 *
 * 768 KiB ask least often of those that fetch less than nydusd. One such window for all files together took 100/80 requests.
 *
 * With 768 KiB, and the recorded demands of both programs played through a model of the bench's server (8 ms for a request,
 * a line of 100 MB/s that requests share). Short files come whole: `rafs/read-ahead.ts`.
 *
 *   short files whole   no       yes      yes      yes      yes      yes      no
 *   backwards, KiB      0        0        256      512      768      512      512
 *   side by side                          yes      yes      yes      no       yes
 *   waited for          28/43    21/35    20/35    17/35    17/35    17/35    24/43
 *   MB                  16/27    16/27    17/28    17/29    17/30    17/29    17/29
 *   ms                  470/608  400/531  392/531  365/531  368/536  378/551  435/608
 *
 * No better: windows around the chunk, or aligned ones (more bytes for as many requests); windows that end before large
 * chunks; windows twice as long where another file was begun within 2 MiB (13 misses, but they wait for more bytes).
 */
import type { Charge } from './speculation.ts';
import type { ChunkInfo } from './tables/blob-layout.ts';

/** A chunk with its number. */
export interface PlannedChunk {
  index: number;
  info: ChunkInfo;
}

/** One ranged request and the chunks it brings, in order of their offset. */
export interface FetchRange {
  offset: number;
  bytes: number;
  chunks: PlannedChunk[];
}

/** Speculative bytes before a wanted chunk: half of the window behind one, for most files lie in the order they are used in. */
export const BEFORE_BYTES_MAX = 512 << 10;
/** Gaps up to this are read over: at 100 MB/s as dear as 0.6 ms, and a request costs a round trip. */
export const GAP_BYTES_MAX = 64 << 10;
/** Between small files of a tar lie headers, of links and empty files too: at 100 MB/s 80 µs, a request costs a round trip. */
export const HEADER_GAP_BYTES = 8 << 10;
/** A request ends here, so that its first chunk is not kept waiting by its last; one chunk may be longer. */
export const RANGE_BYTES_MAX = 2 << 20;
/** Members of one unit looked for on each side of a wanted one: 16 MiB of chunks of 4 KiB. */
const UNIT_CHUNKS_MAX = 4096;
/** And after this many chunks, however well they compress: each costs some 50 µs of main thread. */
export const RANGE_CHUNKS_MAX = 1024;

export interface PlanInput {
  /** Chunks to fetch, each once: those somebody waits for, and what shall come with them. */
  wanted: readonly PlannedChunk[];
  isAwaited: (index: number) => boolean;
  chunkCount: number;
  infoOf: (index: number) => ChunkInfo;
  /** True for chunks that are neither in the cache nor being fetched. */
  isMissing: (index: number) => boolean;
  /** Range size up to which a range is read ahead (`amplify_io`). */
  windowBytes: number;
  /** Bytes beyond the demand that this plan may add. */
  budgetBytes: number;
}

export interface Plan {
  /** Those that somebody waits for go first. */
  ranges: FetchRange[];
  /** Chunks added to the wanted ones. */
  extras: PlannedChunk[];
  /** Speculative bytes by range end, to be charged. */
  charges: Charge[];
}

/** Plans the requests for `wanted`. Every wanted chunk is in exactly one range; extras are missing chunks only. */
export function planFetch(input: PlanInput): Plan {
  let budget = input.windowBytes === 0 ? 0 : input.budgetBytes;
  const extras: PlannedChunk[] = [];
  const charges: Plan['charges'] = [];
  const { isAwaited } = input;
  const mayJoin: Joining['mayJoin'] = (before, after, gap) => {
    const isWaitedOut = isAwaited(after.index) && !isAwaited(before.index);
    return !isWaitedOut && (gap === 0 || isAllMissing(input, before, after));
  };
  const ranges = mergeChunks(input.wanted, budget, RANGE_BYTES_MAX, GAP_BYTES_MAX, { mayJoin });
  const gaps = ranges.map((range) => Math.max(0, range.bytes - storedBytes(range)));
  budget -= gaps.reduce((sum, bytes) => sum + bytes, 0);
  const early: FetchRange[] = [];
  ranges.forEach((range, position) => {
    const asked = new Set(range.chunks);
    for (const chunk of chunksInGaps(range, input)) append(range, chunk);
    for (const chunk of restOfUnits(range, input)) append(range, chunk);
    range.chunks.sort(byPlace);
    const next = ranges[position + 1];
    const spent = extend(range, next?.offset ?? Number.POSITIVE_INFINITY, budget, input);
    budget -= spent;
    extras.push(...range.chunks.filter((chunk) => !asked.has(chunk)));
    charge(range, gaps[position] + spent);
    const behind = lastIndex(range) + 1;
    if (next?.chunks[0].index === behind || (behind < input.chunkCount && input.isMissing(behind))) return;
    const before = rangeBefore(range, endOf(ranges[position - 1]), budget, input);
    if (before === null) return;
    budget -= before.bytes;
    extras.push(...before.chunks);
    charge(before, before.bytes);
    early.push(before);
  });
  const isUrgent = ({ chunks }: FetchRange) => chunks.some(({ index }) => isAwaited(index));
  const later = ranges.filter((range) => !isUrgent(range));
  return { ranges: [...ranges.filter(isUrgent), ...later, ...early], extras, charges };

  function charge(range: FetchRange, bytes: number): void {
    if (bytes > 0) charges.push({ end: endOf(range), bytes });
  }
}

/** Adds what lies behind a range, up to the window, and not beyond `limit`. @returns speculative bytes */
function extend(range: FetchRange, limit: number, budget: number, input: PlanInput): number {
  let spent = 0;
  for (let next = lastIndex(range) + 1; next < input.chunkCount && input.isMissing(next); next++) {
    const info = input.infoOf(next);
    const end = info.compressedOffset + info.compressedSize;
    // Members of one unit share their bytes, and neighbouring zran units overlap.
    const isNear = info.compressedOffset <= endOf(range) + HEADER_GAP_BYTES;
    const isNext = isNear && info.compressedOffset >= range.offset && end <= limit;
    const cost = Math.max(0, end - endOf(range));
    if (!isNext || isFull(range) || end - range.offset > input.windowBytes || spent + cost > budget) break;
    append(range, { index: next, info });
    spent += cost;
  }
  return spent;
}

/** What lies before a range, not below byte `floor`: a request of its own, so that nobody waits for it. Null = nothing. */
function rangeBefore(range: FetchRange, floor: number, budget: number, input: PlanInput): FetchRange | null {
  const limit = Math.min(budget, input.windowBytes, BEFORE_BYTES_MAX);
  if (limit === 0) return null;
  const from = Math.max(floor, range.offset - limit);
  const chunks: PlannedChunk[] = [];
  let offset = range.offset;
  for (let index = range.chunks[0].index - 1; index >= 0 && input.isMissing(index); index--) {
    const info = input.infoOf(index);
    const end = info.compressedOffset + info.compressedSize;
    const isNext = info.compressedOffset >= from && end >= offset && end <= range.offset;
    if (!isNext || info.compressedOffset > offset || chunks.length >= RANGE_CHUNKS_MAX) break;
    chunks.push({ index, info });
    offset = info.compressedOffset;
  }
  return mergeChunks(chunks, 0)[0] ?? null;
}

/** What the cache has is not fetched again for the sake of its neighbours. */
function isAllMissing({ isMissing }: PlanInput, before: PlannedChunk, after: PlannedChunk): boolean {
  if (after.index - before.index > GAP_BYTES_MAX) return false;
  for (let index = before.index + 1; index < after.index; index++) if (!isMissing(index)) return false;
  return true;
}

export interface Joining {
  /** Gaps up to this cost nothing of the budget. */
  freeGapBytes?: number;
  mayJoin?: (before: PlannedChunk, after: PlannedChunk, gap: number) => boolean;
}

/**
 * Joins chunks whose stored bytes are neighbours, or at most `gapBytesMax` apart as long as all gaps together stay
 * within `gapBudgetBytes`, and `mayJoin` has nothing against it. A range of several chunks is at most `rangeBytesMax` long.
 */
export function mergeChunks(
  chunks: readonly PlannedChunk[],
  gapBudgetBytes: number,
  rangeBytesMax = RANGE_BYTES_MAX,
  gapBytesMax = GAP_BYTES_MAX,
  { freeGapBytes = 0, mayJoin = () => true }: Joining = {},
): FetchRange[] {
  const sorted = [...chunks].sort(byPlace);
  const ranges: FetchRange[] = [];
  let budget = gapBudgetBytes;
  for (const chunk of sorted) {
    const { compressedOffset, compressedSize } = chunk.info;
    const current = ranges[ranges.length - 1];
    if (current !== undefined) {
      const gap = Math.max(0, compressedOffset - (current.offset + current.bytes));
      const bytes = compressedOffset + compressedSize - current.offset;
      const isFree = bytes <= current.bytes;
      const cost = gap <= freeGapBytes ? 0 : gap;
      const isNear = gap <= gapBytesMax && cost <= budget && bytes <= rangeBytesMax && !isFull(current);
      if (isFree || (isNear && mayJoin(current.chunks[current.chunks.length - 1], chunk, gap))) {
        append(current, chunk);
        budget -= cost;
        continue;
      }
    }
    ranges.push({ offset: compressedOffset, bytes: compressedSize, chunks: [chunk] });
  }
  return ranges;
}

/** By what is stored, then as numbered: members of one unit stay together. */
function byPlace(a: PlannedChunk, b: PlannedChunk): number {
  return a.info.compressedOffset - b.info.compressedOffset || a.index - b.index;
}

function isFull(range: FetchRange): boolean {
  return range.chunks.length >= RANGE_CHUNKS_MAX;
}

function append(range: FetchRange, chunk: PlannedChunk): void {
  range.chunks.push(chunk);
  const end = chunk.info.compressedOffset + chunk.info.compressedSize;
  range.bytes = Math.max(range.bytes, end - range.offset);
}

/** Missing chunks whose bytes a range reads over anyway. */
function chunksInGaps(range: FetchRange, input: PlanInput): PlannedChunk[] {
  const found: PlannedChunk[] = [];
  for (let i = 1; i < range.chunks.length; i++) {
    const before = range.chunks[i - 1];
    const after = range.chunks[i];
    const from = before.info.compressedOffset + before.info.compressedSize;
    if (after.info.compressedOffset <= from) continue;
    // Chunks have at least one stored byte each, so a gap bounds how many indexes are looked at.
    const last = Math.min(after.index, before.index + 1 + GAP_BYTES_MAX, input.chunkCount);
    for (let index = before.index + 1; index < last; index++) {
      const info = input.infoOf(index);
      const isInside =
        info.compressedOffset >= from && info.compressedOffset + info.compressedSize <= after.info.compressedOffset;
      if (!isInside) break;
      if (input.isMissing(index)) found.push({ index, info });
    }
  }
  return found;
}

/** Missing chunks that come out of the units of a range for nothing: they are decoded with the wanted ones. */
function restOfUnits(range: FetchRange, input: PlanInput): PlannedChunk[] {
  const found: PlannedChunk[] = [];
  const seen = new Set(range.chunks.map(({ index }) => index));
  const units = new Set<string>();
  for (const chunk of [...range.chunks]) {
    const unit = unitKey(chunk);
    if (chunk.info.unit === undefined || units.has(unit)) continue;
    units.add(unit);
    for (const step of [-1, 1]) {
      for (let i = 1; i <= UNIT_CHUNKS_MAX; i++) {
        const index = chunk.index + step * i;
        if (index < 0 || index >= input.chunkCount) break;
        const member = { index, info: input.infoOf(index) };
        if (member.info.unit === undefined || unitKey(member) !== unit) break;
        if (!seen.has(index) && input.isMissing(index)) found.push(member);
        seen.add(index);
      }
    }
  }
  return found;
}

/** Chunks with equal keys come out of one stored unit; that of a chunk stored alone is its own. */
export function unitKey({ index, info }: PlannedChunk): string {
  return info.unit === undefined ? `chunk ${index}` : `${info.unit.kind} ${info.compressedOffset} ${info.high}`;
}

/** Stored bytes of a range that somebody asked for; units count once. */
function storedBytes(range: FetchRange): number {
  const units = new Map(range.chunks.map((chunk) => [unitKey(chunk), chunk.info.compressedSize]));
  return [...units.values()].reduce((sum, bytes) => sum + bytes, 0);
}

/** Byte behind a range; 0 before the first. */
function endOf(range: FetchRange | undefined): number {
  return range === undefined ? 0 : range.offset + range.bytes;
}

function lastIndex(range: FetchRange): number {
  return range.chunks[range.chunks.length - 1].index;
}
