/**
 * `nydusd`: from argv to a running daemon.
 *
 * This file is the bundle's entry for both threads. Order matters for the start-up budget: the worker starts first and
 * loads its native parts while this thread binds the API; nothing is imported before RUNNING that RUNNING does not need.
 */
import { isMainThread } from 'node:worker_threads';

if (isMainThread) {
  void import('./nydusd-main.ts').then(({ main }) => main(process.argv.slice(2)));
} else {
  void import('../virtiofs/thread.ts');
}
