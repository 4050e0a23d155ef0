/** The second thread of `ordering.test.ts`: its own mapping of the shared memory, the mirrored half of each round. */
import { parentPort, workerData } from 'node:worker_threads';
import { type LitmusShare, type LitmusSide, openLitmus, runLitmus } from './ordering-litmus.ts';

const share = workerData as LitmusShare;
const memory = openLitmus(share);
const side: LitmusSide = { mine: memory.right, theirs: memory.left, seen: memory.seenByRight };
parentPort?.postMessage('ready');
for (let round = 1; ; round++) {
  if (!runLitmus(share.control, round, side)) break;
}
