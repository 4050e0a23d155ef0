/**
 * `nydusd`: entry of the bundle, for both of its threads.
 *
 * Order matters for the start-up budget: nothing is imported before RUNNING that RUNNING does not need, and the worker
 * boots while the main thread loads Node's HTTP server.
 */
import { isMainThread } from 'node:worker_threads';

/** @param argv without interpreter and script. @returns 0 once the daemon runs, or its exit code when it does not */
export async function main(argv: readonly string[]): Promise<number> {
  return (await import('./nydusd-main.ts')).main(argv);
}

if (!isMainThread) void import('../virtiofs/thread.ts');
