/** What `doctor` looks at: files of a host, and for the running host what its kernel offers. Nothing is changed. */
import { join } from 'node:path';
import { BIN, CONTAINERD_CONFIG, type Host, KATA_RUNTIMES, SNAPSHOTTER_CONFIG } from './paths.ts';
import { containerdVersion, isOfVersion1 } from './plan.ts';
import { tablesOf, valueAt } from './toml-edit.ts';

export interface Finding {
  what: string;
  ok: boolean;
  found: string;
  /** The line that mends it; '' when nothing is to be done. */
  mend: string;
}

export interface Diagnosis {
  mode: string;
  explanation: string;
  findings: Finding[];
}

const INSTALL = 'hack/kata/install';

/** @param versionOf first line of `program --version`, or null */
export function diagnose(host: Host, versionOf: (program: string) => string | null): Diagnosis {
  const snapshotter = host.text(SNAPSHOTTER_CONFIG);
  const findings = [
    ...commands(host, versionOf),
    ...kata(host),
    ...containerd(host),
    // Another root's programs are not ours to run.
    ...(host.root === '/' ? snapshotterOfHandler(host, versionOf('containerd')) : []),
    ...ofSnapshotter(snapshotter),
    ...(host.root === '/' ? kernel(host) : []),
  ];
  return { ...modeOf(snapshotter), findings };
}

/** The tables of kata-contract 5.1 and 5.3, in the order in which the snapshotter decides. */
export function modeOf(config: string | null): { mode: string; explanation: string } {
  if (config === null) return { mode: 'none', explanation: `no ${SNAPSHOTTER_CONFIG}` };
  const driver = text(config, 'daemon', 'fs_driver') ?? 'fusedev';
  const daemons = text(config, '', 'daemon_mode') ?? 'dedicated';
  const isOn = (key: string) => valueAt(config, 'snapshot', key) === 'true';
  if (driver === 'proxy') return { mode: 'guest-pull', explanation: 'the guest pulls images, no nydusd takes part' };
  if (driver === 'blockdev')
    return { mode: 'tarfs-block', explanation: 'images are block devices, no nydusd takes part' };
  if (driver === 'nodev') return { mode: 'none', explanation: 'fs_driver nodev: no lazy loading' };
  if (isOn('enable_kata_volume'))
    return { mode: 'kata-volume', explanation: 'Kata gets volumes and no configuration for nydusd' };
  if (driver === 'fscache') return { mode: 'fscache', explanation: 'not to be combined with virtio-fs-nydus' };
  if (daemons === 'none')
    return { mode: 'kata-nydus-untested', explanation: 'daemon_mode none: looks unfinished in the snapshotter' };
  if (isOn('enable_nydus_overlayfs'))
    return { mode: 'kata-nydus', explanation: `one nydusd in each sandbox, and ${daemons} ones on the host` };
  return { mode: 'host-only', explanation: 'nydusd on the host for runc; Kata shares what is mounted there' };
}

function text(config: string, table: string, key: string): string | null {
  return valueAt(config, table, key)?.replace(/^['"]|['"]$/g, '') ?? null;
}

function commands(host: Host, versionOf: (program: string) => string | null): Finding[] {
  const nydusd = join(BIN, 'nydusd');
  // Another root's programs are not ours to run.
  const version = host.root === '/' ? versionOf(nydusd) : host.hasName(nydusd) ? `${nydusd} is there` : null;
  const dirs = (process.env['PATH'] ?? '').split(':').filter((dir) => dir !== '');
  const onPath = (names: string[]) =>
    dirs.flatMap((dir) => names.map((name) => join(dir, name))).find((p) => host.hasName(p));
  const fuse = onPath(['mount.fuse', 'mount.fuse3']);
  const helper = onPath(['nydus-overlayfs']);
  return [
    finding('nydusd', version !== null, version ?? `no answer from ${nydusd}`, INSTALL),
    finding('mount.fuse on PATH', fuse !== undefined, fuse ?? 'missing', 'apt-get install fuse3'),
    finding('nydus-overlayfs on PATH', helper !== undefined, helper ?? 'missing', INSTALL),
  ];
}

function kata(host: Host): Finding[] {
  const found = KATA_RUNTIMES.filter(({ bases, config }) => [config, ...bases].some((path) => host.has(path)));
  if (found.length === 0)
    return [finding('Kata', false, 'no configuration of a runtime', 'install Kata Containers 3.2 or later')];
  return found.flatMap(({ name, config }) => {
    const content = host.text(config);
    if (content === null) return [finding(`Kata ${name}`, false, `no ${config}`, INSTALL)];
    const table = tablesOf(content).find((t) => t.startsWith('hypervisor.')) ?? 'hypervisor.qemu';
    const wanted: [key: string, value: string][] = [
      ['shared_fs', '"virtio-fs-nydus"'],
      ['virtio_fs_daemon', `"${BIN}/nydusd"`],
      ['virtio_fs_extra_args', '[]'],
      ['virtio_fs_cache_size', '0'],
    ];
    return wanted.map(([key, value]) => {
      const is = valueAt(content, table, key);
      return finding(`Kata ${name}, ${key}`, is === value, is ?? 'not set', `${config}: [${table}] ${key} = ${value}`);
    });
  });
}

function containerd(host: Host): Finding[] {
  const content = host.text(CONTAINERD_CONFIG);
  if (content === null) return [finding('containerd', false, `no ${CONTAINERD_CONFIG}`, INSTALL)];
  const version = containerdVersion(content);
  const images =
    version === '3' ? 'plugins."io.containerd.cri.v1.images"' : 'plugins."io.containerd.grpc.v1.cri".containerd';
  const runtimes =
    version === '3'
      ? 'plugins."io.containerd.cri.v1.runtime".containerd.runtimes'
      : 'plugins."io.containerd.grpc.v1.cri".containerd.runtimes';
  const rows: [table: string, key: string, value: string][] = [
    ['proxy_plugins.nydus', 'type', '"snapshot"'],
    [images, 'disable_snapshot_annotations', 'false'],
    [images, 'discard_unpacked_layers', 'false'],
    ...KATA_RUNTIMES.filter(({ config }) => host.has(config)).map(({ handler }): [string, string, string] => [
      `${runtimes}.${handler}`,
      'snapshotter',
      '"nydus"',
    ]),
  ];
  const disabled = valueAt(content, '', 'disabled_plugins') ?? '[]';
  const general = [
    finding(
      'containerd, version',
      !isOfVersion1(content),
      valueAt(content, '', 'version') ?? 'not set',
      'containerd config migrate',
    ),
    finding(
      'containerd, CRI',
      !/["'](io\.containerd\.(grpc\.v1\.)?)?cri["'.]/.test(disabled),
      `disabled_plugins = ${disabled}`,
      `${CONTAINERD_CONFIG}: disabled_plugins = []`,
    ),
  ];
  const set = rows.map(([table, key, value]) => {
    const is = valueAt(content, table, key);
    const mend = `${CONTAINERD_CONFIG}: [${table}] ${key} = ${value}`;
    return finding(
      `containerd, ${table.split('.').at(-1)!.replaceAll('"', '')} ${key}`,
      is === value,
      is ?? 'not set',
      mend,
    );
  });
  return [...general, ...set];
}

/** containerd before 1.7 knows no snapshotter of a handler: it takes the one of all pods. @param version `containerd --version` */
export function snapshotterOfHandler(host: Pick<Host, 'text'>, version: string | null): Finding[] {
  const [, major, minor] = / v?(\d+)\.(\d+)\.\d+/.exec(version ?? '') ?? [];
  if (major === undefined || Number(major) > 1 || Number(minor) >= 7) return [];
  const table = 'plugins."io.containerd.grpc.v1.cri".containerd';
  const is = valueAt(host.text(CONTAINERD_CONFIG) ?? '', table, 'snapshotter');
  const mend = `upgrade containerd to 1.7, or for all pods ${CONTAINERD_CONFIG}: [${table}] snapshotter = "nydus"`;
  return [
    finding(`containerd ${major}.${minor} ignores a handler's snapshotter`, is === '"nydus"', is ?? 'not set', mend),
  ];
}

function ofSnapshotter(content: string | null): Finding[] {
  if (content === null) return [finding('snapshotter', false, `no ${SNAPSHOTTER_CONFIG}`, INSTALL)];
  const rows: [table: string, key: string, good: readonly string[]][] = [
    ['', 'daemon_mode', ['"dedicated"', '"multiple"', '"shared"']],
    ['daemon', 'fs_driver', ['"fusedev"']],
    ['daemon', 'nydusd_path', [`"${BIN}/nydusd"`]],
    ['snapshot', 'enable_nydus_overlayfs', ['true']],
    ['snapshot', 'enable_kata_volume', ['false']],
  ];
  return rows.map(([table, key, good]) => {
    const is = valueAt(content, table, key);
    const mend = `${SNAPSHOTTER_CONFIG}: ${table === '' ? '' : `[${table}] `}${key} = ${good[0]}`;
    return finding(`snapshotter, ${key}`, is !== null && good.includes(is.replaceAll("'", '"')), is ?? 'not set', mend);
  });
}

function kernel(host: Host): Finding[] {
  const filesystems = host.text('/proc/filesystems') ?? '';
  const has = (name: string) => new RegExp(`\\b${name}$`, 'm').test(filesystems);
  return [
    finding(
      '/dev/kvm',
      host.has('/dev/kvm'),
      host.has('/dev/kvm') ? 'there' : 'missing',
      'modprobe kvm_intel || modprobe kvm_amd',
    ),
    finding('/dev/fuse', host.has('/dev/fuse'), host.has('/dev/fuse') ? 'there' : 'missing', 'modprobe fuse'),
    finding('overlayfs', has('overlay'), has('overlay') ? 'there' : 'missing', 'modprobe overlay'),
  ];
}

function finding(what: string, ok: boolean, found: string, mend: string): Finding {
  return { what, ok, found, mend: ok ? '' : mend };
}
