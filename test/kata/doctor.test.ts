/** `hack/kata/doctor`: the mode of a host, what is missing, and that what it advises mends it. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { install } from '../../hack/kata/apply.ts';
import { diagnose, modeOf, snapshotterOfHandler } from '../../hack/kata/findings.ts';
import { Host } from '../../hack/kata/paths.ts';
import { planFor } from '../../hack/kata/plan.ts';
import { REPOSITORY } from '../daemon/nydusd.ts';

let root: string;
const put = (path: string, text: string) => {
  mkdirSync(dirname(join(root, path)), { recursive: true });
  writeFileSync(join(root, path), text);
};
before(() => {
  root = mkdtempSync(join(tmpdir(), 'kata-doctor-'));
});
after(() => rmSync(root, { recursive: true }));

const look = () => diagnose(new Host(root), () => null);

test('an empty host lacks everything, and every finding says what to do', () => {
  const { mode, findings } = look();
  assert.equal(mode, 'none');
  assert.ok(findings.length >= 6);
  for (const { what, ok, found, mend } of findings) {
    assert.equal(ok, false, what);
    assert.ok(found !== '' && mend !== '', what);
  }
});

test('after `install` nothing of ours is missing; a key that is changed is named with its line', () => {
  put('/etc/kata-containers/configuration.toml', '[hypervisor.clh]\nshared_fs = "virtio-fs"\n');
  put('/etc/containerd/config.toml', 'version = 3\n');
  const host = new Host(root);
  install(host, planFor(host), false);
  mkdirSync(join(root, 'usr/sbin'), { recursive: true });
  for (const dir of (process.env['PATH'] ?? '').split(':').slice(0, 1)) {
    mkdirSync(join(root, dir), { recursive: true });
    for (const name of ['mount.fuse3', 'nydus-overlayfs'])
      try {
        symlinkSync('/nowhere', join(root, dir, name));
      } catch {
        // The installation has put it there.
      }
  }
  const done = look();
  assert.deepEqual(
    done.findings.filter(({ ok }) => !ok),
    [],
  );
  assert.equal(done.mode, 'kata-nydus');
  const path = '/etc/kata-containers/configuration-nydus.toml';
  put(path, host.text(path)!.replace('virtio_fs_extra_args = []', 'virtio_fs_extra_args = ["-d"]'));
  assert.deepEqual(
    look().findings.filter(({ ok }) => !ok),
    [
      {
        what: 'Kata Go runtime, virtio_fs_extra_args',
        ok: false,
        found: '["-d"]',
        mend: `${path}: [hypervisor.clh] virtio_fs_extra_args = []`,
      },
    ],
  );
});

test('containerd of version 1, as Docker installs it, and with CRI off: install says so, doctor what to do', () => {
  const names = ['containerd, version', 'containerd, CRI'];
  for (const [config, missing] of [
    ['disabled_plugins = ["cri"]\n', names],
    ['version = 1\n', names.slice(0, 1)],
    ['[plugins.cri]\n', names.slice(0, 1)],
    ['version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n', names.slice(1)],
    ['oom_score = 0\n', []],
  ] as const) {
    put('/etc/containerd/config.toml', config);
    const { notes, steps } = planFor(new Host(root));
    const isOld = missing[0] === names[0];
    assert.equal(
      notes.some((note) => note.includes('of version 1')),
      isOld,
      config,
    );
    const found = look().findings.filter(({ ok, what }) => !ok && names.includes(what));
    assert.deepEqual(
      found.map(({ what }) => what),
      missing,
    );
    assert.ok(found.every(({ mend }) => mend !== ''));
    const keys = steps.flatMap((step) => (step.kind === 'merge' ? step.entries : []));
    const setsVersion = keys.some(({ table, key, value }) => table === '' && key === 'version' && value === '2');
    assert.equal(setsVersion, config.startsWith('oom_score'), config);
  }
});

describe('modes', () => {
  const rows: [config: string | null, mode: string][] = [
    [null, 'none'],
    ['[snapshot]\nenable_nydus_overlayfs = true\n', 'kata-nydus'],
    ['daemon_mode = "shared"\n[snapshot]\nenable_nydus_overlayfs = true\n', 'kata-nydus'],
    ['daemon_mode = "none"\n[snapshot]\nenable_nydus_overlayfs = true\n', 'kata-nydus-untested'],
    ['[snapshot]\nenable_nydus_overlayfs = true\nenable_kata_volume = true\n', 'kata-volume'],
    ['[daemon]\nfs_driver = "fscache"\n', 'fscache'],
    ['[daemon]\nfs_driver = "blockdev"\n', 'tarfs-block'],
    ['[daemon]\nfs_driver = "proxy"\n', 'guest-pull'],
    ['[daemon]\nfs_driver = "nodev"\n', 'none'],
    ['[daemon]\nfs_driver = "fusedev"\n', 'host-only'],
  ];
  for (const [config, mode] of rows)
    test(`${JSON.stringify(config)}: ${mode}`, () => assert.equal(modeOf(config).mode, mode));
});

describe('containerd that ignores a handler’s snapshotter', () => {
  const ask = (version: string | null, config: string) =>
    snapshotterOfHandler({ text: () => config }, version).map(({ ok, mend }) => [ok, mend !== '']);
  const old = 'containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3';
  const key = '[plugins."io.containerd.grpc.v1.cri".containerd]\nsnapshotter = "nydus"\n';
  test('1.6 needs the key of all pods', () => {
    assert.deepEqual(ask(old, 'version = 2\n'), [[false, true]]);
    assert.deepEqual(ask(old, key), [[true, false]]);
  });
  test('1.7, 2.x and none do not', () => {
    for (const version of ['containerd github.com/containerd/containerd v1.7.2 0cae', 'c v2.1.0 x', null])
      assert.deepEqual(ask(version, ''), []);
  });
});

test('the command: JSON, text, exit codes', () => {
  const run = (...args: string[]) =>
    spawnSync(join(REPOSITORY, 'hack/kata/doctor'), args, { encoding: 'utf8', timeout: 60_000 });
  const empty = mkdtempSync(join(tmpdir(), 'kata-doctor-'));
  const json = run('--json', '--root', empty);
  const text = run('--root', empty);
  rmSync(empty, { recursive: true });
  assert.deepEqual([json.status, text.status, run('--loud').status], [1, 1, 2]);
  assert.equal((JSON.parse(json.stdout) as { ready: boolean }).ready, false);
  assert.match(text.stdout, /^mode: none .*\nMISS nydusd: .*\n {7}hack\/kata\/install\n/);
  // The running host: whatever it lacks, it is looked at.
  assert.match(run().stdout, /\/dev\/fuse: (there|missing)\n/);
});
