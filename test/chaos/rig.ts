/** Daemons over a faulty registry: ours or nydusd, behind our frontend or behind the kernel's FUSE client. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { findProgram } from '../../bench/programs.ts';
import { FaultServer } from '../daemon/fault-server.ts';
import { type Argv, KATA_ARGV, NYDUSD, Nydusd } from '../daemon/nydusd.ts';
import type { Image } from './images.ts';
import { FrontendReader, HostReader, type Reader } from './readers.ts';

export const SUBJECTS = ['ours', 'nydusd'] as const;
export type Subject = (typeof SUBJECTS)[number];
export const TRANSPORTS = ['frontend', 'fuse'] as const;
export type Transport = (typeof TRANSPORTS)[number];

/** One column of the report. */
export interface Column {
  subject: Subject;
  transport: Transport;
}

/** Program of a subject; null when the peer is not installed. */
export function programOf(subject: Subject): string | null {
  return subject === 'ours' ? NYDUSD : findProgram('nydusd', 'NYDUSD');
}

/** A daemon with the image at /i, and who reads it. */
export interface Served {
  daemon: Nydusd;
  reader: Reader;
  /** Takes the daemon away with -9, whatever state it is in. */
  end(): Promise<void>;
}

export interface ServeOptions {
  image: Image;
  cache: string;
  /** Digests are checked. nydusd refuses that for v6. */
  validate?: boolean;
}

export class ChaosRig {
  readonly dir = fs.mkdtempSync(path.join(tmpdir(), 'chaos-'));
  private made = 0;

  private constructor(readonly server: FaultServer) {}

  /** A registry with the blobs of the directory `blobs`. */
  static async start(blobs: string): Promise<ChaosRig> {
    return new ChaosRig(await FaultServer.start(blobs));
  }

  freshDir(): string {
    const dir = path.join(this.dir, `${this.made++}`);
    fs.mkdirSync(dir);
    return dir;
  }

  /** Between two cells: what their daemons left. */
  sweep(): void {
    for (const name of fs.readdirSync(this.dir)) fs.rmSync(path.join(this.dir, name), { recursive: true });
  }

  /** @throws when the daemon does not come up or does not mount */
  async serve({ subject, transport }: Column, { image, cache, validate = true }: ServeOptions): Promise<Served> {
    const mountpoint = this.freshDir();
    const daemon = await Nydusd.start(argvOf(subject, transport, mountpoint), [programOf(subject)!]);
    const end = async (): Promise<void> => {
      const { ended } = daemon;
      daemon.kill();
      await ended;
      if (transport === 'fuse') execFileSync('umount', ['-l', mountpoint], { stdio: 'ignore' });
    };
    try {
      const checks = validate && (subject === 'ours' || image.isV5);
      const config = JSON.stringify(configOf(this.server.host, cache, checks));
      const answer = await daemon.mount('/i', { fs_type: 'rafs', source: image.bootstrap, config });
      if (answer.status !== 204) throw new Error(`mount: ${answer.status} ${answer.text}`);
      const isPeer = subject !== 'ours';
      const reader = transport === 'fuse' ? new HostReader(mountpoint) : new FrontendReader(daemon.sock, isPeer);
      return { daemon, reader, end };
    } catch (error) {
      await end();
      throw error;
    }
  }

  end(): void {
    this.server.stop();
    fs.rmSync(this.dir, { recursive: true, force: true });
  }
}

function argvOf(subject: Subject, transport: Transport, mountpoint: string): Argv {
  const more = subject === 'ours' ? [] : ['--rlimit-nofile', '0', '--log-level', 'error'];
  if (transport === 'fuse') return (_, api) => ['fuse', '--mountpoint', mountpoint, '--apisock', api, ...more];
  return subject === 'ours' ? KATA_ARGV : (sock, api) => ['virtiofs', '--sock', sock, '--apisock', api, ...more];
}

/** The same for both; nydusd tries once where nothing is said. */
function configOf(host: string, cache: string, validate: boolean): object {
  return {
    device: {
      id: 'chaos',
      backend: { type: 'registry', config: { scheme: 'http', host, repo: 'r', retry_limit: 4 } },
      cache: { type: 'blobcache', config: { work_dir: cache } },
    },
    mode: 'direct',
    digest_validate: validate,
    enable_xattr: true,
  };
}
