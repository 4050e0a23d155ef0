import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { MS } from '../sys/mount.ts';
import { DATA_BYTES_MAX, overlayMount } from './overlay-options.ts';

const plan = (options: string) => overlayMount(['overlay', '/target', '-o', options]);
const fails = (code: string, argv: string[]) =>
  assert.throws(
    () => overlayMount(argv),
    (error: Error & { code: string }) => {
      assert.equal(error.code, code);
      assert.doesNotMatch(error.message, /extraoption|secret/);
      return true;
    },
  );

test('the example of kata-contract 2.1', () => {
  const data = 'workdir=/s/42/work,upperdir=/s/42/fs,lowerdir=/s/17/mnt';
  assert.deepEqual(plan(`${data},extraoption=c2VjcmV0==,io.katacontainers.volume=c2VjcmV0,dev,suid`), {
    target: '/target',
    flags: 0,
    data,
    directory: null,
  });
});

describe('words for the kernel', () => {
  const rows: [set: string, clear: string, flag: number][] = [
    ['ro', 'rw', MS.RDONLY],
    ['nosuid', 'suid', MS.NOSUID],
    ['nodev', 'dev', MS.NODEV],
    ['noexec', 'exec', MS.NOEXEC],
    ['sync', 'async', MS.SYNCHRONOUS],
    ['mand', 'nomand', MS.MANDLOCK],
    ['noatime', 'atime', MS.NOATIME],
    ['nodiratime', 'diratime', MS.NODIRATIME],
    ['relatime', 'norelatime', MS.RELATIME],
    ['strictatime', 'nostrictatime', MS.STRICTATIME],
  ];
  for (const [set, clear, flag] of rows) {
    test(`${set} sets, ${clear} clears, the last one wins`, () => {
      assert.deepEqual([plan(set).flags, plan(set).data], [flag, '']);
      assert.equal(plan(clear).flags, 0);
      assert.equal(plan(`${set},${clear}`).flags, 0);
      assert.equal(plan(`${clear},${set}`).flags, flag);
    });
  }
  test('words without an opposite', () => {
    assert.equal(plan('dirsync,bind,remount').flags, MS.DIRSYNC | MS.BIND | MS.REMOUNT);
    assert.equal(plan('rbind').flags, MS.BIND | MS.REC);
    assert.deepEqual([plan('defaults').flags, plan('defaults').data], [0, '']);
  });
  test('everything else is data, in its order; names of objects are no words', () => {
    assert.equal(
      plan('volatile,lowerdir=/a:/b,ro,index=off,toString,__proto__').data,
      'volatile,lowerdir=/a:/b,index=off,toString,__proto__',
    );
  });
});

describe('A18: what is refused', () => {
  test('argument count', () => {
    for (const argv of [[], ['overlay', '/t', '-o'], ['overlay', '/t', '-o', 'ro', 'extraoption=secret']])
      fails('ARGUMENT_COUNT', argv);
  });
  test('type', () => {
    fails('TYPE', ['ext4', '/t', '-o', 'ro']);
    fails('TYPE', ['extraoption=secret', '/t', '-o', 'ro']);
  });
  test('target', () => fails('TARGET', ['overlay', '', '-o', 'ro']));
  test('options', () => {
    fails('OPTIONS', ['overlay', '/t', '-o', 'extraoption=secret']);
    fails('OPTIONS', ['overlay', '/t', '-o', '']);
    fails('OPTIONS', ['overlay', '/t', '-x', 'lowerdir=/a']);
  });
  test('bytes that are no UTF-8', () => fails('ENCODING', ['overlay', '/t\ufffd', '-o', 'ro']));
});

describe('long data', () => {
  const root = '/var/lib/containerd-nydus/snapshots';
  const lowers = (count: number, dir = root) => Array.from({ length: count }, (_, i) => `${dir}/${i}/fs`).join(':');

  test('stays as it is below the limit', () => {
    assert.equal(plan(`lowerdir=${lowers(20)}`).directory, null);
  });
  test('gets paths relative to the longest common directory', () => {
    const made = plan(`volatile,workdir=${root}/500/work,upperdir=${root}/500/fs,lowerdir=${lowers(100)}`);
    assert.equal(made.directory, root);
    assert.match(made.data, /^volatile,workdir=500\/work,upperdir=500\/fs,lowerdir=0\/fs:1\/fs:/);
    assert.equal(made.target, '/target');
  });
  test('a relative target becomes absolute, since the working directory changes', () => {
    const made = overlayMount(['overlay', 'here', '-o', `lowerdir=${lowers(100)}`]);
    assert.equal(made.target, `${process.cwd()}/here`);
  });
  test('directories with a common start of their names are no common directory', () => {
    const made = plan(
      `lowerdir=${lowers(60, '/data/aaaaaaaaaaaaaaaaaaaaaaaaa/left')}:${lowers(60, '/data/aaaaaaaaaaaaaaaaaaaaaaaaa/lefter')}`,
    );
    assert.equal(made.directory, '/data/aaaaaaaaaaaaaaaaaaaaaaaaa');
    assert.match(made.data, /:left\/59\/fs:lefter\/0\/fs:/);
  });
  test('is left alone where paths cannot be made relative, and refused beyond one page with its length', () => {
    const long = (extra: string) => () => plan(`lowerdir=${lowers(120)}:${extra}`);
    for (const extra of ['/elsewhere', 'relative/path', `${root}//double`, `${root}/a\\:b`, '']) {
      assert.throws(long(extra), { code: 'DATA_BYTES' }, extra);
    }
    const bytes = DATA_BYTES_MAX + 1;
    const data = `upperdir=/${'x'.repeat(bytes - 'upperdir=/'.length)}`;
    assert.throws(() => plan(`${data},extraoption=secret`), new RegExp(`the mount data has ${bytes} bytes`));
    assert.equal(plan(data.slice(0, -1)).data.length, DATA_BYTES_MAX);
  });
  test('bytes count, not characters', () => {
    assert.throws(() => plan(`upperdir=/${'ä'.repeat(2100)}`), /has 4210 bytes/);
  });
});
