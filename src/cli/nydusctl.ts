/** `nydusctl`: asks and steers a running daemon through its API socket, as upstream's tool does (kata-contract 6.1). */
import { readFileSync } from 'node:fs';
import { type CommandSpec, type OptionTable, type Parsed, parseArgs, renderHelp } from './command.ts';
import { complain, EXIT_FAILED, EXIT_OK, print, report, usageError } from './fail.ts';
import { ApiClient, RequestFailed } from './nydusctl-client.ts';
import { top } from './nydusctl-top.ts';
import { backendRates, backendView, cacheView, fsView, infoView } from './nydusctl-views.ts';

const NAME = 'nydusctl';
const SECONDS_MAX = 86_400;
const ROUNDS_MAX = 1_000_000_000;

const OPTIONS = {
  sock: { short: 'S', value: 'SOCK', help: 'API socket of the daemon' },
  raw: { short: 'r', help: 'print the JSON of the daemon' },
  help: { short: 'h', help: 'print this text' },
  version: { short: 'V', help: 'print the version' },
  interval: {
    short: 'I',
    value: 'SECONDS',
    range: [1, SECONDS_MAX],
    group: 'metrics backend, top',
    help: 'show what happened in each interval',
  },
  count: {
    short: 'n',
    value: 'N',
    range: [1, ROUNDS_MAX],
    group: 'metrics backend, top',
    help: 'end after N intervals',
  },
  source: { short: 's', value: 'PATH', group: 'mount', help: 'bootstrap of an image, or a directory' },
  config: { short: 'c', value: 'FILE', group: 'mount', help: 'configuration of the image' },
  mountpoint: { short: 'm', value: 'PATH', group: 'mount, umount', help: 'where, inside the daemon' },
  type: { short: 't', value: 'TYPE', choices: ['rafs', 'passthrough_fs'], group: 'mount', help: 'kind of the source' },
  dir: { value: 'DIR', group: 'cache', help: 'the cache directory, work_dir of a configuration' },
  'dry-run': { group: 'cache', help: 'gc only says what it would remove' },
  quota: {
    value: 'SIZE',
    group: 'cache',
    help: 'gc removes unused blobs, the longest unused first, down to SIZE (10G, 500M)',
  },
  all: { group: 'cache', help: 'rm removes every blob that is not in use' },
} as const satisfies OptionTable;
type Options = typeof OPTIONS;

const SPEC: CommandSpec<Options> = {
  name: NAME,
  summary: 'Asks and steers a running nydusd.',
  usage: [
    `${NAME} --sock SOCK [--raw] SUBCOMMAND`,
    `${NAME} cache ls --dir DIR`,
    `${NAME} cache gc --dir DIR [--dry-run] [--quota SIZE]`,
    `${NAME} cache rm --dir DIR BLOB…|--all`,
  ],
  subcommands: {
    info: 'version, state and mounts',
    set: 'set log-level trace|debug|info|warn|error',
    metrics: 'metrics backend|cache|fsstats',
    mount: 'mount an image or a directory',
    umount: 'unmount it',
    top: 'live rates, hit ratio and prefetch progress of every mount',
    cache: 'ls, gc (what is left over, and unused blobs above a quota) or rm in a cache directory; needs no daemon',
    help: 'print this text',
  },
  operands: {
    set: ['KIND', 'VALUE'],
    metrics: ['CATEGORY'],
    umount: ['MOUNTPOINT'],
    cache: ['ACTION', 'BLOB…'],
    help: ['SUBCOMMAND'],
  },
  options: OPTIONS,
  unknown: 'refuse',
};

type Call = (client: ApiClient, args: Parsed<Options>) => Promise<void>;

/** Subcommand → the options that mean something to it, and what it does. */
const SUBCOMMANDS: Readonly<Record<string, { options: readonly (keyof Options)[]; run: Call }>> = {
  info: { options: [], run: async (client, args) => show(args, await client.get('/api/v1/daemon'), infoView) },
  set: { options: [], run: setParameter },
  metrics: { options: ['interval', 'count'], run: metrics },
  mount: { options: ['source', 'config', 'mountpoint', 'type'], run: mount },
  umount: { options: ['mountpoint'], run: umount },
  top: {
    options: ['interval', 'count'],
    run: (client, { values }) =>
      top(client, { ...rounds(values), raw: values.raw === true, isTerminal: process.stdout.isTTY === true, print }),
  },
};

const COMMON: readonly (keyof Options)[] = ['sock', 'raw', 'help', 'version'];

/** Exit code as in `fail.ts`: 1 for a refused or failed request, 2 for a mistake on the command line. */
export async function main(argv: readonly string[]): Promise<number> {
  try {
    const args = parseArgs(SPEC, argv);
    const { values, subcommand } = args;
    if (values.help || subcommand === 'help') print(renderHelp(SPEC));
    else if (values.version) print((await import('../daemon/build-info.ts')).versionText());
    else await run(args);
    return EXIT_OK;
  } catch (error) {
    if (error instanceof RequestFailed) {
      complain(NAME, error.message);
      return EXIT_FAILED;
    }
    return report(NAME, error);
  }
}

async function run(args: Parsed<Options>): Promise<void> {
  if (args.subcommand === null) throw misuse('a subcommand is required');
  if (args.subcommand === 'cache') return runCache(args);
  const sock = required(args, 'sock');
  const { options, run: call } = SUBCOMMANDS[args.subcommand]!;
  refuseStray(args.subcommand, args.values, [...COMMON, ...options]);
  const client = new ApiClient(sock);
  try {
    await call(client, args);
  } finally {
    client.close();
  }
}

const CACHE_OPTIONS: readonly (keyof Options)[] = ['dir', 'dry-run', 'quota', 'all', 'raw'];

/** Everything it needs is imported here: the other subcommands only talk to a socket. */
async function runCache({ values, operands: [action, ...blobIds] }: Parsed<Options>): Promise<void> {
  const { cache, parseSize } = await import('./nydusctl-cache.ts');
  refuseStray('cache', values, CACHE_OPTIONS);
  if (values.dir === undefined) throw misuse('--dir is required');
  const quotaBytes = values.quota === undefined ? null : parseSize(values.quota);
  if (values.quota !== undefined && quotaBytes === null) throw misuse('--quota is a size such as 500M or 10G');
  if (quotaBytes === 0) throw misuse('--quota 0 is none; cache rm --all takes out every blob that is not in use');
  await cache({
    action: action ?? '',
    blobIds,
    dir: values.dir,
    isDry: values['dry-run'] === true,
    quotaBytes,
    isAll: values.all === true,
    isRaw: values.raw === true,
    print,
  });
}

function refuseStray(subcommand: string, values: Parsed<Options>['values'], known: readonly (keyof Options)[]): void {
  const stray = Object.keys(values).find((name) => !known.includes(name as keyof Options));
  if (stray !== undefined) throw misuse(`--${stray} means nothing to ${subcommand}`);
}

const misuse = (text: string) => usageError('USAGE', { command: NAME, text });

function required(args: Parsed<Options>, name: keyof Options & ('sock' | 'source' | 'config' | 'mountpoint' | 'type')) {
  const value = args.values[name];
  if (value === undefined) throw misuse(`--${name} is required`);
  return value;
}

function show(args: Parsed<Options>, answer: object, view: (answer: never) => string): void {
  print(args.values.raw ? `${JSON.stringify(answer)}\n` : view(answer as never));
}

const rounds = (values: Parsed<Options>['values']) => ({
  intervalMs: Number(values.interval ?? 1) * 1000,
  count: values.count === undefined ? Number.POSITIVE_INFINITY : Number(values.count),
});

async function setParameter(client: ApiClient, { operands: [kind, value] }: Parsed<Options>): Promise<void> {
  if (kind !== 'log-level' || value === undefined) throw misuse('what to set is: set log-level VALUE');
  await client.send('PUT', '/api/v1/daemon', { log_level: value });
}

const CATEGORIES: Readonly<Record<string, { path: string; view: (answer: never) => string }>> = {
  backend: { path: '/api/v1/metrics/backend', view: backendView },
  cache: { path: '/api/v1/metrics/blobcache', view: cacheView },
  fsstats: { path: '/api/v1/metrics', view: fsView },
};

async function metrics(client: ApiClient, args: Parsed<Options>): Promise<void> {
  const [name = ''] = args.operands;
  const category = Object.hasOwn(CATEGORIES, name) ? CATEGORIES[name]! : null;
  if (category === null) throw misuse(`the category of metrics is one of ${Object.keys(CATEGORIES).join(', ')}`);
  if (args.values.interval === undefined) return show(args, await client.get(category.path), category.view);
  if (name !== 'backend') throw misuse('--interval is for metrics backend and top');
  const { intervalMs, count } = rounds(args.values);
  let before = await client.get(category.path);
  for (let i = 0; i < count; i++) {
    await new Promise((resolve) => setTimeout(resolve, intervalMs));
    const now = await client.get(category.path);
    const isRead = print(
      args.values.raw ? `${JSON.stringify(now)}\n` : backendRates(before as never, now as never, intervalMs),
    );
    if (!isRead) return;
    before = now;
  }
}

async function mount(client: ApiClient, args: Parsed<Options>): Promise<void> {
  const type = required(args, 'type');
  const where = required(args, 'mountpoint');
  const source = required(args, 'source');
  // Upstream wants a file for directories too, where it says nothing; we do without.
  const config = type === 'passthrough_fs' && args.values.config === undefined ? '' : read(required(args, 'config'));
  await client.send('POST', mountUrl(where), { source, fs_type: type, config });
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new RequestFailed(`cannot read the configuration ${path}: ${(error as Error).message}`);
  }
}

async function umount(client: ApiClient, args: Parsed<Options>): Promise<void> {
  const where = args.values.mountpoint ?? args.operands[0];
  if (where === undefined) throw misuse('--mountpoint is required');
  await client.send('DELETE', mountUrl(where));
}

function mountUrl(where: string): string {
  return `/api/v1/mount?mountpoint=${encodeURIComponent(where).replaceAll('%2F', '/')}`;
}
