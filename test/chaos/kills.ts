/** kill -9 at random points of cache filling, then a restart on the same cache. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type ChaosRig, type Counts, FILES, Reader, readyChunks, refetchedOf } from './rig.ts';

/** From the first READ: filling this image takes about twice as long. */
const KILL_MS_MAX = 60;

/** One kill. `random` in [0, 1) says when. @throws when the daemon does not come up again */
export async function killRound(rig: ChaosRig, random: () => number, counts: Counts): Promise<number> {
  const cache = rig.freshCache();
  const first = await rig.daemon(cache);
  const reader = new Reader(first);
  reader.flood([...FILES].sort(() => random() - 0.5));
  const ended = first.ended;
  await sleep(random() * KILL_MS_MAX);
  first.child.kill('SIGKILL');
  await ended;
  reader.close();
  first.kill();
  const ready = readyChunks(cache);
  await rig.server.mode('ok');
  const second = await rig.daemon(cache);
  const after = new Reader(second);
  try {
    after.recover(counts);
    counts.refetched += refetchedOf(ready, (await rig.server.mode('ok')).ranges);
  } finally {
    after.close();
    second.kill();
  }
  return ready.size;
}
