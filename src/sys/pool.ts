/** Calls that may take seconds, made on a thread of Node's pool: for the main thread only, which must not wait. */

import { errno } from './errno.ts';
import { bindInPool } from './libc.ts';

const poolSyncfs = bindInPool('syncfs', 'int', ['int']);

/** syncfs(2). `done` gets 0, or -EIO whatever the reason: the pool thread's errno does not reach us. */
export function syncfsInPool(fd: number, done: (result: number) => void): void {
  poolSyncfs(fd, (value) => done(value === 0 ? 0 : -errno.EIO));
}
