/** `npm run test:vm [-- --filter WORDS] [FILE…]`: the tests that boot guests; `--filter` is a part of a test's name. */
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const folder = join(dirname(dirname(fileURLToPath(import.meta.url))), 'test', 'vm');
const { values, positionals } = parseArgs({ options: { filter: { type: 'string' } }, allowPositionals: true });
const all = readdirSync(folder).filter((name) => name.endsWith('.test.ts'));
const files = (positionals.length > 0 ? positionals : all).map((name) => join(folder, name));
// One file at a time: guests under software emulation share few cores, and time-outs are for one of them.
const args = ['--import', 'tsx', '--test', '--test-concurrency=1', '--test-reporter=spec', ...files];
const env = { ...process.env, ...(values.filter === undefined ? {} : { VM_FILTER: values.filter }) };
process.exitCode = spawnSync(process.execPath, args, { stdio: 'inherit', env }).status ?? 1;
