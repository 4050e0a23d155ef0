/**
 * Memory of images that are gone. Their tables and chunks are buffers that V8 sees as small objects: it comes to collect
 * them when tens of megabytes have piled up, and what lives on between them keeps the pages. So main's heap is collected
 * soon after images went, when the process has grown. The device thread has its own and is not held up.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** A burst of umounts is one. */
const COLLECT_AFTER_MS = 300;
/** Below this a collection, 10 to 20 ms of main, is not worth its time. */
export const GROWTH_BYTES_MIN = 8 << 20;

export class Garbage {
  private timer: NodeJS.Timeout | null = null;
  /** Resident after the last collection, or when this began. */
  private floorBytes: number;
  private collectNow: (() => void) | null = null;

  constructor(private readonly residentBytes: () => number = process.memoryUsage.rss) {
    this.floorBytes = residentBytes();
  }

  /** An image has gone, or did not come to be. */
  arises(): void {
    if (this.timer !== null) return;
    this.timer = setTimeout(() => {
      this.timer = null;
      this.collect();
    }, COLLECT_AFTER_MS).unref();
  }

  /** Collects when the process has grown since the last time. */
  private collect(): void {
    if (this.residentBytes() < this.floorBytes + GROWTH_BYTES_MIN) return;
    this.collectNow ??= collector();
    this.collectNow();
    this.floorBytes = this.residentBytes();
  }
}

/** V8 gives its collector to contexts made after it was asked to. */
function collector(): () => void {
  setFlagsFromString('--expose-gc');
  return runInNewContext('gc') as () => void;
}
