/**
 * The POSIX suite as a program, for places that have Node but no test runner: bundled, put on the share, and started in
 * the guest. Prints one line per case; the last line is the sentinel that all of them ran.
 *
 *     node runner.cjs DIRECTORY
 */
import { ownLacks, POSIX_CASES, runPosixCase, skipReason } from '../../src/passthrough/posix.suite.ts';

export const SENTINEL = 'all cases ran';

function main(place: string): void {
  for (const posixCase of POSIX_CASES) {
    const skip = skipReason(posixCase, ownLacks());
    if (skip !== false) {
      console.log(`skip ${posixCase.id}: ${skip}`);
      continue;
    }
    try {
      runPosixCase(posixCase, place);
      console.log(`pass ${posixCase.id}`);
    } catch (error) {
      console.log(`FAIL ${posixCase.id}: ${String(error).replaceAll('\n', ' ').slice(0, 300)}`);
    }
  }
  console.log(SENTINEL);
}

const place = process.argv[2];
if (place !== undefined && process.argv[1]?.endsWith('runner.cjs')) main(place);
