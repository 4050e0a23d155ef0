import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { AppError } from '../common/app-error.ts';
import { type CommandSpec, type OptionTable, parseArgs, renderHelp } from './command.ts';

const OPTIONS = {
  sock: { short: 's', value: 'PATH', help: 'where' },
  level: { short: 'l', value: 'L', choices: ['info', 'debug'], help: 'how much' },
  count: { value: 'N', range: [1, 64], aliases: ['number'], default: '4', help: 'how many' },
  hybrid: { help: 'no value', group: 'Other' },
} as const satisfies OptionTable;

const SPEC: CommandSpec<typeof OPTIONS> = {
  name: 'prog',
  summary: 'Does it.',
  usage: ['prog run'],
  subcommands: { run: 'runs', walk: 'walks' },
  ignored: { '--thread-pool-size': 'of another', '-o': 'of another' },
  options: OPTIONS,
  unknown: 'skip',
};

describe('what is accepted', () => {
  const cases: [string, string, object, string[], string[]][] = [
    ['words after options', 'run --sock a', { sock: 'a' }, [], []],
    ['joined', '--sock=a=b run', { sock: 'a=b' }, [], []],
    ['short', '-s a run', { sock: 'a' }, [], []],
    ['short, glued', '-sa run', { sock: 'a' }, [], []],
    ['short, joined', '-s=a run', { sock: 'a' }, [], []],
    ['alias', 'run --number 5', { count: '5' }, [], []],
    ['the last one wins', 'run -l info --level debug', { level: 'debug' }, [], []],
    ['flag', 'run --hybrid', { hybrid: true }, [], []],
    ['flag, turned off', 'run --hybrid --hybrid=false', {}, [], []],
    ['ignored with a value', 'run --thread-pool-size 4 -o xattr', {}, ['--thread-pool-size 4', '-o xattr'], []],
    ['ignored, joined', '--thread-pool-size=1 run', {}, ['--thread-pool-size=1'], []],
    ['an ignored one never takes the subcommand', '--thread-pool-size run', {}, ['--thread-pool-size'], []],
    ['unknown takes a value', 'run --colour red --sock a', { sock: 'a' }, [], ['--colour red']],
    ['unknown before an option', 'run --shine --sock a', { sock: 'a' }, [], ['--shine']],
    ['unknown short', 'run -x9 -y 3', {}, [], ['-x9', '-y 3']],
    ['a dash alone is a value', 'run --sock -', { sock: '-' }, [], []],
    ['twice the same subcommand', 'run --hybrid run', { hybrid: true }, [], []],
  ];
  for (const [name, argv, values, ignored, unknown] of cases) {
    test(name, () => {
      assert.deepEqual(parseArgs(SPEC, argv.split(' ')), { subcommand: 'run', values, operands: [], ignored, unknown });
    });
  }
  test('operands of the subcommand, also when they are named like one', () => {
    const spec = { ...SPEC, operands: { run: ['WHERE', 'HOW'] } };
    const { subcommand, operands, values } = parseArgs(spec, ['run', 'walk', '--sock', 'a', 'fast']);
    assert.deepEqual([subcommand, operands, values], ['run', ['walk', 'fast'], { sock: 'a' }]);
    assert.throws(() => parseArgs(spec, ['run', 'a', 'b', 'c']), /unexpected word "c"/);
  });
  test('no subcommand', () => assert.equal(parseArgs(SPEC, ['--hybrid']).subcommand, null));
});

describe('what is refused', () => {
  const cases: [string, string[], RegExp][] = [
    ['value missing at the end', ['--sock'], /--sock needs a value <PATH>/],
    ['value missing before an option', ['--sock', '--hybrid'], /--sock needs a value/],
    ['empty value', ['--sock='], /--sock needs a value/],
    ['NUL', ['--sock', 'a\0b'], /NUL/],
    ['choice', ['--level', 'loud'], /--level is one of info, debug, not "loud"/],
    ['range', ['--count', '65'], /--count is a whole number from 1 to 64, not "65"/],
    ['no number', ['--count', '1e1'], /whole number/],
    ['stray word', ['jump'], /unexpected word "jump"/],
    ['two subcommands', ['run', 'walk'], /"run" and "walk" at once/],
  ];
  for (const [name, argv, message] of cases) {
    test(name, () => {
      assert.throws(
        () => parseArgs(SPEC, argv),
        (error) => error instanceof AppError && error.code === 'USAGE' && message.test(error.message),
      );
    });
  }
  test('unknown options, where the command says so', () => {
    assert.throws(() => parseArgs({ ...SPEC, unknown: 'refuse' }, ['--shine']), /unknown option "--shine"/);
  });
  test('a long word is not repeated whole', () => {
    assert.throws(
      () => parseArgs(SPEC, ['x'.repeat(100_000)]),
      (error) => (error as Error).message.length < 1000,
    );
  });
});

test('the help names every option, its value, choices and default', () => {
  const help = renderHelp(SPEC);
  for (const part of [
    '-s, --sock <PATH>',
    'one of info, debug',
    'default 4',
    'also --number',
    '--hybrid',
    'walks',
    'Other:',
    '--thread-pool-size',
  ]) {
    assert.ok(help.includes(part), `${part} in\n${help}`);
  }
});
