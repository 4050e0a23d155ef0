/**
 * The opcode table: the single place where an opcode is registered (protocols 4.6). One row ties number, name, size of
 * the fixed arguments, decoder, argument object and handler; a missing opcode, or READ's handler under LOOKUP, does
 * not compile.
 *
 * ENOSYS appears only as `neverBuilt`, with the reason why the guest may remember it for ever.
 */
import { errno } from '../sys/errno.ts';
import * as A from './args.ts';
import * as D from './decode.ts';
import type { FileSystem, Result } from './file-system.ts';
import type { Request } from './request.ts';
import { WRITE_OUT_BYTES } from './wire/layout.ts';

/** Argument type of each opcode. */
export interface OpArgs {
  LOOKUP: A.NameArgs;
  FORGET: A.ForgetArgs;
  GETATTR: A.GetattrArgs;
  SETATTR: A.SetattrArgs;
  READLINK: A.NoArgs;
  SYMLINK: A.SymlinkArgs;
  MKNOD: A.MknodArgs;
  MKDIR: A.MkdirArgs;
  UNLINK: A.NameArgs;
  RMDIR: A.NameArgs;
  RENAME: A.RenameArgs;
  LINK: A.LinkArgs;
  OPEN: A.OpenArgs;
  READ: A.ReadArgs;
  WRITE: A.WriteArgs;
  STATFS: A.NoArgs;
  RELEASE: A.ReleaseArgs;
  FSYNC: A.FsyncArgs;
  SETXATTR: A.SetxattrArgs;
  GETXATTR: A.GetxattrArgs;
  LISTXATTR: A.ListxattrArgs;
  REMOVEXATTR: A.NameArgs;
  FLUSH: A.FlushArgs;
  INIT: A.InitArgs;
  OPENDIR: A.OpenArgs;
  READDIR: A.ReadArgs;
  RELEASEDIR: A.ReleaseArgs;
  FSYNCDIR: A.FsyncArgs;
  GETLK: A.NoArgs;
  SETLK: A.NoArgs;
  SETLKW: A.NoArgs;
  ACCESS: A.AccessArgs;
  CREATE: A.CreateArgs;
  INTERRUPT: A.InterruptArgs;
  BMAP: A.NoArgs;
  DESTROY: A.NoArgs;
  IOCTL: A.NoArgs;
  POLL: A.NoArgs;
  NOTIFY_REPLY: A.NoArgs;
  BATCH_FORGET: A.BatchForgetArgs;
  FALLOCATE: A.FallocateArgs;
  READDIRPLUS: A.ReadArgs;
  RENAME2: A.RenameArgs;
  LSEEK: A.LseekArgs;
  COPY_FILE_RANGE: A.CopyFileRangeArgs;
  SETUPMAPPING: A.NoArgs;
  REMOVEMAPPING: A.NoArgs;
  SYNCFS: A.NoArgs;
  TMPFILE: A.NoArgs;
  STATX: A.NoArgs;
  COPY_FILE_RANGE_64: A.CopyFileRangeArgs;
}

export type OpName = keyof OpArgs;

/**
 * Shape of the reply: `none` has no reply at all, `empty` a bare header, `body` a body in the scratch, `data` file
 * data in the guest's own memory.
 */
export type ReplyKind = 'none' | 'empty' | 'body' | 'data';

/** What a handler of the session itself (INIT, INTERRUPT, DESTROY) may do beyond a file system's. */
export interface SessionOps {
  init(request: Request, args: A.InitArgs): Result;
  interrupt(request: Request, args: A.InterruptArgs): Result;
  destroySession(): Result;
}

export interface OpSpec<Args> {
  op: number;
  /** Bytes of fixed arguments that must be there before `decode` looks. */
  argBytes: number;
  reply: ReplyKind;
  args: Args;
  decode: D.Decode<Args>;
  run: (fs: FileSystem, args: Args, request: Request, session: SessionOps) => Result;
}

const none = new A.NoArgs();

/** An opcode answered with the same errno for ever; `reason` says why that is right for every member. */
function always(op: number, argBytes: number, code: number, _reason: string): OpSpec<A.NoArgs> {
  return { op, argBytes, reply: 'empty', args: none, decode: D.decodeNothing, run: () => -code };
}

function neverBuilt(op: number, argBytes: number, reason: string): OpSpec<A.NoArgs> {
  return always(op, argBytes, errno.ENOSYS, reason);
}

/** BATCH_FORGET: pairs of nodeid and count, walked in place. */
function batchForget(fs: FileSystem, args: A.BatchForgetArgs, request: Request): Result {
  const words = request.memory.u32;
  let at = args.at >> 2;
  for (let i = 0; i < args.count; i++, at += 4) {
    const high = words[at + 3] as number;
    const nlookup = high > 0x1f_ffff ? Number.MAX_SAFE_INTEGER : high * 0x1_0000_0000 + (words[at + 2] as number);
    fs.forget(words[at] as number, words[at + 1] as number, nlookup);
  }
  return 0;
}

function write(fs: FileSystem, args: A.WriteArgs, request: Request): Result {
  const r = fs.write(request, args);
  return r < 0 ? r : writeOut(request, r);
}

/** write_out: the bytes taken. */
export function writeOut(request: Request, bytes: number): number {
  const words = request.reply.u32;
  words[4] = bytes;
  words[5] = 0;
  return WRITE_OUT_BYTES;
}

function copyFileRange(fs: FileSystem, args: A.CopyFileRangeArgs, request: Request): Result {
  const r = fs.copyFileRange(request, args);
  return r < 0 ? r : writeOut(request, r); // write_out and copy_file_range_out agree below 4 GiB, which we never exceed
}

export const OPS: { readonly [K in OpName]: OpSpec<OpArgs[K]> } = {
  LOOKUP: {
    op: 1,
    argBytes: 0,
    reply: 'body',
    args: new A.NameArgs(),
    decode: D.decodeName,
    run: (fs, a, r) => fs.lookup(r, a),
  },
  FORGET: {
    op: 2,
    argBytes: 8,
    reply: 'none',
    args: new A.ForgetArgs(),
    decode: D.decodeForget,
    run: (fs, a, r) => {
      fs.forget(r.nodeLow, r.nodeHigh, a.nlookup);
      return 0;
    },
  },
  GETATTR: {
    op: 3,
    argBytes: 16,
    reply: 'body',
    args: new A.GetattrArgs(),
    decode: D.decodeGetattr,
    run: (fs, a, r) => fs.getattr(r, a),
  },
  SETATTR: {
    op: 4,
    argBytes: 88,
    reply: 'body',
    args: new A.SetattrArgs(),
    decode: D.decodeSetattr,
    run: (fs, a, r) => fs.setattr(r, a),
  },
  READLINK: {
    op: 5,
    argBytes: 0,
    reply: 'body',
    args: none,
    decode: D.decodeNothing,
    run: (fs, _, r) => fs.readlink(r),
  },
  SYMLINK: {
    op: 6,
    argBytes: 0,
    reply: 'body',
    args: new A.SymlinkArgs(),
    decode: D.decodeSymlink,
    run: (fs, a, r) => fs.symlink(r, a),
  },
  MKNOD: {
    op: 8,
    argBytes: 16,
    reply: 'body',
    args: new A.MknodArgs(),
    decode: D.decodeMknod,
    run: (fs, a, r) => fs.mknod(r, a),
  },
  MKDIR: {
    op: 9,
    argBytes: 8,
    reply: 'body',
    args: new A.MkdirArgs(),
    decode: D.decodeMkdir,
    run: (fs, a, r) => fs.mkdir(r, a),
  },
  UNLINK: {
    op: 10,
    argBytes: 0,
    reply: 'empty',
    args: new A.NameArgs(),
    decode: D.decodeName,
    run: (fs, a, r) => fs.unlink(r, a),
  },
  RMDIR: {
    op: 11,
    argBytes: 0,
    reply: 'empty',
    args: new A.NameArgs(),
    decode: D.decodeName,
    run: (fs, a, r) => fs.rmdir(r, a),
  },
  RENAME: {
    op: 12,
    argBytes: 8,
    reply: 'empty',
    args: new A.RenameArgs(),
    decode: D.decodeRename,
    run: (fs, a, r) => fs.rename(r, a),
  },
  LINK: {
    op: 13,
    argBytes: 8,
    reply: 'body',
    args: new A.LinkArgs(),
    decode: D.decodeLink,
    run: (fs, a, r) => fs.link(r, a),
  },
  OPEN: {
    op: 14,
    argBytes: 8,
    reply: 'body',
    args: new A.OpenArgs(),
    decode: D.decodeOpen,
    run: (fs, a, r) => fs.open(r, a),
  },
  READ: {
    op: 15,
    argBytes: 40,
    reply: 'data',
    args: new A.ReadArgs(),
    decode: D.decodeRead,
    run: (fs, a, r) => fs.read(r, a),
  },
  WRITE: { op: 16, argBytes: 40, reply: 'body', args: new A.WriteArgs(), decode: D.decodeWrite, run: write },
  STATFS: {
    op: 17,
    argBytes: 0,
    reply: 'body',
    args: none,
    decode: D.decodeNothing,
    run: (fs, _, r) => fs.statfs(r),
  },
  RELEASE: {
    op: 18,
    argBytes: 24,
    reply: 'empty',
    args: new A.ReleaseArgs(),
    decode: D.decodeRelease,
    run: (fs, a, r) => fs.release(r, a),
  },
  FSYNC: {
    op: 20,
    argBytes: 16,
    reply: 'empty',
    args: new A.FsyncArgs(),
    decode: D.decodeFsync,
    run: (fs, a, r) => fs.fsync(r, a),
  },
  SETXATTR: {
    op: 21,
    argBytes: 8,
    reply: 'empty',
    args: new A.SetxattrArgs(),
    decode: D.decodeSetxattr,
    run: (fs, a, r) => fs.setxattr(r, a),
  },
  GETXATTR: {
    op: 22,
    argBytes: 8,
    reply: 'body',
    args: new A.GetxattrArgs(),
    decode: D.decodeGetxattr,
    run: (fs, a, r) => fs.getxattr(r, a),
  },
  LISTXATTR: {
    op: 23,
    argBytes: 8,
    reply: 'body',
    args: new A.ListxattrArgs(),
    decode: D.decodeListxattr,
    run: (fs, a, r) => fs.listxattr(r, a),
  },
  REMOVEXATTR: {
    op: 24,
    argBytes: 0,
    reply: 'empty',
    args: new A.NameArgs(),
    decode: D.decodeXattrName,
    run: (fs, a, r) => fs.removexattr(r, a),
  },
  FLUSH: {
    op: 25,
    argBytes: 24,
    reply: 'empty',
    args: new A.FlushArgs(),
    decode: D.decodeFlush,
    run: (fs, a, r) => fs.flush(r, a),
  },
  INIT: {
    op: 26,
    argBytes: 16,
    reply: 'body',
    args: new A.InitArgs(),
    decode: D.decodeInit,
    run: (_, a, r, session) => session.init(r, a),
  },
  OPENDIR: {
    op: 27,
    argBytes: 8,
    reply: 'body',
    args: new A.OpenArgs(),
    decode: D.decodeOpen,
    run: (fs, a, r) => fs.opendir(r, a),
  },
  READDIR: {
    op: 28,
    argBytes: 40,
    reply: 'body',
    args: new A.ReadArgs(),
    decode: D.decodeReaddir,
    run: (fs, a, r) => fs.readdir(r, a),
  },
  RELEASEDIR: {
    op: 29,
    argBytes: 24,
    reply: 'empty',
    args: new A.ReleaseArgs(),
    decode: D.decodeRelease,
    run: (fs, a, r) => fs.releasedir(r, a),
  },
  FSYNCDIR: {
    op: 30,
    argBytes: 16,
    reply: 'empty',
    args: new A.FsyncArgs(),
    decode: D.decodeFsync,
    run: (fs, a, r) => fs.fsyncdir(r, a),
  },
  GETLK: always(31, 48, errno.EOPNOTSUPP, 'locks are local to the guest: POSIX_LOCKS is not negotiated'),
  SETLK: always(32, 48, errno.EOPNOTSUPP, 'as GETLK'),
  SETLKW: always(33, 48, errno.EOPNOTSUPP, 'as GETLK'),
  ACCESS: {
    op: 34,
    argBytes: 8,
    reply: 'empty',
    args: new A.AccessArgs(),
    decode: D.decodeAccess,
    run: (fs, a, r) => fs.access(r, a),
  },
  CREATE: {
    op: 35,
    argBytes: 16,
    reply: 'body',
    args: new A.CreateArgs(),
    decode: D.decodeCreate,
    run: (fs, a, r) => fs.create(r, a),
  },
  INTERRUPT: {
    op: 36,
    argBytes: 8,
    reply: 'none',
    args: new A.InterruptArgs(),
    decode: D.decodeInterrupt,
    run: (_, a, r, session) => session.interrupt(r, a),
  },
  BMAP: neverBuilt(37, 16, 'no member is a block device with stable block numbers; FIBMAP failing is right for all'),
  DESTROY: {
    op: 38,
    argBytes: 0,
    reply: 'empty',
    args: none,
    decode: D.decodeNothing,
    run: (_, __, ___, session) => session.destroySession(),
  },
  IOCTL: always(39, 32, errno.ENOTTY, 'what ioctl(2) says where a file has none; not remembered'),
  POLL: neverBuilt(40, 24, 'regular files and directories are always ready, which is what the guest assumes then'),
  NOTIFY_REPLY: always(41, 0, errno.EINVAL, 'answers a notification, and we send none'),
  BATCH_FORGET: {
    op: 42,
    argBytes: 8,
    reply: 'none',
    args: new A.BatchForgetArgs(),
    decode: D.decodeBatchForget,
    run: batchForget,
  },
  FALLOCATE: {
    op: 43,
    argBytes: 32,
    reply: 'empty',
    args: new A.FallocateArgs(),
    decode: D.decodeFallocate,
    run: (fs, a, r) => fs.fallocate(r, a),
  },
  READDIRPLUS: {
    op: 44,
    argBytes: 40,
    reply: 'body',
    args: new A.ReadArgs(),
    decode: D.decodeReaddir,
    run: (fs, a, r) => fs.readdirplus(r, a),
  },
  RENAME2: {
    op: 45,
    argBytes: 16,
    reply: 'empty',
    args: new A.RenameArgs(),
    decode: D.decodeRename2,
    run: (fs, a, r) => fs.rename(r, a),
  },
  LSEEK: {
    op: 46,
    argBytes: 24,
    reply: 'body',
    args: new A.LseekArgs(),
    decode: D.decodeLseek,
    run: (fs, a, r) => fs.lseek(r, a),
  },
  COPY_FILE_RANGE: {
    op: 47,
    argBytes: 56,
    reply: 'body',
    args: new A.CopyFileRangeArgs(),
    decode: D.decodeCopyFileRange,
    run: copyFileRange,
  },
  SETUPMAPPING: neverBuilt(48, 40, 'only sent where a DAX window exists, and none is offered'),
  REMOVEMAPPING: neverBuilt(49, 4, 'as SETUPMAPPING'),
  SYNCFS: { op: 50, argBytes: 8, reply: 'empty', args: none, decode: D.decodeNothing, run: (fs, _, r) => fs.syncfs(r) },
  TMPFILE: always(
    51,
    16,
    errno.EOPNOTSUPP,
    'the guest then makes a named file; not remembered, so it can be built later',
  ),
  STATX: neverBuilt(52, 24, 'the guest falls back to GETATTR, which carries all but the birth time'),
  COPY_FILE_RANGE_64: {
    op: 53,
    argBytes: 56,
    reply: 'body',
    args: new A.CopyFileRangeArgs(),
    decode: D.decodeCopyFileRange,
    run: copyFileRange,
  },
};

/** Highest opcode plus one: the width of dispatch and counter tables. */
export const OPCODE_COUNT = 54;

/** The table by opcode number; undefined where Linux assigns none. Rows are erased to one type for dispatch only. */
export const OPS_BY_CODE: readonly (OpSpec<never> | undefined)[] = byCode();
export const OP_NAMES: readonly string[] = names();

function byCode(): (OpSpec<never> | undefined)[] {
  const table: (OpSpec<never> | undefined)[] = new Array(OPCODE_COUNT).fill(undefined);
  for (const spec of Object.values(OPS)) table[spec.op] = spec as unknown as OpSpec<never>;
  return table;
}

function names(): string[] {
  const table: string[] = Array.from({ length: OPCODE_COUNT }, (_, op) => `opcode ${op}`);
  for (const [name, spec] of Object.entries(OPS)) table[spec.op] = name;
  return table;
}
