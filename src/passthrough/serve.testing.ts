/** A process that shows one share through /dev/fuse, for the POSIX suite: `serve.testing.ts SOURCE MOUNTPOINT CACHE`. */
import { DevFuse } from '../fuse/dev-fuse.ts';
import type { AsyncIo } from '../fuse/request.ts';
import { Stats } from '../fuse/stats.ts';
import { Arena } from '../sys/arena.ts';
import { errno } from '../sys/errno.ts';
import { POLL, pollOne } from '../sys/wait.ts';
import { DescriptorBudget } from './budget.ts';
import { CACHE_RULES, type CachePolicy } from './options.ts';
import { Passthrough } from './passthrough.ts';

const [source = '', mountpoint = '', cache = ''] = process.argv.slice(2);
if (!(cache in CACHE_RULES)) throw new Error(`unknown cache policy ${cache}`);

/** Nothing waits elsewhere: fsync and cold reads block this process, which serves one test. */
const blocking: AsyncIo = {
  fsync: () => -errno.EOPNOTSUPP,
  syncfs: () => -errno.EOPNOTSUPP,
  read: () => -errno.EOPNOTSUPP,
};

const fs = new Passthrough(
  { source, cache: cache as CachePolicy },
  { arena: Arena.create(), tables: 'share', budget: DescriptorBudget.ofProcess() },
);
const log = (level: string, text: string): void => void process.stderr.write(`${level}: ${text}\n`);
const device = new DevFuse(fs, blocking, new Stats(), log, { mountpoint, readOnly: false, failover: null });
const failed = device.start();
if (failed !== null) throw new Error(failed);
process.stdout.write('mounted\n');
let serving = true;
while (serving) {
  const ready = pollOne(device.fd, POLL.IN, -1);
  if (ready > 0) serving = device.onReadable();
}
