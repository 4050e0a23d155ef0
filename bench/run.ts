/** `npm run bench`: see README.md, and `--help` in options.ts. */
import { spawnSync } from 'node:child_process';
import { measureBuild } from './build.ts';
import { measureColdStart } from './coldstart.ts';
import { measureRows } from './measure.ts';
import { HELP, parseColdStart, parseCommon, parseOptions, UsageError } from './options.ts';
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

/** Each takes the rest of the command line. Rows have a core for the client; the others use all: a start has two threads. */
const COMMANDS: Record<string, { pinned: boolean; run: (argv: readonly string[]) => Promise<void> }> = {
  rows: { pinned: true, run: (argv) => measureRows(parseOptions(argv)) },
  process: { pinned: false, run: (argv) => measureProcesses(parseCommon(argv)) },
  build: { pinned: false, run: (argv) => measureBuild(parseCommon(argv)) },
  coldstart: { pinned: false, run: (argv) => measureColdStart(parseColdStart(argv)) },
};

/** What `all` runs, one after the other, each in a process of its own. The null file system and the C virtiofsd are left out. */
const ALL: readonly (readonly string[])[] = [
  ['rows', '--subject', 'ours,ours-quiet,nydusd,virtiofsd'],
  ['process'],
  ['coldstart'],
  ['build'],
];

/** A benchmark that fails does not keep the others from being run. */
function runAll(argv: readonly string[]): void {
  parseCommon(argv);
  for (const command of ALL) {
    process.stdout.write(`\n== ${command[0]}\n`);
    const args = [...process.execArgv, process.argv[1] as string, ...command, ...argv];
    const { status } = spawnSync(process.execPath, args, { stdio: 'inherit' });
    if (status !== 0) process.exitCode = 1;
  }
}

async function main(argv: readonly string[]): Promise<void> {
  const [name, ...rest] = argv[0] !== undefined && !argv[0].startsWith('-') ? argv : ['rows', ...argv];
  if (argv.includes('--help') || argv.includes('-h')) return void process.stdout.write(HELP);
  if (name === 'all') return runAll(rest);
  const command = COMMANDS[name as string];
  if (command === undefined) throw new UsageError(`unknown command ${name}: ${Object.keys(COMMANDS).join(', ')}, all`);
  if (command.pinned) onCore();
  await command.run(rest);
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  process.stderr.write(
    `bench: ${error instanceof UsageError ? `${error.message} (--help)` : (error as Error).stack}\n`,
  );
  process.exitCode = 1;
}
