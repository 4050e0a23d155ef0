/**
 * Lists a tree: path, type, mode, owner, inode, links, size, time, link target, device number, SHA-256, xattrs.
 *
 * The same four programs make the list in the guest and on the host (`find`, `stat`, `sha256sum`, `getfattr`, a
 * handful of processes for any number of files); everything is NUL separated, so any name survives. Paths are latin1
 * strings, one character per byte, relative to the root, which is "/".
 */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

export type EntryType = 'file' | 'dir' | 'symlink' | 'char' | 'block' | 'fifo' | 'socket';

export interface Entry {
  type: EntryType;
  /** Permission bits only. */
  mode: number;
  uid: number;
  gid: number;
  /** Decimal digits; null where the source of the list does not know it. */
  ino: string | null;
  nlink: number | null;
  size: number | null;
  /** Whole seconds and nanoseconds. */
  mtimeSec: number;
  mtimeNsec: number | null;
  target: string | null;
  rdev: string | null;
  sha256: string | null;
  /** `name=base64`, sorted. */
  xattrs: readonly string[];
}

export type Manifest = Map<string, Entry>;

export const MANIFEST_PARTS = ['find', 'rdev', 'sha256', 'xattr'] as const;
export type ManifestParts = Record<(typeof MANIFEST_PARTS)[number], Buffer>;

/**
 * `manifest NAME DIR`: sends NAME.find, NAME.rdev, NAME.sha256 and NAME.xattr; `-e` ends the case when one file fails.
 * `find` runs in DIR, so that names are relative and short.
 */
export const MANIFEST_SH = `
manifest() {
  ( cd "$2"
    find . -printf '%y\\0%m\\0%U\\0%G\\0%i\\0%n\\0%s\\0%T@\\0%l\\0%P\\0' >/tmp/m.find
    find . '(' -type b -o -type c ')' -exec stat --printf '%t:%T\\0%n\\0' {} + >/tmp/m.rdev
    find . -type f -exec sha256sum -z {} + >/tmp/m.sha256
    getfattr -R -P -h -d -m - -e base64 . >/tmp/m.xattr )
  for part in find rdev sha256 xattr; do send "$1.$part" "/tmp/m.$part"; rm "/tmp/m.$part"; done
}
`;

const TYPES: Record<string, EntryType> = {
  f: 'file',
  d: 'dir',
  l: 'symlink',
  c: 'char',
  b: 'block',
  p: 'fifo',
  s: 'socket',
};
const FIND_FIELDS = 10;

/**
 * The list of host directory `root`, made as the guest makes it. Never blocks the event loop: what serves that
 * directory may run in this process. @throws when a file cannot be read.
 */
export async function hostManifest(root: string): Promise<Manifest> {
  const scratch = mkdtempSync(join(tmpdir(), 'nydus-manifest-'));
  try {
    const text = MANIFEST_SH.replaceAll('/tmp/m.', `${scratch}/m.`);
    const program = `set -eu\nsend() { mv "$2" "${scratch}/$1"; : >"$2"; }\n${text}\nmanifest list "$1"`;
    await promisify(execFile)('sh', ['-c', program, 'sh', root], { env: { ...process.env, LC_ALL: 'C' } });
    const part = (name: string): Buffer => readFileSync(join(scratch, `list.${name}`));
    return parseManifest({ find: part('find'), rdev: part('rdev'), sha256: part('sha256'), xattr: part('xattr') });
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** Picks `name`'s parts out of what a guest sent and parses them. @throws when a part did not arrive. */
export function guestManifest(data: ReadonlyMap<string, Buffer>, name: string): Manifest {
  const part = (kind: string): Buffer => {
    const bytes = data.get(`${name}.${kind}`);
    if (bytes === undefined) throw new Error(`the guest did not send ${name}.${kind}`);
    return bytes;
  };
  return parseManifest({ find: part('find'), rdev: part('rdev'), sha256: part('sha256'), xattr: part('xattr') });
}

/** @throws on fields that are not what the programs print. */
export function parseManifest(parts: ManifestParts): Manifest {
  const rdevs = new Map<string, string>();
  pairs(parts.rdev).forEach(([device, name]) => {
    const [major, minor] = device.split(':').map((digits) => Number.parseInt(digits, 16));
    rdevs.set(absolute(name), `${major}:${minor}`);
  });
  const sums = new Map<string, string>();
  for (const line of records(parts.sha256)) sums.set(absolute(line.slice(66)), line.slice(0, 64));
  const xattrs = parseXattrs(parts.xattr);
  const fields = records(parts.find);
  if (fields.length % FIND_FIELDS !== 0) throw new Error(`a list of ${fields.length} fields was cut off`);
  const manifest: Manifest = new Map();
  for (let at = 0; at < fields.length; at += FIND_FIELDS) {
    const [y, mode, uid, gid, ino, nlink, size, time, target, name] = fields.slice(at, at + FIND_FIELDS) as Fields;
    const type = TYPES[y];
    if (type === undefined) throw new Error(`find says type ${y} for ${name}`);
    const path = absolute(name);
    const [seconds, fraction = ''] = time.split('.');
    manifest.set(path, {
      type,
      mode: Number.parseInt(mode, 8),
      uid: Number(uid),
      gid: Number(gid),
      ino,
      nlink: Number(nlink),
      size: Number(size),
      mtimeSec: Number(seconds),
      mtimeNsec: Number(fraction.slice(0, 9)),
      target: type === 'symlink' ? target : null,
      rdev: rdevs.get(path) ?? null,
      sha256: sums.get(path) ?? null,
      xattrs: xattrs.get(path) ?? [],
    });
  }
  return manifest;
}

type Fields = [string, string, string, string, string, string, string, string, string, string];

function records(bytes: Buffer): string[] {
  const text = bytes.toString('latin1');
  if (text === '') return [];
  if (!text.endsWith('\0')) throw new Error('a list does not end with NUL: it was cut off');
  return text.slice(0, -1).split('\0');
}

function pairs(bytes: Buffer): [string, string][] {
  const list = records(bytes);
  return Array.from({ length: list.length / 2 }, (_, index) => [list[2 * index]!, list[2 * index + 1]!]);
}

/** './a/b' and 'a/b' → '/a/b'; '.' and '' → '/'. */
function absolute(name: string): string {
  const clean = name.startsWith('./') ? name.slice(2) : name;
  return clean === '' || clean === '.' ? '/' : `/${clean}`;
}

/** getfattr's dump: `# file: NAME`, `xattr=0sBASE64`…, an empty line; odd bytes of names as \ooo. */
function parseXattrs(bytes: Buffer): Map<string, string[]> {
  const found = new Map<string, string[]>();
  for (const block of bytes.toString('latin1').split('\n\n')) {
    const [head, ...lines] = block.split('\n').filter((line) => line !== '');
    if (head === undefined) continue;
    if (!head.startsWith('# file: ')) throw new Error(`getfattr printed ${head}`);
    const values = lines.map((line) => {
      const equals = line.indexOf('=');
      if (equals < 0) return `${unquoted(line)}=`;
      const value = line.slice(equals + 1);
      if (value !== '""' && !value.startsWith('0s')) throw new Error(`getfattr printed ${line}`);
      return `${unquoted(line.slice(0, equals))}=${value === '""' ? '' : value.slice(2)}`;
    });
    found.set(absolute(unquoted(head.slice('# file: '.length))), values.sort());
  }
  return found;
}

function unquoted(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}
