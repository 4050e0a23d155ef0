/** Options of `nydusd`: one table that parses, and renders the help (kata-contract 3.1 and 1.2). */
import { LOG_LEVELS } from '../common/log.ts';
import { FAILOVER_POLICIES } from '../fuse/resend.ts';
import type { CommandSpec, OptionTable } from './command.ts';

const FS = 'File system options';
const FUSE = 'Options of fuse';
const VIRTIOFS = 'Options of virtiofs';

const OPTIONS = {
  apisock: { short: 'A', value: 'PATH', help: 'Serve the HTTP API on this Unix socket' },
  config: { short: 'C', value: 'FILE', help: 'Configuration (JSON) of the image mounted at start' },
  id: { value: 'ID', help: 'Instance id shown by the API' },
  'log-level': { short: 'l', value: 'LEVEL', choices: LOG_LEVELS, default: 'info', help: 'Lines to log' },
  'log-file': {
    short: 'L',
    value: 'PATH',
    help: 'Append the log to a file instead of stdout; .log is added to a bare name',
  },
  'log-rotation-size': {
    value: 'MB',
    range: [0, 2 ** 20],
    default: '0',
    help: 'Begin a new --log-file at this size, compress the old one and keep ten; 0 = never',
  },
  'rlimit-nofile': {
    value: 'N',
    range: [0, Number.MAX_SAFE_INTEGER],
    default: '1000000',
    help: 'Limit of open files, capped at the hard limit; 0 = leave it alone',
  },
  supervisor: { value: 'PATH', help: 'fuse: leave what a successor needs with the supervisor on this Unix socket' },
  upgrade: { help: 'fuse: start in INIT and wait to take over from a running daemon' },
  'strict-umount': { help: 'Umount of what is not mounted below /rafs/ is an error, as elsewhere' },
  version: { short: 'V', help: 'Print version, commit and build time' },
  help: { short: 'h', help: 'Print this text' },

  bootstrap: {
    short: 'B',
    value: 'FILE',
    group: FS,
    help: 'Mount this RAFS image at start; needs --config or --localfs-dir',
  },
  'localfs-dir': { short: 'D', value: 'DIR', group: FS, help: 'Blobs and their cache are files in this directory' },
  'shared-dir': { short: 's', value: 'DIR', group: FS, help: 'Share this host directory from the start' },
  'virtual-mountpoint': { short: 'm', value: 'PATH', default: '/', group: FS, help: 'Where the initial mount appears' },
  'prefetch-files': {
    value: 'FILE',
    group: FS,
    help: 'Paths to fetch ahead, one a line, or an access trace; - for standard input',
  },
  'backend-source': { value: 'URL', group: FS, help: 'Accepted and ignored' },
  'dedup-db': { value: 'FILE', group: FS, help: 'Accepted and ignored' },

  sock: { value: 'PATH', group: VIRTIOFS, help: 'Listen here for the VMM (vhost-user); or --fd' },
  fd: {
    value: 'N',
    range: [3, 2 ** 20],
    group: VIRTIOFS,
    help: 'Use this inherited socket, connected or listening, instead of --sock',
  },
  tag: { value: 'TAG', group: VIRTIOFS, help: 'Tell the VMM this tag (for VMMs that do not set one themselves)' },
  'request-queues': {
    value: 'N',
    range: [1, 64],
    default: '1',
    group: VIRTIOFS,
    help: 'Request queues offered to the guest',
  },
  'hybrid-mode': { group: VIRTIOFS, help: 'Accepted: images and directories always mix' },

  mountpoint: { short: 'M', value: 'DIR', group: FUSE, help: 'Mount the file system on this host directory' },
  writable: { group: FUSE, help: 'Mount read-write' },
  'fuse-threads': { value: 'N', aliases: ['thread-num'], group: FUSE, help: 'Accepted: one device thread serves all' },
  'failover-policy': {
    value: 'POLICY',
    choices: FAILOVER_POLICIES,
    default: 'resend',
    group: FUSE,
    help: 'What becomes of requests that a dead daemon left unanswered: served again, failed, or left alone',
  },
} as const satisfies OptionTable;

export type NydusdOptions = typeof OPTIONS;

/** What virtiofsd takes and Kata's default configuration passes to any daemon (kata-contract 1.2 rule 6). */
const VIRTIOFSD = {
  '--thread-pool-size': 'of virtiofsd',
  '--announce-submounts': 'of virtiofsd; always on',
  '--no-announce-submounts': 'of virtiofsd',
  '-o': 'of virtiofsd',
  '--cache': 'of virtiofsd; the policy is auto',
  '--sandbox': 'of virtiofsd',
  '--xattr': 'of virtiofsd; always on',
  '--posix-acl': 'of virtiofsd',
  '--inode-file-handles': 'of virtiofsd',
  '--modcaps': 'of virtiofsd',
  '--socket-path': 'of virtiofsd; here it is --sock',
  '--socket-group': 'of virtiofsd',
  '--seccomp': 'of virtiofsd',
  '--threads': 'of nydusd uffd and nbd',
  '-d': 'of virtiofsd',
  '-f': 'of virtiofsd',
} as const;

export const NYDUSD: CommandSpec<NydusdOptions> = {
  name: 'nydusd',
  summary:
    'Serves lazily loaded nydus images and host directories to virtual machines (virtiofs) or to this host (fuse).',
  usage: [
    'nydusd virtiofs --sock PATH [--apisock PATH] [OPTIONS]    mounts come through the API',
    'nydusd virtiofs --sock PATH --shared-dir DIR              a host directory, by hand',
    'nydusd virtiofs --sock PATH --bootstrap FILE --config FILE    an image, by hand',
    'nydusd fuse --mountpoint DIR [...]                        the same on this host',
  ],
  subcommands: {
    virtiofs: 'vhost-user-fs device for a VMM (also without a subcommand, when --sock is given)',
    fuse: 'FUSE mount on this host (also without a subcommand, when --mountpoint is given)',
    singleton: 'fscache daemon; not served, refused',
    daemon: 'the older name of singleton',
    nbd: 'block device of this host; not served, refused',
    uffd: 'page faults of a VMM; not served, refused',
  },
  operands: { nbd: ['DEVICE'] },
  ignored: VIRTIOFSD,
  options: OPTIONS,
  unknown: 'skip',
};
