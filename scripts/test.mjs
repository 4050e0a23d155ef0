/**
 * `npm test [-- FILE…]`: everything, from a bare checkout: system and npm packages, build, then all tests.
 * Files beside the sources and in test/daemon run two at a time; tests that boot guests one at a time, because software
 * emulation has the machine to itself then. The one that waits ten minutes runs beside all of them. Ends with the line
 * `N passed, N failed, N skipped`.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, openSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
const IS_CI = process.env.CI === 'true';
/** A test file that hangs must not eat CI's whole time; the longest takes a few minutes. */
const FILE_TIMEOUT_MS = 6 * 60_000;
const GUEST_TESTS = 'test/vm/';
/** Sleeps for ten minutes: started first, waited for last. */
const IDLE_TEST = join('test', 'daemon', 'idle.test.ts');

const run = (program, args) => spawnSync(program, args, { cwd: ROOT, stdio: 'inherit' }).status === 0;

if (!run('sh', ['scripts/setup.sh'])) {
  if (IS_CI) process.exit(1);
  process.stdout.write('set-up is incomplete: tests that need what is missing skip themselves\n');
}
if (!run(process.execPath, ['scripts/build.mjs'])) process.exit(1);

const given = process.argv.slice(2).map((name) => relative(ROOT, resolve(name)));
const files = given.length > 0 ? given : ['src', 'test', 'scripts'].flatMap(testFiles);
const total = { pass: 0, fail: 0, skipped: 0 };
const idle = files.includes(IDLE_TEST) ? startIdle() : null;
let isGood = runTests(
  files.filter((file) => !file.startsWith(GUEST_TESTS) && file !== IDLE_TEST),
  2,
);
isGood =
  runTests(
    files.filter((file) => file.startsWith(GUEST_TESTS)),
    1,
  ) && isGood;
if (idle !== null) isGood = (await endOf(idle)) && isGood;
process.stdout.write(`\n${total.pass} passed, ${total.fail} failed, ${total.skipped} skipped\n`);
process.exitCode = isGood && total.pass > 0 ? 0 : 1;

function testFiles(folder) {
  return readdirSync(join(ROOT, folder), { recursive: true })
    .filter((name) => name.endsWith('.test.ts'))
    .map((name) => join(folder, name))
    .sort();
}

/** Runs test files, adds their counts to `total`; false when one of them failed, also without a failed test. */
function runTests(names, concurrency) {
  if (names.length === 0) return true;
  const scratch = mkdtempSync(join(tmpdir(), 'npm-test-'));
  const tap = join(scratch, 'tap');
  const isGood = run(process.execPath, [
    '--import',
    'tsx',
    '--test',
    `--test-concurrency=${concurrency}`,
    `--test-timeout=${FILE_TIMEOUT_MS}`,
    '--test-reporter=spec',
    '--test-reporter-destination=stdout',
    '--test-reporter=tap',
    `--test-reporter-destination=${tap}`,
    ...names,
  ]);
  count(readFileSync(tap, 'utf8'));
  rmSync(scratch, { recursive: true });
  return isGood;
}

function count(text) {
  for (const name of Object.keys(total))
    total[name] += Number(new RegExp(`^# ${name} (\\d+)$`, 'm').exec(text)?.[1] ?? 0);
}

function startIdle() {
  const scratch = mkdtempSync(join(tmpdir(), 'npm-test-'));
  const log = join(scratch, 'tap');
  const args = ['--import', 'tsx', '--test', '--test-reporter=tap', IDLE_TEST];
  const out = openSync(log, 'w');
  const child = spawn(process.execPath, args, { cwd: ROOT, stdio: ['ignore', out, out] });
  return { scratch, log, exit: once(child, 'exit') };
}

/** True when it passed; else what it said is printed. */
async function endOf({ scratch, log, exit }) {
  const [code] = await exit;
  const text = readFileSync(log, 'utf8');
  if (code !== 0) process.stdout.write(text);
  count(text);
  rmSync(scratch, { recursive: true });
  return code === 0;
}
