/**
 * A thread's heap between two collections. V8 comes to collect when garbage has piled up by tens of megabytes, and what
 * lives on in between keeps the pages. Who knows of a moment when nobody waits, because images or a VMM have just gone,
 * asks for it there.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** Below this a collection, 10 to 20 ms of the thread, is not worth its time. */
export const GROWTH_BYTES_MIN = 8 << 20;

export class Garbage {
  /** In use after the last collection, or when this began. */
  private floorBytes: number;

  /** @param bytesInUse of the process, or of this thread's heap */
  constructor(private readonly bytesInUse: () => number) {
    this.floorBytes = bytesInUse();
  }

  /** Collects this thread's heap when bytes in use have grown by GROWTH_BYTES_MIN since the last time. */
  collectIfGrown(): void {
    if (this.bytesInUse() < this.floorBytes + GROWTH_BYTES_MIN) return;
    collect();
    this.floorBytes = this.bytesInUse();
  }
}

/** V8 gives its collector to contexts made after it was asked to; code caches are good for the flags it has otherwise. */
function collect(): void {
  setFlagsFromString('--expose-gc');
  const gc = runInNewContext('gc') as () => void;
  setFlagsFromString('--no-expose-gc');
  gc();
}
