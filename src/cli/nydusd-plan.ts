/** From parsed options to what the daemon is to do: pure decisions, no file touched (kata-contract 1.2, 3.1). */
import { basename, extname, resolve } from 'node:path';
import type { LogLevel } from '../common/log.ts';
import { localfsConfig } from '../daemon/localfs-config.ts';
import type { FailoverPolicy } from '../fuse/resend.ts';
import { tagFault } from '../virtiofs/config.ts';
import type { OptionValues, Parsed } from './command.ts';
import { usageError } from './fail.ts';
import { NYDUSD, type NydusdOptions } from './nydusd-options.ts';

type Values = OptionValues<NydusdOptions>;

const MIB = 1024 * 1024;

/** Upstream's default for --rlimit-nofile. */
const NOFILE_DEFAULT = 1_000_000;

/** Modes of upstream: through fscache, as a block device, by page faults. */
const NOT_SERVED: readonly string[] = ['singleton', 'daemon', 'nbd', 'uffd'];

/** The mount that exists before RUNNING. */
export type InitialMount =
  | { kind: 'passthrough'; at: string; source: string }
  | {
      kind: 'rafs';
      at: string;
      source: string;
      configFile: string | null;
      configText: string | null;
      prefetchFiles: string | null;
    };

export interface Plan {
  mode:
    | { kind: 'virtiofs'; sock: string | null; fd: number | null; tag: string | null; requestQueues: number }
    | { kind: 'fuse'; mountpoint: string; readOnly: boolean; failover: FailoverPolicy };
  apisock: string | null;
  id: string | null;
  supervisor: string | null;
  /** A predecessor lives: wait for takeover. */
  upgrade: boolean;
  logLevel: LogLevel;
  logFile: string | null;
  /** 0: never rotated. */
  logRotationBytes: number;
  /** null: not asked for, so that falling short of the default is not worth a warning. */
  nofile: { limit: number; asked: boolean };
  initial: InitialMount | null;
  /** Umount of the unknown is an error everywhere. */
  strictUmount: boolean;
  /** Warnings for the log, one line each. */
  warnings: string[];
}

const wrong = (text: string) => usageError('USAGE', { command: NYDUSD.name, text });

/** @throws AppError USAGE for missing and contradicting options, NOT_SERVED */
export function planFrom(parsed: Parsed<NydusdOptions>): Plan {
  const { values } = parsed;
  const { subcommand } = parsed;
  if (subcommand !== null && NOT_SERVED.includes(subcommand)) {
    throw usageError('NOT_SERVED', { mode: subcommand, instead: 'virtiofs or fuse' });
  }
  const mode = modeOf(parsed);
  const upgrade = values.upgrade === true && mode.kind === 'fuse';
  if (upgrade && values.apisock === undefined)
    throw wrong('--upgrade needs --apisock <PATH>: takeover is asked for there');
  return {
    mode,
    upgrade,
    apisock: values.apisock ?? null,
    id: values.id ?? null,
    supervisor: values.supervisor ?? null,
    logLevel: (values['log-level'] ?? 'info') as LogLevel,
    logFile: values['log-file'] === undefined ? null : withLogExtension(values['log-file']),
    logRotationBytes: Number(values['log-rotation-size'] ?? 0) * MIB,
    nofile: { limit: Number(values['rlimit-nofile'] ?? NOFILE_DEFAULT), asked: values['rlimit-nofile'] !== undefined },
    initial: initialMount(values),
    strictUmount: values['strict-umount'] ?? false,
    warnings: warningsOf(parsed, mode.kind),
  };
}

function modeOf({ subcommand, values }: Parsed<NydusdOptions>): Plan['mode'] {
  const wantsFuse =
    subcommand === 'fuse' || (subcommand === null && values.sock === undefined && values.mountpoint !== undefined);
  if (wantsFuse) {
    if (values.mountpoint === undefined) throw wrong('fuse needs --mountpoint <DIR>');
    return {
      kind: 'fuse',
      mountpoint: resolve(values.mountpoint),
      readOnly: values.writable === undefined,
      failover: (values['failover-policy'] ?? 'resend') as FailoverPolicy,
    };
  }
  if (values.sock === undefined && values.fd === undefined) {
    throw wrong(
      subcommand === null
        ? 'one of --sock <PATH> and --mountpoint <DIR> is needed'
        : 'virtiofs needs --sock <PATH> or --fd <N>',
    );
  }
  if (values.sock !== undefined && values.fd !== undefined) throw wrong('--sock and --fd exclude each other');
  const fault = values.tag === undefined ? null : tagFault(values.tag);
  if (fault !== null) throw wrong(`--tag ${JSON.stringify(values.tag)} ${fault}`);
  return {
    kind: 'virtiofs',
    sock: values.sock ?? null,
    fd: values.fd === undefined ? null : Number(values.fd),
    tag: values.tag ?? null,
    requestQueues: Number(values['request-queues'] ?? 1),
  };
}

function initialMount(values: Values): InitialMount | null {
  const at = values['virtual-mountpoint'] ?? '/';
  const { bootstrap, config } = values;
  const shared = values['shared-dir'];
  const localfs = values['localfs-dir'];
  if (shared !== undefined && bootstrap !== undefined) throw wrong('--shared-dir and --bootstrap exclude each other');
  if (localfs !== undefined && config !== undefined) throw wrong('--localfs-dir and --config exclude each other');
  if (shared !== undefined) return { kind: 'passthrough', at, source: resolve(shared) };
  if (bootstrap === undefined) return null;
  if (config === undefined && localfs === undefined)
    throw wrong('--bootstrap needs --config <FILE> or --localfs-dir <DIR>');
  const configText = localfs === undefined ? null : JSON.stringify(localfsConfig(resolve(localfs)));
  return {
    kind: 'rafs',
    at,
    source: resolve(bootstrap),
    configFile: config ?? null,
    configText,
    prefetchFiles: values['prefetch-files'] ?? null,
  };
}

function warningsOf({ ignored, unknown, values }: Parsed<NydusdOptions>, mode: Plan['mode']['kind']): string[] {
  const warnings: string[] = [];
  if (ignored.length > 0) warnings.push(`options of virtiofsd ignored: ${ignored.join(' ')}`);
  if (unknown.length > 0) warnings.push(`unknown options skipped: ${unknown.join(' ')}`);
  if (mode === 'virtiofs') {
    for (const name of ['supervisor', 'upgrade', 'failover-policy'] as const) {
      if (values[name] !== undefined) warnings.push(`--${name} is for fuse mode, a virtiofs daemon is not handed over`);
    }
  } else if (values.supervisor !== undefined && values['shared-dir'] !== undefined) {
    warnings.push('--supervisor with --shared-dir: only images can be handed over, sendfd will be refused');
  }
  if (values['prefetch-files'] !== undefined && values.bootstrap === undefined)
    warnings.push('--prefetch-files needs --bootstrap; it is left out');
  return warnings;
}

/** Upstream adds `.log` to a name without an extension. */
function withLogExtension(path: string): string {
  return extname(basename(path)) === '' ? `${path}.log` : path;
}
