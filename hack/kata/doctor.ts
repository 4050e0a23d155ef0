/**
 * `hack/kata/doctor [--json] [--root DIR]`: in which mode this host would run nydus images (kata-contract 5.1, 5.3), what
 * is missing for Kata with nydusd, and the line that mends it. Exit code 0 when nothing is, 1 otherwise.
 */
import { spawnSync } from 'node:child_process';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { diagnose, type Finding } from './findings.ts';
import { Host } from './paths.ts';

const USAGE = `Usage: hack/kata/doctor [--json] [--root DIR]

  --json      one JSON object
  --root DIR  look at the host whose / is DIR; what needs its kernel is not looked at then
`;
const EXIT_MISSING = 1;
const EXIT_USAGE = 2;

function main(argv: string[]): number {
  let values: { json?: boolean; root?: string; help?: boolean };
  try {
    const options = {
      json: { type: 'boolean' },
      root: { type: 'string' },
      help: { type: 'boolean', short: 'h' },
    } as const;
    values = parseArgs({ args: argv, options }).values;
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n${USAGE}`);
    return EXIT_USAGE;
  }
  if (values.help) {
    process.stdout.write(USAGE);
    return 0;
  }
  let diagnosis: ReturnType<typeof diagnose>;
  try {
    diagnosis = diagnose(new Host(resolve(values.root ?? '/')), versionOf);
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n`);
    return EXIT_MISSING;
  }
  const { mode, explanation, findings } = diagnosis;
  const missing = findings.filter(({ ok }) => !ok);
  if (values.json) {
    process.stdout.write(`${JSON.stringify({ mode, explanation, ready: missing.length === 0, findings })}\n`);
  } else {
    process.stdout.write(`mode: ${mode} (${explanation})\n`);
    for (const finding of findings) process.stdout.write(line(finding));
    process.stdout.write(missing.length === 0 ? 'ready\n' : `${missing.length} things are missing\n`);
  }
  return missing.length === 0 ? 0 : EXIT_MISSING;
}

function line({ ok, what, found, mend }: Finding): string {
  return `${ok ? 'ok  ' : 'MISS'} ${what}: ${found}${ok ? '' : `\n       ${mend}`}\n`;
}

/** First line of `program --version`, null when it cannot be run. */
function versionOf(program: string): string | null {
  const { status, stdout } = spawnSync(program, ['--version'], { encoding: 'utf8', timeout: 30_000 });
  return status === 0 ? stdout.split('\n')[0]!.trim() : null;
}

process.exitCode = main(process.argv.slice(2));
