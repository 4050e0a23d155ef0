import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { parseArgs } from './command.ts';
import { NYDUSD } from './nydusd-options.ts';
import { type Plan, planFrom } from './nydusd-plan.ts';

const plan = (argv: string): Plan =>
  planFrom(
    parseArgs(
      NYDUSD,
      argv.split(' ').filter((word) => word !== ''),
    ),
  );
const VIRTIOFS = { kind: 'virtiofs', sock: '/s', fd: null, tag: null, requestQueues: 1 };

describe('modes', () => {
  test('virtiofs by subcommand, by --sock, and hybrid', () => {
    for (const argv of [
      'virtiofs --sock /s',
      '--sock /s',
      'virtiofs --hybrid-mode --sock /s --apisock /a',
      '--sock /s --mountpoint /m',
    ]) {
      assert.deepEqual(plan(argv).mode, VIRTIOFS, argv);
    }
  });
  test('an inherited descriptor, tag and queues', () => {
    assert.deepEqual(plan('virtiofs --fd 5 --tag t --request-queues 2').mode, {
      kind: 'virtiofs',
      sock: null,
      fd: 5,
      tag: 't',
      requestQueues: 2,
    });
  });
  test('fuse by subcommand and by --mountpoint; read-only unless --writable', () => {
    const argv = 'fuse --thread-num 4 --mountpoint /m --failover-policy resend --log-rotation-size 100';
    const fuse = { kind: 'fuse', mountpoint: '/m', readOnly: true, failover: 'resend' };
    assert.deepEqual(plan(argv).mode, fuse);
    assert.deepEqual(plan('--mountpoint /m --writable').mode, { ...fuse, readOnly: false });
    assert.deepEqual(plan('fuse --mountpoint /m --failover-policy flush').mode, { ...fuse, failover: 'flush' });
  });
  const refused: [string, RegExp][] = [
    ['', /one of --sock <PATH> and --mountpoint <DIR> is needed/],
    ['virtiofs', /virtiofs needs --sock/],
    ['fuse --sock /s', /fuse needs --mountpoint/],
    ['--sock /s --fd 4', /exclude each other/],
    [`--sock /s --tag ${'t'.repeat(37)}`, /has 37 bytes, at most 36 fit/],
    ...['singleton --fscache /f', 'daemon --apisock /a', 'nbd /dev/nbd0', 'uffd -S /s'].map(
      (argv): [string, RegExp] => [
        argv,
        /^AppError: NOT_SERVED: \w+ is not served by this daemon; use virtiofs or fuse/,
      ],
    ),
    ['--upgrade fuse --mountpoint /m', /--upgrade needs --apisock/],
    ['fuse --mountpoint /m --failover-policy retry', /retry/],
    ['--sock /s --shared-dir /d --bootstrap /b', /--shared-dir and --bootstrap exclude each other/],
    ['--sock /s --bootstrap /b', /--bootstrap needs --config <FILE> or --localfs-dir/],
    ['--sock /s --config /c --localfs-dir /d', /exclude each other/],
  ];
  test('a limit of open files that no kernel grants is no mistake', () => {
    assert.deepEqual(plan('--sock /s --rlimit-nofile 999999999999999').nofile, { limit: 999999999999999, asked: true });
  });
  for (const [argv, message] of refused) test(`refused: ${argv}`, () => assert.throws(() => plan(argv), message));
});

describe('initial mount', () => {
  test('none is the Kata case', () => assert.equal(plan('--sock /s').initial, null));
  test('a shared directory', () => {
    assert.deepEqual(plan('--sock /s --shared-dir /d/').initial, { kind: 'passthrough', at: '/', source: '/d' });
  });
  test('an image with a configuration file, elsewhere in the tree', () => {
    const initial = { kind: 'rafs', at: '/x', source: '/b', configFile: '/c', configText: null, prefetchFiles: null };
    assert.deepEqual(plan('--sock /s -B /b -C /c -m /x').initial, initial);
  });
  test('an image with its blobs in one directory', () => {
    const { initial } = plan('--sock /s -B /b -D /blobs');
    assert.ok(initial?.kind === 'rafs' && initial.configText !== null);
    const { device } = JSON.parse(initial.configText);
    assert.deepEqual(device.backend, { type: 'localfs', config: { dir: '/blobs' } });
    assert.deepEqual(device.cache.config, { work_dir: '/blobs' });
  });
});

test('what is skipped is said once', () => {
  const { warnings } = plan('virtiofs --sock /s --thread-pool-size=1 --announce-submounts --colour red');
  assert.deepEqual(warnings, [
    'options of virtiofsd ignored: --thread-pool-size=1 --announce-submounts',
    'unknown options skipped: --colour red',
  ]);
});

test('a log file without extension gets one', () => {
  assert.equal(plan('--sock /s -L /var/log/nydusd').logFile, '/var/log/nydusd.log');
  assert.equal(plan('--sock /s -L /var/log/nydusd.txt').logFile, '/var/log/nydusd.txt');
});
