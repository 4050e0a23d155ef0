/**
 * One range of a blob on behalf of readers. What they wait for is written as soon as it has arrived, the rest of the range
 * in larger pieces behind it.
 */
import type { Blob } from './blob.ts';
import { BATCH_BYTES, ChunkBatch, giveRoom, takeRoom } from './chunk-batch.ts';
import type { FetchRange } from './fetch-plan.ts';
import { RangeArrivals, type UnitChunks } from './prefetch/range-arrivals.ts';

/**
 * Settles every chunk of the range that has arrived, also when it throws.
 * @param signal the blob is closed
 * @throws what ends the range: the network, a closed blob, nothing that takes a chunk
 */
export async function fetchRange(blob: Blob, range: FetchRange, signal: AbortSignal): Promise<void> {
  const { pending } = blob;
  const rooms = range.bytes <= BATCH_BYTES ? [takeRoom(), takeRoom()] : [takeRoom()];
  const [batchRoom, storedRoom = null] = rooms;
  const isWanted = (index: number) => pending.isWanted(index);
  const batch = new ChunkBatch(blob.info, blob.cache, blob.installer, batchRoom, ({ index }) => pending.settle(index));
  let isEnd = false;
  const isDue = () => isEnd || batch.isWorthWriting || (pending.isAnyWanted && batch.has(isWanted));
  const steps = {
    isWanted: (unit: UnitChunks) => unit.some(({ index }) => isWanted(index)),
    install: async (unit: UnitChunks, stored: Buffer) => {
      const isTaken = await batch.add(unit[0], stored);
      if (!isTaken || isWanted(unit[0].index)) await batch.flush();
      if (!isTaken) await blob.install(unit, stored, blob.reads.demand, signal);
    },
    idle: () => (isDue() ? batch.flush() : Promise.resolve()),
  };
  const arrivals = new RangeArrivals(range, steps, storedRoom);
  blob.arriving.add(arrivals);
  try {
    await blob.reads.demand(range.offset, range.bytes, signal, arrivals);
  } finally {
    isEnd = true;
    arrivals.hurry();
    blob.arriving.delete(arrivals);
    await arrivals.installed().finally(() => rooms.forEach(giveRoom));
  }
}
