/**
 * Everything a guest is made of, found on this machine or fetched from Debian into `.cache/vm` (never installed).
 *
 * Programs come from the packages `scripts/setup.sh` installs. Debian's cloud kernel is only unpacked: installing it
 * would touch the host's boot loader.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { explain } from '../../src/common/app-error.ts';
import { dependencies, unpackedPackage, withPackageLists } from './debian.ts';
import { vmError } from './errors.ts';

export type GuestKind = 'qemu' | 'uml';
export const GUEST_KINDS: readonly GuestKind[] = ['qemu', 'uml'];

export interface KernelAssets {
  /** Kernel to boot: a bzImage for QEMU, an executable for UML. */
  kernel: string;
  /** Folder with the `.ko` files of that kernel. */
  modules: string;
}

export interface Assets extends KernelAssets {
  kind: GuestKind;
  /** The emulator, or the UML kernel itself. */
  program: string;
  busybox: string;
  /** `-accel` argument; empty for UML. */
  accel: string;
}

export const REPOSITORY = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
export const CACHE_DIR = join(REPOSITORY, '.cache', 'vm');

/** GNU programs of the guest: busybox has no NUL-separated sha256sum, no find -printf and no xattrs. */
export const GUEST_TOOLS = ['find', 'stat', 'sha256sum', 'getfattr', 'setfattr'] as const;

const SETUP = 'run scripts/setup.sh as root';
const KERNEL_PACKAGE = 'linux-image-cloud-amd64';
/** A kernel under working KVM prints its first line within 0.3 s, under broken nested KVM never. */
const KVM_PROBE_MS = 5000;

/** Path of `program`. @throws VM_PART_MISSING */
export function which(program: string): string {
  const folders = [...(process.env['PATH'] ?? '').split(':'), '/usr/sbin', '/sbin', '/usr/local/bin'];
  const path = folders.map((folder) => join(folder, program)).find((candidate) => existsSync(candidate));
  if (path === undefined) throw vmError('VM_PART_MISSING', { part: program, hint: SETUP });
  return path;
}

/** All parts of a guest of `kind`. @throws VM_PART_MISSING, VM_COMMAND */
export function assetsOf(kind: GuestKind): Assets {
  for (const tool of [...GUEST_TOOLS, 'unshare', 'setpriv']) which(tool);
  const busybox = staticBusybox();
  if (kind === 'uml') {
    const program = which('linux.uml');
    return { kind, program, kernel: program, modules: onlyFolder('/usr/lib/uml/modules'), busybox, accel: '' };
  }
  const program = which('qemu-system-x86_64');
  const cloud = cloudKernel();
  return { kind, program, ...cloud, busybox, accel: accelerator(program, cloud.kernel) };
}

/**
 * Skip reason for node:test, or false. With CI set nothing is skipped: the test then fails on the missing part.
 * `VM_FILTER` names the tests to run, by part of their name.
 */
export function skipUnless(kind: GuestKind | 'host', name: string): string | false {
  const filter = process.env['VM_FILTER'];
  if (filter !== undefined && filter !== '' && !`${kind}: ${name}`.includes(filter)) return `VM_FILTER=${filter}`;
  if (process.env['CI'] === 'true') return false;
  try {
    if (kind === 'host') requireHostMounts();
    else assetsOf(kind);
    return false;
  } catch (error) {
    return explain(error);
  }
}

/** @throws VM_PART_MISSING unless this process may mount FUSE and EROFS on the host */
function requireHostMounts(): void {
  if (process.getuid?.() !== 0) throw vmError('VM_PART_MISSING', { part: 'the right to mount', hint: 'run as root' });
  if (!existsSync('/dev/fuse')) throw vmError('VM_PART_MISSING', { part: '/dev/fuse', hint: 'modprobe fuse' });
  spawnSync('modprobe', ['erofs']);
  if (!/\berofs$/m.test(readFileSync('/proc/filesystems', 'latin1'))) {
    throw vmError('VM_PART_MISSING', { part: "the kernel's erofs", hint: 'this kernel was built without it' });
  }
}

function staticBusybox(): string {
  const path = which('busybox');
  const head = readFileSync(path);
  // A dynamic busybox names its loader; the guest has no place it could be loaded from before /init runs.
  if (head.includes('/lib64/ld-linux')) {
    throw vmError('VM_PART_MISSING', { part: 'a static busybox (package busybox-static)', hint: SETUP });
  }
  return path;
}

function onlyFolder(parent: string): string {
  const first = existsSync(parent) ? readdirSync(parent)[0] : undefined;
  if (first === undefined) throw vmError('VM_PART_MISSING', { part: `modules below ${parent}`, hint: SETUP });
  return join(parent, first);
}

function cloudKernel(): KernelAssets {
  const unpacked = join(CACHE_DIR, 'kernel');
  const have = existsSync(unpacked) ? readdirSync(unpacked).find((name) => !name.endsWith('.partial')) : undefined;
  const name = have ?? withPackageLists(kernelPackage);
  const folder = unpackedPackage(name, unpacked);
  const version = name.slice('linux-image-'.length);
  const kernel = join(folder, 'boot', `vmlinuz-${version}`);
  const modules = [join(folder, 'lib/modules', version), join(folder, 'usr/lib/modules', version)].find(existsSync);
  if (!existsSync(kernel) || modules === undefined) {
    throw vmError('VM_PART_MISSING', { part: `${kernel} and its modules`, hint: `remove ${folder} and try again` });
  }
  return { kernel, modules };
}

/** The versioned package the cloud kernel's name stands for now. @throws VM_PART_MISSING */
function kernelPackage(): string {
  const name = dependencies(KERNEL_PACKAGE).find((candidate) => candidate.startsWith('linux-image-'));
  if (name !== undefined) return name;
  throw vmError('VM_PART_MISSING', { part: KERNEL_PACKAGE, hint: 'apt does not know it: apt-get update' });
}

/** KVM only after a kernel really ran on it: nested KVM may open, answer, and then never execute anything. */
function accelerator(qemu: string, kernel: string): string {
  const wanted = process.env['VM_ACCEL'];
  if (wanted === 'kvm' || wanted === 'tcg') return accelArgument(wanted);
  if (!existsSync('/dev/kvm')) return accelArgument('tcg');
  const bootId = readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();
  const memo = join(CACHE_DIR, `accel-${bootId}`);
  if (existsSync(memo)) return accelArgument(readFileSync(memo, 'latin1') === 'kvm' ? 'kvm' : 'tcg');
  const args = ['-accel', 'kvm', '-machine', 'q35', '-nodefaults', '-display', 'none', '-no-reboot', '-m', '256M'];
  const boot = ['-kernel', kernel, '-append', 'earlyprintk=serial console=ttyS0 panic=-1', '-serial', 'stdio'];
  const done = spawnSync(qemu, [...args, ...boot], {
    timeout: KVM_PROBE_MS,
    killSignal: 'SIGKILL',
    encoding: 'latin1',
  });
  const works = done.error === undefined && done.stdout.includes('Linux version');
  mkdirSync(CACHE_DIR, { recursive: true });
  writeFileSync(memo, works ? 'kvm' : 'tcg');
  return accelArgument(works ? 'kvm' : 'tcg');
}

function accelArgument(kind: 'kvm' | 'tcg'): string {
  // 256 MiB hold every translation of a boot and its tests; the default of a quarter of RAM starves small machines.
  return kind === 'kvm' ? 'kvm' : 'tcg,tb-size=256';
}

/** `.ko` files needed for `names`, each after what it depends on; names built into the kernel are left out. */
export function moduleFiles(modules: string, names: readonly string[]): string[] {
  const byName = new Map<string, string>();
  for (const line of execFileSync(which('find'), [modules, '-name', '*.ko'], { encoding: 'utf8' }).split('\n')) {
    if (line !== '') byName.set(moduleName(line.slice(line.lastIndexOf('/') + 1, -'.ko'.length)), line);
  }
  const builtin = readFileSync(join(modules, 'modules.builtin'), 'utf8')
    .split('\n')
    .map((line) => moduleName(line.slice(line.lastIndexOf('/') + 1).replace(/\.ko$/, '')));
  const order: string[] = [];
  const add = (name: string): void => {
    const path = byName.get(moduleName(name));
    if (path === undefined) {
      if (builtin.includes(moduleName(name))) return;
      throw vmError('VM_PART_MISSING', { part: `kernel module ${name}`, hint: `it is not below ${modules}` });
    }
    if (order.includes(path)) return;
    for (const needed of moduleDependencies(path)) add(needed);
    order.push(path);
  };
  for (const name of names) add(name);
  return order;
}

const moduleName = (name: string): string => name.replaceAll('-', '_');

function moduleDependencies(path: string): string[] {
  const text = readFileSync(path).toString('latin1');
  const found = /\0depends=([^\0]*)\0/.exec(text);
  return found === null || found[1] === '' ? [] : found[1]!.split(',');
}

/** Host path of each shared library `program` needs, its loader included. */
export function librariesOf(program: string): string[] {
  const text = execFileSync('ldd', [which(program)], { encoding: 'utf8' });
  return [...text.matchAll(/(?:=> )?(\/\S+) \(0x/g)].map((match) => match[1]!);
}
