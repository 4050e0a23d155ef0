/** Where things are on a host, seen through `--root DIR`; and where this repository is. */
import { existsSync, lstatSync, readFileSync, realpathSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const HERE = dirname(fileURLToPath(import.meta.url));
export const REPOSITORY = dirname(dirname(HERE));

/** Commands, as the installed configuration names them. */
export const BIN = '/opt/nydusd-ts/bin';
export const COMMANDS = ['nydusd', 'nydus-image', 'nydus-overlayfs', 'nydusctl', 'nydus-backend-proxy'];
/** mount.fuse finds the helper on PATH. */
export const HELPER_ON_PATH = '/usr/local/bin/nydus-overlayfs';
export const STATE = '/var/lib/nydusd-ts/installed.json';

export const CONTAINERD_CONFIG = '/etc/containerd/config.toml';
export const SNAPSHOTTER_CONFIG = '/etc/nydus/config.toml';
export const NYDUSD_CONFIG = '/etc/nydus/nydusd-config.json';
export const UNIT = '/etc/systemd/system/nydusd@.service';

/** A Kata runtime, the places where its configuration may be (the first one counts), and what we make of it. */
export interface KataRuntime {
  name: string;
  /** containerd's handler, and Kubernetes' runtimeClass. */
  handler: string;
  /** `runtime_type`: picks the shim on PATH. */
  type: string;
  bases: readonly string[];
  config: string;
}

export const KATA_RUNTIMES: readonly KataRuntime[] = [
  {
    name: 'Go runtime',
    handler: 'kata-nydus',
    type: 'io.containerd.kata.v2',
    bases: [
      '/etc/kata-containers/configuration.toml',
      '/opt/kata/share/defaults/kata-containers/configuration-qemu.toml',
      '/opt/kata/share/defaults/kata-containers/configuration.toml',
      '/usr/share/defaults/kata-containers/configuration.toml',
    ],
    config: '/etc/kata-containers/configuration-nydus.toml',
  },
  {
    name: 'runtime-rs',
    handler: 'kata-nydus-rs',
    type: 'io.containerd.kata-rs.v2',
    bases: [
      '/etc/kata-containers/runtime-rs/configuration.toml',
      '/opt/kata/share/defaults/kata-containers/runtime-rs/configuration-qemu-runtime-rs.toml',
      '/opt/kata/share/defaults/kata-containers/runtime-rs/configuration.toml',
      '/usr/share/defaults/kata-containers/runtime-rs/configuration.toml',
    ],
    config: '/etc/kata-containers/runtime-rs/configuration-nydus.toml',
  },
];

/** Something on the host stands in the way; nothing was changed. */
export class Conflict extends Error {
  override name = 'Conflict';
}

const UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** A host's files. Paths in and out are the host's own, without the root. */
export class Host {
  constructor(readonly root: string) {}

  at(path: string): string {
    return this.root === '/' ? path : join(this.root, path);
  }

  has(path: string): boolean {
    return existsSync(this.at(path));
  }

  /** True also for a link that leads nowhere: in another root its target is not to be seen. */
  hasName(path: string): boolean {
    return lstatSync(this.at(path), { throwIfNoEntry: false }) !== undefined;
  }

  /** Text of a file, null when there is none. @throws Conflict for one whose bytes could not be given back */
  text(path: string): string | null {
    if (!this.has(path)) return null;
    try {
      return UTF8.decode(readFileSync(this.real(path)));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ERR_ENCODING_INVALID_ENCODED_DATA') throw error;
      throw new Conflict(`${path} is not UTF-8, as configurations have to be`);
    }
  }

  /**
   * Where a file really is, links followed.
   * @throws Conflict when a link leads out of the root: a link in an image means the image's files, not this host's
   */
  real(path: string): string {
    const isThere = path === '/' || this.has(path);
    const real = isThere ? realpathSync(this.at(path)) : join(this.real(dirname(path)), basename(path));
    const root = realpathSync(this.root);
    if (root !== '/' && real !== root && !real.startsWith(`${root}/`))
      throw new Conflict(`${path} is a link that leads out of ${this.root}`);
    return real;
  }
}

/** A file of `etc/` with its placeholders filled in. */
export function template(name: string, values: Readonly<Record<string, string>> = {}): string {
  const all: Readonly<Record<string, string>> = { BIN, REPOSITORY, ...values };
  return readFileSync(join(HERE, 'etc', name), 'utf8').replaceAll(/@([A-Z]+)@/g, (whole, key) => all[key] ?? whole);
}
