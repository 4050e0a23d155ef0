/** `install` and `uninstall`: `node --import tsx hack/kata/setup.ts install|uninstall [--dry-run] [--root DIR]`. */
import { statSync } from 'node:fs';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { describe, install, uninstall } from './apply.ts';
import { Conflict, Host } from './paths.ts';
import { planFor } from './plan.ts';

const USAGE = `Usage: hack/kata/install   [--dry-run] [--root DIR]
       hack/kata/uninstall [--dry-run] [--root DIR]

  --dry-run   say what would be changed, change nothing
  --root DIR  work on the host whose / is DIR (default /)
`;
const EXIT_FAILED = 1;
const EXIT_USAGE = 2;

const RESTART = 'now: systemctl daemon-reload; restart containerd and nydus-snapshotter; then hack/kata/doctor\n';

function main(argv: string[]): number {
  let args: ReturnType<typeof parse>;
  try {
    args = parse(argv);
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n${USAGE}`);
    return EXIT_USAGE;
  }
  const { values, positionals } = args;
  if (values.help) {
    process.stdout.write(USAGE);
    return 0;
  }
  const root = resolve(values.root ?? '/');
  if (!statSync(root, { throwIfNoEntry: false })?.isDirectory()) {
    process.stderr.write(`${root} is no directory\n`);
    return EXIT_FAILED;
  }
  const host = new Host(root);
  const dryRun = values['dry-run'] === true;
  const isInstall = positionals[0] === 'install';
  try {
    const outcome = isInstall ? install(host, planFor(host), dryRun) : uninstall(host, dryRun);
    process.stdout.write(describe(outcome, dryRun));
    if (!dryRun && outcome.changes.length > 0) process.stdout.write(RESTART);
    return 0;
  } catch (error) {
    if (!(error instanceof Conflict) && (error as NodeJS.ErrnoException).code === undefined) throw error;
    process.stderr.write(`${(error as Error).message}\n`);
    return EXIT_FAILED;
  }
}

function parse(argv: string[]) {
  const args = parseArgs({
    args: argv,
    allowPositionals: true,
    options: { root: { type: 'string' }, 'dry-run': { type: 'boolean' }, help: { type: 'boolean', short: 'h' } },
  });
  const [what, ...rest] = args.positionals;
  if (rest.length > 0 || (what !== 'install' && what !== 'uninstall')) throw new Error('install or uninstall?');
  return args;
}

process.exitCode = main(process.argv.slice(2));
