/**
 * A range of a blob on its way in: each unit is handed on to be decoded as soon as its last byte has arrived, one after
 * the other, while the rest of the range still comes.
 */
import type { Sink } from '../backend.ts';
import { type FetchRange, type PlannedChunk, unitKey } from '../fetch-plan.ts';

/** Chunks that are stored together. */
export type UnitChunks = readonly PlannedChunk[];

interface Steps {
  /** Decodes, verifies and writes one unit. What it throws ends the range. */
  install: (unit: UnitChunks, stored: Buffer) => Promise<void>;
  /** Of the units that have arrived, one a reader waits for goes first. */
  isWanted: (unit: UnitChunks) => boolean;
  /** All that has arrived so far is installed. What it throws ends the range. */
  idle?: () => Promise<void>;
  /** Told first of all, and with all bytes that arrive; may hold the source up. */
  arrived?: (count: number) => Promise<void> | undefined;
}

export class RangeArrivals implements Sink {
  readonly buffer: Buffer;
  /** By the end of their stored bytes. */
  private readonly units: { end: number; chunks: UnitChunks }[];
  private next = 0;
  private readonly ready: UnitChunks[] = [];
  private draining: Promise<void> | null = null;
  /** Since `idle` was asked last. */
  private isHurried = false;
  private failure: { error: unknown } | null = null;

  /** @param room memory to use again; of no use when it is shorter than the range */
  constructor(
    private readonly range: FetchRange,
    private readonly steps: Steps,
    room: Buffer | null = null,
  ) {
    const fits = room !== null && room.length >= range.bytes;
    this.buffer = fits ? room.subarray(0, range.bytes) : Buffer.allocUnsafeSlow(range.bytes);
    this.units = unitsOf(range);
  }

  arrived(count: number): Promise<void> | undefined {
    while (this.next < this.units.length && this.units[this.next].end <= count) {
      this.ready.push(this.units[this.next++].chunks);
    }
    const held = this.steps.arrived?.(count);
    this.hurry();
    return held;
  }

  /** Looks at what has arrived once more: what was not due before may be now. */
  hurry(): void {
    this.isHurried = true;
    if (this.failure === null) this.draining ??= this.drain();
  }

  /** Resolves when all that arrived is installed. @throws what `install` threw first */
  async installed(): Promise<void> {
    await this.draining;
    if (this.failure !== null) throw this.failure.error;
  }

  private takeNext(): UnitChunks | undefined {
    const wanted = this.ready.length > 1 ? this.ready.findIndex(this.steps.isWanted) : 0;
    return this.ready.splice(Math.max(0, wanted), 1)[0];
  }

  private async drain(): Promise<void> {
    try {
      for (;;) {
        const unit = this.takeNext();
        if (unit === undefined) {
          this.isHurried = false;
          await this.steps.idle?.();
          if (this.ready.length === 0 && !this.isHurried) break;
          continue;
        }
        const { compressedOffset, compressedSize } = unit[0].info;
        const at = compressedOffset - this.range.offset;
        await this.steps.install(unit, this.buffer.subarray(at, at + compressedSize));
      }
    } catch (error) {
      this.failure = { error };
    }
    this.draining = null;
  }
}

function unitsOf(range: FetchRange): { end: number; chunks: UnitChunks }[] {
  const units = new Map<string | number, PlannedChunk[]>();
  for (const chunk of range.chunks) {
    const key = chunk.info.unit === undefined ? chunk.index : unitKey(chunk);
    const unit = units.get(key);
    if (unit === undefined) units.set(key, [chunk]);
    else unit.push(chunk);
  }
  const ends = [...units.values()].map((chunks) => {
    const { compressedOffset, compressedSize } = chunks[0].info;
    return { end: compressedOffset + compressedSize - range.offset, chunks };
  });
  return ends.sort((a, b) => a.end - b.end);
}
