/** Arguments per opcode, shaped as the real ones are (protocols 4.6); a missing opcode does not compile. */
import type { OpName } from '../../src/fuse/opcodes.ts';
import type { Random } from './random.ts';

/** What the guest has seen so far: requests that mean something get further than random ones. */
export interface Known {
  random: Random;
  node(): bigint;
  fh(): bigint;
}

type Body = (known: Known) => Buffer;

const NAMES = ['a', 'b', 'c', 'd', 'dir', 'file', 'big', 'escape', 'fifo', 'link', 'share', 'image', 'unread'];
const ODD_NAMES = [
  '',
  '.',
  '..',
  '/',
  'a/b',
  '../outside',
  '../../etc',
  'n'.repeat(255),
  'n'.repeat(256),
  'n'.repeat(5000),
];
const XATTRS = [
  'user.a',
  'user.b',
  'security.capability',
  'trusted.overlay.opaque',
  'system.posix_acl_access',
  'x'.repeat(300),
];

export function name(random: Random): Buffer {
  if (random.chance(75)) return Buffer.from(random.pick(NAMES));
  return random.chance(60) ? Buffer.from(random.pick(ODD_NAMES)) : random.bytes(random.between(1, 40));
}

/** NUL-terminated, almost always. */
function cString(random: Random, text: Buffer | string): Buffer {
  return Buffer.concat([Buffer.from(text), Buffer.alloc(random.chance(97) ? 1 : 0)]);
}

/** Packs words (number: u32, bigint: u64). */
function words(...values: (number | bigint)[]): Buffer {
  const out = Buffer.alloc(values.reduce<number>((sum, v) => sum + (typeof v === 'bigint' ? 8 : 4), 0));
  let at = 0;
  for (const value of values) {
    if (typeof value === 'bigint') at = out.writeBigUInt64LE(value & 0xffff_ffff_ffff_ffffn, at);
    else at = out.writeUInt32LE(value >>> 0, at);
  }
  return out;
}

const oneName: Body = ({ random }) => cString(random, name(random));
const nothing: Body = ({ random }) => random.bytes(random.chance(80) ? 0 : random.below(64));
const anything =
  (bytes: number): Body =>
  ({ random }) =>
    random.bytes(random.chance(80) ? bytes : random.below(128));

const offset = ({ random }: Known): bigint => (random.chance(70) ? BigInt(random.below(300_000)) : random.odd64());
const size = ({ random }: Known): number => (random.chance(70) ? random.below(70_000) : random.odd32());
const openFlags = ({ random }: Known): number =>
  random.chance(60) ? random.pick([0, 1, 2, 0o1002, 0o2002]) : random.u32();
const mode = ({ random }: Known): number =>
  random.chance(50)
    ? 0o644
    : random.pick([0o10644, 0o20644, 0o60644, 0o100644, 0o140644, 0o40755, 0o106755, random.u32()]);

const open: Body = (k) => words(openFlags(k), k.random.odd32());
const release: Body = (k) => words(k.fh(), openFlags(k), k.random.odd32(), k.random.odd64());
const fsync: Body = (k) => words(k.fh(), k.random.below(2), 0);
const read: Body = (k) => words(k.fh(), offset(k), size(k), k.random.below(4), k.random.odd64(), 0, 0);
const copy: Body = (k) => words(k.fh(), offset(k), k.node(), k.fh(), offset(k), BigInt(size(k)), k.random.odd64());
const twoNames = (k: Known): Buffer[] => [cString(k.random, name(k.random)), cString(k.random, name(k.random))];
const lock: Body = (k) =>
  words(k.fh(), k.random.odd64(), k.random.odd64(), k.random.odd64(), k.random.odd32(), 1, 0, 0);

const write: Body = (k) => {
  const data = k.random.bytes(k.random.below(2000));
  const told = k.random.chance(85) ? data.length : k.random.odd32();
  return Buffer.concat([words(k.fh(), offset(k), told, k.random.below(4), k.random.odd64(), 0, 0), data]);
};

const setxattr: Body = (k) => {
  const value = k.random.bytes(k.random.below(100));
  const told = k.random.chance(85) ? value.length : k.random.odd32();
  const head = words(told, k.random.below(4), k.random.below(2), 0);
  return Buffer.concat([head, cString(k.random, k.random.pick(XATTRS)), value]);
};

const batchForget: Body = (k) => {
  const pairs = Array.from({ length: k.random.below(8) }, () => [
    k.node(),
    k.random.chance(80) ? 1n : k.random.odd64(),
  ]);
  return words(k.random.chance(85) ? pairs.length : k.random.odd32(), 0, ...pairs.flat());
};

export const BODIES: { readonly [K in OpName]: Body } = {
  LOOKUP: oneName,
  FORGET: (k) => words(k.random.chance(80) ? 1n : k.random.odd64()),
  GETATTR: (k) => words(k.random.below(2), 0, k.fh()),
  SETATTR: (k) =>
    Buffer.concat([
      words(k.random.below(0x800), 0, k.fh(), offset(k), k.random.odd64(), k.random.odd64(), k.random.odd64()),
      words(k.random.odd64(), k.random.odd32(), k.random.odd32(), k.random.odd32(), mode(k), 0),
      words(k.random.odd32(), k.random.odd32(), 0),
    ]),
  READLINK: nothing,
  SYMLINK: (k) => Buffer.concat([cString(k.random, name(k.random)), cString(k.random, '../outside/secret')]),
  MKNOD: (k) => Buffer.concat([words(mode(k), k.random.odd32(), 0o22, 0), cString(k.random, name(k.random))]),
  MKDIR: (k) => Buffer.concat([words(mode(k), 0o22), cString(k.random, name(k.random))]),
  UNLINK: oneName,
  RMDIR: oneName,
  RENAME: (k) => Buffer.concat([words(k.node()), ...twoNames(k)]),
  LINK: (k) => Buffer.concat([words(k.node()), cString(k.random, name(k.random))]),
  OPEN: open,
  READ: read,
  WRITE: write,
  STATFS: nothing,
  RELEASE: release,
  FSYNC: fsync,
  SETXATTR: setxattr,
  GETXATTR: (k) => Buffer.concat([words(size(k), 0), cString(k.random, k.random.pick(XATTRS))]),
  LISTXATTR: (k) => words(size(k), 0),
  REMOVEXATTR: (k) => cString(k.random, k.random.pick(XATTRS)),
  FLUSH: (k) => words(k.fh(), 0, 0, k.random.odd64()),
  INIT: (k) => words(k.random.chance(70) ? 7 : k.random.odd32(), k.random.odd32(), k.random.odd32(), k.random.u32()),
  OPENDIR: open,
  READDIR: read,
  RELEASEDIR: release,
  FSYNCDIR: fsync,
  GETLK: lock,
  SETLK: lock,
  SETLKW: lock,
  ACCESS: (k) => words(k.random.odd32(), 0),
  CREATE: (k) =>
    Buffer.concat([words(openFlags(k) | 0o100, mode(k), 0o22, k.random.below(2)), cString(k.random, name(k.random))]),
  INTERRUPT: (k) => words(k.random.odd64()),
  BMAP: anything(16),
  DESTROY: nothing,
  IOCTL: anything(32),
  POLL: anything(24),
  NOTIFY_REPLY: anything(0),
  BATCH_FORGET: batchForget,
  FALLOCATE: (k) => words(k.fh(), offset(k), BigInt(size(k)), k.random.below(64), 0),
  READDIRPLUS: read,
  RENAME2: (k) => Buffer.concat([words(k.node(), k.random.below(8), 0), ...twoNames(k)]),
  LSEEK: (k) => words(k.fh(), offset(k), k.random.below(7), 0),
  COPY_FILE_RANGE: copy,
  SETUPMAPPING: anything(40),
  REMOVEMAPPING: anything(4),
  SYNCFS: anything(8),
  TMPFILE: anything(16),
  STATX: anything(24),
  COPY_FILE_RANGE_64: copy,
};
