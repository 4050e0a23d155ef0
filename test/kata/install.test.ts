/** `hack/kata/install` and `uninstall` on hosts that consist of a directory. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { install, describe as told, uninstall } from '../../hack/kata/apply.ts';
import { Host } from '../../hack/kata/paths.ts';
import { planFor } from '../../hack/kata/plan.ts';
import { valueAt } from '../../hack/kata/toml-edit.ts';
import { REPOSITORY } from '../daemon/nydusd.ts';

const CONTAINERD_1 = `version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "pause:3.8"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    discard_unpacked_layers = true`;
const CONTAINERD_2 = `version = 3
[plugins]
  [plugins.'io.containerd.cri.v1.images']
    snapshotter = 'overlayfs'
    discard_unpacked_layers = true
`;
const KATA = `# Kata's own
[hypervisor.qemu]
path = "/usr/bin/qemu-system-x86_64"
shared_fs = "virtio-fs"
virtio_fs_daemon = "/usr/libexec/virtiofsd"
virtio_fs_extra_args = ["--thread-pool-size=1", "--announce-submounts"]
[agent.kata]
`;
const SNAPSHOTTER = `version = 1
root = "/data/nydus"
[daemon]
fs_driver = "fscache"
[snapshot]
enable_nydus_overlayfs = false
`;

/** Ways to write what `install` changes that are not containerd's own. */
const ODD = [
  CONTAINERD_1.replaceAll('\n', '\r\n'),
  CONTAINERD_1.replace(/\]$/gm, '] # theirs').replaceAll('\n', '\r\n'),
  'version = 2\n["proxy_plugins"."nydus"]\n"type" = "content"\n',
  'version = 2\nproxy_plugins.nydus.type = "content"\nproxy_plugins . "nydus" . address = "/a=b"\n',
  'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\ncontainerd.discard_unpacked_layers = true\n',
];

let root: string;
const at = (path: string) => join(root, path);
const put = (path: string, text: string) => {
  mkdirSync(dirname(at(path)), { recursive: true });
  writeFileSync(at(path), text);
};
const text = (path: string) => readFileSync(at(path), 'utf8');

const unquoted = (value: string | null): string | null => value?.replaceAll(/^["']|["']$/g, '') ?? null;

/** Every path below the root with its mode and content. */
function tree(): Record<string, string> {
  const found: Record<string, string> = {};
  for (const entry of readdirSync(root, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    const { mode } = lstatSync(path);
    const content = entry.isSymbolicLink() ? readlinkSync(path) : entry.isFile() ? readFileSync(path, 'utf8') : '';
    found[path.slice(root.length)] = `${mode.toString(8)} ${content}`;
  }
  return found;
}

function run(what: 'install' | 'uninstall', ...args: string[]) {
  const { status, stdout, stderr } = spawnSync(join(REPOSITORY, 'hack/kata', what), ['--root', root, ...args], {
    encoding: 'utf8',
    timeout: 60_000,
  });
  return { status, stdout, stderr };
}
/** The same without a process of its own. */
function good(what: 'install' | 'uninstall', dryRun?: '--dry-run'): string {
  const host = new Host(root);
  const isDry = dryRun !== undefined;
  return told(what === 'install' ? install(host, planFor(host), isDry) : uninstall(host, isDry), isDry);
}

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'kata-host-'));
});
afterEach(() => rmSync(root, { recursive: true }));

function fullHost(containerd = CONTAINERD_1): void {
  put('/etc/containerd/config.toml', containerd);
  chmodSync(at('/etc/containerd/config.toml'), 0o600);
  put('/etc/kata-containers/configuration.toml', KATA);
  put(
    '/opt/kata/share/defaults/kata-containers/runtime-rs/configuration.toml',
    KATA.replace('qemu', 'cloud-hypervisor'),
  );
  put('/etc/nydus/config.toml', SNAPSHOTTER);
}

describe('a host with everything', () => {
  test('is changed once, and given back byte by byte', () => {
    fullHost();
    const before = tree();
    const would = good('install', '--dry-run');
    assert.deepEqual(tree(), before, '--dry-run changed something');
    const done = good('install');
    assert.equal(would.replaceAll(/^would /gm, ''), done, 'the dry run said something else than was done');
    const installed = tree();
    assert.match(good('install'), /^nothing to change\n$/);
    assert.deepEqual(tree(), installed);
    good('uninstall', '--dry-run');
    assert.deepEqual(tree(), installed);
    good('uninstall');
    assert.deepEqual(tree(), before);
    assert.match(good('uninstall'), /^nothing to change\n$/);
  });

  test('names our commands everywhere', () => {
    fullHost();
    good('install');
    assert.equal(readlinkSync(at('/opt/nydusd-ts/bin/nydusd')), join(REPOSITORY, 'bin/nydusd'));
    const kata = text('/etc/kata-containers/configuration-nydus.toml');
    const table = 'hypervisor.qemu';
    assert.equal(valueAt(kata, table, 'shared_fs'), '"virtio-fs-nydus"');
    assert.equal(valueAt(kata, table, 'virtio_fs_daemon'), '"/opt/nydusd-ts/bin/nydusd"');
    assert.equal(valueAt(kata, table, 'valid_virtio_fs_daemon_paths'), '["/opt/nydusd-ts/bin/nydusd"]');
    assert.equal(valueAt(kata, table, 'virtio_fs_extra_args'), '[]');
    assert.equal(valueAt(kata, table, 'path'), '"/usr/bin/qemu-system-x86_64"');
    assert.equal(text('/etc/kata-containers/configuration.toml'), KATA, "Kata's own configuration was changed");
    const rs = text('/etc/kata-containers/runtime-rs/configuration-nydus.toml');
    assert.equal(valueAt(rs, 'hypervisor.cloud-hypervisor', 'shared_fs'), '"virtio-fs-nydus"');
    const containerd = text('/etc/containerd/config.toml');
    const cri = 'plugins."io.containerd.grpc.v1.cri".containerd';
    assert.equal(valueAt(containerd, cri, 'discard_unpacked_layers'), 'false');
    assert.equal(valueAt(containerd, `${cri}.runtimes.kata-nydus`, 'snapshotter'), '"nydus"');
    assert.equal(
      valueAt(containerd, `${cri}.runtimes.kata-nydus-rs.options`, 'ConfigPath'),
      '"/etc/kata-containers/runtime-rs/configuration-nydus.toml"',
    );
    assert.equal(statSync(at('/etc/containerd/config.toml')).mode & 0o777, 0o600);
    const snapshotter = text('/etc/nydus/config.toml');
    assert.equal(valueAt(snapshotter, '', 'root'), '"/var/lib/containerd-nydus"');
    assert.equal(valueAt(snapshotter, 'daemon', 'fs_driver'), '"fusedev"');
    assert.equal(valueAt(snapshotter, 'snapshot', 'enable_nydus_overlayfs'), 'true');
    assert.equal(valueAt(snapshotter, 'daemon', 'recover_policy'), '"failover"');
    JSON.parse(text('/etc/nydus/nydusd-config.json'));
    assert.match(text('/etc/systemd/system/nydusd@.service'), /^ExecStart=\/opt\/nydusd-ts\/bin\/nydusd fuse /m);
  });

  test('containerd 2 gets the names of version 3', () => {
    fullHost(CONTAINERD_2);
    good('install');
    const containerd = text('/etc/containerd/config.toml');
    assert.equal(valueAt(containerd, 'plugins."io.containerd.cri.v1.images"', 'discard_unpacked_layers'), 'false');
    const handler = 'plugins."io.containerd.cri.v1.runtime".containerd.runtimes.kata-nydus';
    assert.equal(valueAt(containerd, handler, 'runtime_type'), '"io.containerd.kata.v2"');
    assert.equal(valueAt(containerd, 'plugins."io.containerd.grpc.v1.cri".containerd', 'snapshotter'), null);
    good('uninstall');
    assert.equal(text('/etc/containerd/config.toml'), CONTAINERD_2);
  });

  test('every TOML file is one for another parser too', (t) => {
    const parse = (path: string) =>
      spawnSync('python3', ['-c', 'import sys, tomllib; tomllib.load(open(sys.argv[1], "rb"))', at(path)], {
        encoding: 'utf8',
      });
    fullHost();
    if (parse('/etc/containerd/config.toml').status !== 0) return t.skip('python3 with tomllib is not installed');
    good('install');
    for (const path of [
      '/etc/containerd/config.toml',
      '/etc/nydus/config.toml',
      '/etc/kata-containers/configuration-nydus.toml',
      '/etc/kata-containers/runtime-rs/configuration-nydus.toml',
    ]) {
      const { status, stderr } = parse(path);
      assert.equal(status, 0, `${path}: ${stderr}`);
    }
    good('uninstall');
    for (const odd of ODD) {
      put('/etc/containerd/config.toml', odd);
      good('install');
      const { status, stderr } = parse('/etc/containerd/config.toml');
      assert.equal(status, 0, `${odd}: ${stderr}\n${text('/etc/containerd/config.toml')}`);
      assert.equal(valueAt(text('/etc/containerd/config.toml'), 'proxy_plugins.nydus', 'type'), '"snapshot"');
      good('uninstall');
      assert.equal(text('/etc/containerd/config.toml'), odd);
    }
  });
  test('a table written inline stops the installation before it begins', () => {
    put('/etc/containerd/config.toml', 'version = 2\n[proxy_plugins]\nnydus = { type = "content" }\n');
    const before = tree();
    const { status, stderr } = run('install');
    assert.equal(status, 1);
    assert.match(stderr, /^\/etc\/containerd\/config\.toml: line 3 writes proxy_plugins\.nydus inline; /);
    assert.deepEqual(tree(), before);
  });
  test('neither is a file touched whose bytes could not be given back', () => {
    fullHost();
    writeFileSync(at('/etc/containerd/config.toml'), Buffer.from('version = 2 # gr\xfc\xdfe\n', 'latin1'));
    const { status, stderr } = run('install');
    assert.deepEqual([status, stderr], [1, '/etc/containerd/config.toml is not UTF-8, as configurations have to be\n']);
  });

  test('containerd takes what is merged into its defaults, into a short file, and into none', (t) => {
    const containerd = (...args: string[]) => spawnSync('containerd', args, { encoding: 'utf8', timeout: 30_000 });
    const defaults = containerd('config', 'default');
    if (defaults.status !== 0) return t.skip('containerd is not installed');
    const isNew = /^version = 3$/m.test(defaults.stdout);
    for (const before of [defaults.stdout, isNew ? CONTAINERD_2 : CONTAINERD_1, null]) {
      if (before === null) rmSync(at('/etc/containerd/config.toml'));
      else fullHost(before);
      good('install');
      const { status, stdout, stderr } = containerd('--config', at('/etc/containerd/config.toml'), 'config', 'dump');
      assert.equal(status, 0, stderr);
      const cri = isNew ? 'plugins."io.containerd.cri.v1.runtime"' : 'plugins."io.containerd.grpc.v1.cri"';
      const handler = `${cri}.containerd.runtimes.kata-nydus`;
      assert.equal(unquoted(valueAt(stdout, handler, 'runtime_type')), 'io.containerd.kata.v2');
      // containerd before 1.7 drops the key; doctor says what to do then.
      const isKnown = valueAt(defaults.stdout, `${cri}.containerd.runtimes.runc`, 'snapshotter') !== null;
      if (isKnown) assert.equal(unquoted(valueAt(stdout, handler, 'snapshotter')), 'nydus');
      assert.equal(unquoted(valueAt(stdout, 'proxy_plugins.nydus', 'type')), 'snapshot');
      good('uninstall');
    }
  });

  test('the unit passes systemd-analyze', (t) => {
    if (spawnSync('systemd-analyze', ['--version']).status !== 0) return t.skip('systemd-analyze is not installed');
    good('install');
    // Verified with commands that exist here: the links of another root lead nowhere.
    const unit = join(root, 'nydusd@.service');
    writeFileSync(
      unit,
      text('/etc/systemd/system/nydusd@.service').replaceAll('/opt/nydusd-ts/bin', join(REPOSITORY, 'bin')),
    );
    const { status, stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', unit], { encoding: 'utf8' });
    assert.deepEqual([status, stderr.split('\n').filter((line) => line.includes('nydusd@'))], [0, []]);
  });
});

test('an empty host: files are made, and nothing is left', () => {
  const out = good('install');
  assert.match(out, /note: Kata's Go runtime is not configured on this host/);
  assert.match(text('/etc/containerd/config.toml'), /^version = 2 # nydusd-ts$/m);
  good('uninstall');
  assert.deepEqual(tree(), {});
});

test('foreign edits after the installation stay', () => {
  fullHost();
  good('install');
  const add = (path: string, more: string) => writeFileSync(at(path), `${text(path)}${more}`);
  add('/etc/containerd/config.toml', '[grpc]\n  gid = 5\n');
  add('/etc/kata-containers/configuration-nydus.toml', '# tuned by hand\n');
  rmSync(at('/opt/nydusd-ts/bin/nydusd'));
  symlinkSync('/elsewhere/nydusd', at('/opt/nydusd-ts/bin/nydusd'));
  const out = good('uninstall');
  assert.match(out, /note: .*configuration-nydus.toml was changed since it was installed: kept/);
  assert.match(out, /note: .*\/bin\/nydusd is not the link that was installed: kept/);
  assert.equal(text('/etc/containerd/config.toml'), `${CONTAINERD_1}\n[grpc]\n  gid = 5\n`);
  assert.match(text('/etc/kata-containers/configuration-nydus.toml'), /# tuned by hand\n$/);
  assert.equal(readlinkSync(at('/opt/nydusd-ts/bin/nydusd')), '/elsewhere/nydusd');
  assert.equal(text('/etc/nydus/config.toml'), SNAPSHOTTER);
});

describe('what is not ours', () => {
  test('a file in our place stops the installation before it begins', () => {
    fullHost();
    put('/etc/kata-containers/configuration-nydus.toml', 'mine = true\n');
    const before = tree();
    const { status, stderr } = run('install');
    assert.equal(status, 1);
    assert.match(stderr, /configuration-nydus.toml exists and is not ours; move it away/);
    assert.deepEqual(tree(), before);
  });
  test('a helper and a template that are there stay, with a note', () => {
    put('/usr/local/bin/nydus-overlayfs', 'upstream');
    put('/etc/nydus/nydusd-config.json', '{}');
    assert.match(good('install'), /note: \/usr\/local\/bin\/nydus-overlayfs exists and is not ours: kept/);
    good('uninstall');
    assert.deepEqual(
      [text('/usr/local/bin/nydus-overlayfs'), text('/etc/nydus/nydusd-config.json')],
      ['upstream', '{}'],
    );
  });
  test('a link out of the root is not followed', () => {
    mkdirSync(at('/etc/containerd'), { recursive: true });
    symlinkSync('/etc/hostname', at('/etc/containerd/config.toml'));
    const { status, stderr } = run('install');
    assert.deepEqual([status, /^\S+ is a link that leads out of \S+\n$/.test(stderr)], [1, true], stderr);
  });
  test('neither is a directory that is one', () => {
    const outside = mkdtempSync(join(tmpdir(), 'kata-outside-'));
    symlinkSync(outside, at('/opt'));
    const { status, stderr } = run('install');
    const written = readdirSync(outside);
    rmSync(outside, { recursive: true });
    assert.deepEqual([status, /^\S+ is a link that leads out of \S+\n$/.test(stderr), written], [1, true, []], stderr);
  });
});

test('the commands do the same', () => {
  fullHost();
  const before = tree();
  const would = run('install', '--dry-run');
  assert.deepEqual([would.status, would.stderr, tree()], [0, '', before]);
  const done = run('install');
  assert.deepEqual([done.status, done.stderr], [0, '']);
  assert.equal(would.stdout.replaceAll(/^would /gm, ''), done.stdout.replace(/^now: .*\n/m, ''));
  assert.equal(run('uninstall').status, 0);
  assert.deepEqual(tree(), before);
});

test('words that mean nothing end with 2 and the usage', () => {
  const { status, stderr } = run('install', '--loud');
  assert.deepEqual([status, /Usage: hack\/kata\/install/.test(stderr)], [2, true], stderr);
});
