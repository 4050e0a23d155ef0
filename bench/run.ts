/**
 * `npm run bench`: see README.md.
 *
 *     npm run bench [-- --quick] [--row NAME] [--fs share|image] [--depth 1|32|open1000|open20000] [--subject A,B]
 *     npm run bench -- process
 */
import { spawnSync } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { measureRows } from './measure.ts';
import { parseOptions } from './options.ts';
import { measureProcesses } from './processes.ts';

/** The frontend's core; the back ends have core 1. */
const FRONTEND_CORE = '0';

function onCore(): never | undefined {
  if (process.env['BENCH_PINNED'] === '1') return undefined;
  const again = spawnSync(
    'taskset',
    ['-c', FRONTEND_CORE, process.execPath, ...process.execArgv, ...process.argv.slice(1)],
    {
      stdio: 'inherit',
      env: { ...process.env, BENCH_PINNED: '1' },
    },
  );
  process.exit(again.status ?? 1);
}

async function main(argv: readonly string[]): Promise<void> {
  const [command, ...rest] = argv[0]?.startsWith('-') === false ? argv : ['rows', ...argv];
  if (command === 'process') return measureProcesses();
  if (command !== 'rows') throw new Error(`unknown command ${command}: rows or process`);
  if (availableParallelism() > 1 && process.env['BENCH_PINNED'] !== '1') throw new Error('not pinned');
  await measureRows(parseOptions(rest));
}

onCore();
await main(process.argv.slice(2));
