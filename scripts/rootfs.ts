/** Makes root file systems that demo and benchmark turn into images: Debian packages, unpacked, nothing installed on the host. */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { run, withPackageLists } from '../test/vm/debian.ts';

/** What a small service image holds: an interpreter with its libraries, tools, and much that is never read. */
export const SERVICE_PACKAGES = ['base-files', 'bash', 'dash', 'coreutils', 'python3', 'perl', 'git'];

const DEPENDS = [
  ...['depends', '--recurse', '--no-recommends', '--no-suggests', '--no-conflicts', '--no-breaks', '--no-replaces'],
  '--no-enhances',
];

/** Unpacks `packages` and what they need below `cacheDir/rootfs` unless that was done before. Returns the folder. */
export function makeRootfs(cacheDir: string, packages: readonly string[]): string {
  const rootfs = join(cacheDir, 'rootfs');
  if (existsSync(rootfs)) return rootfs;
  mkdirSync(cacheDir, { recursive: true });
  const scratch = mkdtempSync(join(tmpdir(), 'nydus-rootfs-'));
  const partial = `${rootfs}.${process.pid}.partial`;
  try {
    withPackageLists(() => download(scratch, packages));
    // base-files first: where /bin and /lib are links into /usr, it is the package that brings the links.
    const archives = readdirSync(scratch).filter((name) => name.endsWith('.deb'));
    archives.sort((a, b) => Number(b.startsWith('base-files_')) - Number(a.startsWith('base-files_')));
    for (const archive of archives) run('dpkg-deb', ['-x', join(scratch, archive), partial]);
    compilePython(partial);
    renameSync(partial, rootfs);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
    rmSync(partial, { recursive: true, force: true });
  }
  return rootfs;
}

/** Fetches the packages and all they depend on; names apt prints indented or in brackets are reasons, not packages. */
function download(folder: string, packages: readonly string[]): void {
  const lines = run('apt-cache', [...DEPENDS, ...packages]).split('\n');
  const names = new Set(lines.filter((line) => /^[a-z0-9]/.test(line)));
  run('apt-get', ['download', '-q', '-o', 'APT::Sandbox::User=root', ...names], folder);
}

/** Packages compile their Python files when they are installed; ours are not, so it is done here. */
function compilePython(rootfs: string): void {
  const enter = process.getuid?.() === 0 ? ['chroot'] : ['unshare', '--user', '--map-root-user', 'chroot'];
  const [library] = readdirSync(join(rootfs, 'usr/lib')).filter((name) => /^python3\.\d+$/.test(name));
  const compile = ['/usr/bin/python3', '-m', 'compileall', '-q', `/usr/lib/${library}`];
  run(enter[0]!, [...enter.slice(1), rootfs, ...compile]);
}
