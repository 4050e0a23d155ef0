/**
 * What `nydus-overlayfs` makes of its four arguments (kata-contract 2.2); no system call happens here.
 *
 *   overlay TARGET -o ro,lowerdir=/a:/b,<options meant for Kata>,dev,suid
 *        └▶ { target, flags: RDONLY, data: 'lowerdir=/a:/b', directory: null }
 *
 * Two kinds of options carry an image's configuration, credentials included, to Kata's runtime. They are dropped here,
 * and no text made here repeats an option.
 */
import { posix } from 'node:path';
import { defineErrors } from '../common/app-error.ts';
import { MS } from '../sys/mount.ts';

/** The kernel copies one page of data and wants a NUL in it. */
const PAGE_BYTES = 4096;
export const DATA_BYTES_MAX = PAGE_BYTES - 1;

/** From here on paths are made relative, as the snapshotter's helper does: room for what the kernel may add. */
const COMPACT_FROM_BYTES = PAGE_BYTES - 512;

/** Options for Kata's runtime, not for the kernel. */
const DROPPED = ['extraoption=', 'io.katacontainers.volume='];

interface Facts {
  ARGUMENT_COUNT: { count: number };
  TYPE: { type: string };
  TARGET: object;
  OPTIONS: object;
  DATA_BYTES: { bytes: number; lowers: number };
  ENCODING: object;
}

export const overlayError = defineErrors<Facts>({
  ARGUMENT_COUNT: {
    retryable: false,
    say: ({ count }) => `4 arguments are needed (overlay TARGET -o OPTIONS), not ${count}`,
  },
  TYPE: { retryable: false, say: ({ type }) => `invalid type ${JSON.stringify(type)}, only "overlay" can be mounted` },
  TARGET: { retryable: false, say: () => 'the target is empty' },
  OPTIONS: { retryable: false, say: () => 'no mount option is left for the kernel' },
  DATA_BYTES: {
    retryable: false,
    say: ({ bytes, lowers }) =>
      `the mount data has ${bytes} bytes (${lowers} lower directories), the kernel takes ${DATA_BYTES_MAX}; use a snapshotter root with a shorter path or an image with fewer layers`,
  },
  ENCODING: { retryable: false, say: () => 'an argument is not UTF-8' },
});

/** Word → flags it sets or clears. `dev` and `suid` clear: mount.fuse appends both to every mount it passes on. */
const WORDS: Readonly<Record<string, { set?: number; clear?: number }>> = {
  __proto__: null as never,
  ro: { set: MS.RDONLY },
  rw: { clear: MS.RDONLY },
  nosuid: { set: MS.NOSUID },
  suid: { clear: MS.NOSUID },
  nodev: { set: MS.NODEV },
  dev: { clear: MS.NODEV },
  noexec: { set: MS.NOEXEC },
  exec: { clear: MS.NOEXEC },
  sync: { set: MS.SYNCHRONOUS },
  async: { clear: MS.SYNCHRONOUS },
  dirsync: { set: MS.DIRSYNC },
  mand: { set: MS.MANDLOCK },
  nomand: { clear: MS.MANDLOCK },
  noatime: { set: MS.NOATIME },
  atime: { clear: MS.NOATIME },
  nodiratime: { set: MS.NODIRATIME },
  diratime: { clear: MS.NODIRATIME },
  relatime: { set: MS.RELATIME },
  norelatime: { clear: MS.RELATIME },
  strictatime: { set: MS.STRICTATIME },
  nostrictatime: { clear: MS.STRICTATIME },
  bind: { set: MS.BIND },
  rbind: { set: MS.BIND | MS.REC },
  remount: { set: MS.REMOUNT },
  defaults: {},
};

/** One mount(2) of type and source `overlay`. */
export interface OverlayMount {
  target: string;
  flags: number;
  /** Options for the kernel, joined with commas. */
  data: string;
  /** Where the relative paths of `data` start; null when they are as given. The target is as given in both cases. */
  directory: string | null;
}

/**
 * argv (without interpreter and script) as mount(2) takes it.
 * @throws AppError of `overlayError`
 */
export function overlayMount(argv: readonly string[]): OverlayMount {
  if (argv.length !== 4) throw overlayError('ARGUMENT_COUNT', { count: argv.length });
  // Node turns every byte that is no UTF-8 into this; the path would be another one.
  if (argv.some((word) => word.includes('\ufffd'))) throw overlayError('ENCODING', {});
  const [type, target, dashO, joined] = argv as [string, string, string, string];
  if (type !== 'overlay') throw overlayError('TYPE', { type: withoutSecrets(type).slice(0, 60) });
  if (target === '') throw overlayError('TARGET', {});
  const words = dashO === '-o' && joined !== '' ? joined.split(',') : [];
  const kept = words.filter((word) => !DROPPED.some((prefix) => word.startsWith(prefix)));
  if (kept.length === 0) throw overlayError('OPTIONS', {});
  let flags = 0;
  const options: string[] = [];
  for (const word of kept) {
    const effect = WORDS[word];
    if (effect === undefined) options.push(word);
    else flags = (flags | (effect.set ?? 0)) & ~(effect.clear ?? 0);
  }
  const { data, directory } = compact(options);
  const bytes = Buffer.byteLength(data);
  if (bytes > DATA_BYTES_MAX) throw overlayError('DATA_BYTES', { bytes, lowers: lowersOf(options).length });
  return { target: directory === null ? target : posix.resolve(target), flags, data, directory };
}

/** A word as it may be shown. */
export function withoutSecrets(word: string): string {
  return DROPPED.some((prefix) => word.includes(prefix.slice(0, -1))) ? '***' : word;
}

const LOWER = 'lowerdir=';
const SINGLE = ['upperdir=', 'workdir='];

/** Lower directories as written. Colons behind a backslash are split too: `compact` leaves such lists alone. */
function lowersOf(options: readonly string[]): string[] {
  return options.filter((o) => o.startsWith(LOWER)).flatMap((o) => o.slice(LOWER.length).split(':'));
}

/** Long data of several lower directories gets paths relative to the longest directory they all lie in. */
function compact(options: readonly string[]): { data: string; directory: string | null } {
  const data = options.join(',');
  const lowers = lowersOf(options);
  if (Buffer.byteLength(data) < COMPACT_FROM_BYTES || lowers.length < 2) return { data, directory: null };
  const singles = SINGLE.flatMap((key) => options.filter((o) => o.startsWith(key)).map((o) => o.slice(key.length)));
  const directory = commonDirectory([...lowers, ...singles]);
  if (directory === null) return { data, directory };
  const relative = (path: string): string => path.slice(directory.length + 1);
  const shorter = options.map((option) => {
    if (option.startsWith(LOWER)) return LOWER + option.slice(LOWER.length).split(':').map(relative).join(':');
    const key = SINGLE.find((prefix) => option.startsWith(prefix));
    return key === undefined ? option : key + relative(option.slice(key.length));
  });
  return { data: shorter.join(','), directory };
}

/** Longest directory that every path lies strictly below; null for `/`, and when a path could not be made relative. */
function commonDirectory(paths: readonly string[]): string | null {
  // Normal paths only: `/a//b` and `/a/./b` would become absolute or empty. A backslash escapes a byte of the name, and
  // chdir takes names without escapes.
  if (!paths.every((path) => path.startsWith('/') && posix.normalize(path) === path && !path.includes('\\')))
    return null;
  let common = posix.dirname(paths[0]!).split('/');
  for (const path of paths) {
    const parts = posix.dirname(path).split('/');
    let same = 0;
    while (same < common.length && common[same] === parts[same]) same++;
    common = common.slice(0, same);
  }
  const directory = common.join('/');
  return directory === '' || paths.some((path) => path.length <= directory.length + 1) ? null : directory;
}
