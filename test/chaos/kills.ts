/** kill -9 at random points of cache filling, then a restart on the same cache. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Counts } from './counts.ts';
import { type Image, readyChunks, refetchedOf } from './images.ts';
import type { ChaosRig, Column } from './rig.ts';

/** From the first READ: filling a small image takes about twice as long. */
const KILL_MS_MAX = 60;

/**
 * One kill; the number of chunks complete by then. `random` in [0, 1) says when.
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
  await sleep(random() * KILL_MS_MAX);
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
