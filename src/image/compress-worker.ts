/**
 * Entry of the helper threads that compress slots. It runs when a worker loads this module, or the bundle that contains
 * it, with the role below; otherwise loading it does nothing.
 */
import { isMainThread, Worker, workerData } from 'node:worker_threads';
import { Ring, type RingMemory } from './slots.ts';

const ROLE = 'nydus-image-compress';

interface HelperData {
  role: typeof ROLE;
  ring: RingMemory;
}

function isHelperData(data: unknown): data is HelperData {
  return (data as HelperData | null)?.role === ROLE;
}

/**
 * Starts a helper on `ring`. It ends after `Ring.stop`, and never keeps the process alive.
 * @param entry this module, or the bundle that contains it
 */
export function startHelper(entry: string | URL, ring: RingMemory): Worker {
  const data: HelperData = { role: ROLE, ring };
  const worker = new Worker(entry, { workerData: data });
  // A helper that dies leaves its slots to the builder; a slot it had claimed is missed by the time limit there.
  worker.on('error', () => {});
  worker.unref();
  return worker;
}

/** Resolves when the thread of a helper whose ring was stopped has ended. */
export async function helperEnded(worker: Worker): Promise<void> {
  if (worker.threadId === -1) return;
  worker.ref();
  await new Promise((resolve) => worker.once('exit', resolve));
}

if (!isMainThread && isHelperData(workerData)) void new Ring(workerData.ring).serve();
