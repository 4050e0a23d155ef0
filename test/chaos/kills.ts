/** kill -9 at random points of cache filling, then a restart on the same cache. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Counts } from './counts.ts';
import { type Image, readyChunks, refetchedOf } from './images.ts';
import type { ChaosRig, Column } from './rig.ts';

/** A cache that has not grown for so long has what was asked for. */
const IDLE_MS = 300;

/** Waits until `cache` has `count` chunks, or grows no more. */
async function untilReady(image: Image, cache: string, count: number): Promise<void> {
  let last = 0;
  for (let grownAt = performance.now(); performance.now() - grownAt < IDLE_MS; ) {
    const now = readyChunks(image, cache).size;
    if (now >= count) return;
    if (now !== last) grownAt = performance.now();
    last = now;
    await sleep(1);
  }
}

/**
 * One kill, as soon as a random number of chunks is there (none: before or while the first comes); how many there were.
 * @param random in [0, 1)
 * @throws when the daemon does not come up again
 */
export async function killRound(
  rig: ChaosRig,
  column: Column,
  image: Image,
  random: () => number,
  counts: Counts,
): Promise<number> {
  const cache = rig.freshDir();
  const files = [...image.files].sort(() => random() - 0.5);
  const first = await rig.serve(column, { image, cache });
  await first.reader.flood(files);
  await untilReady(image, cache, Math.floor(random() * (image.chunks ?? []).length));
  first.daemon.child.kill('SIGKILL');
  await first.daemon.ended;
  first.reader.close();
  await first.end();
  const ready = readyChunks(image, cache);
  await rig.server.mode('ok');
  const second = await rig.serve(column, { image, cache });
  try {
    await second.reader.recover(counts, files);
    counts.refetched += refetchedOf(image, ready, (await rig.server.mode('ok')).ranges);
  } finally {
    second.reader.close();
    await second.end();
  }
  return ready.size;
}
