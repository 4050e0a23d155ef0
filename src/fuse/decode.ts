/**
 * Decoders: from the private copy of a request to its argument object (protocols 4.1, 4.2, 4.6).
 *
 * Each returns 0, or the -errno the request is answered with. They check what the handlers rely on: names are
 * NUL-terminated, not empty, without '/', not "." or ".."; offsets and sizes are whole numbers; nothing is read past
 * `request.argsEnd`. The session has already checked that the fixed part of the arguments is there.
 */
import { errno } from '../sys/errno.ts';
import { XATTR_VALUE_BYTES_MAX } from '../sys/xattr.ts';
import type * as A from './args.ts';
import { FSYNC_DATA_ONLY, GETATTR_FH, INIT, OPEN_KILL_SUIDGID, SETXATTR_ACL_KILL_SGID } from './flags.ts';
import type { Name, Request } from './request.ts';
import { IN_HEADER_BYTES, NAME_BYTES_MAX, SYMLINK_BYTES_MAX } from './wire/layout.ts';

/** First word of the arguments. */
const W = IN_HEADER_BYTES / 4;
const B = IN_HEADER_BYTES;
const SLASH = 0x2f;
const DOT = 0x2e;
/** Highest upper word of a u64 that is a safe integer. */
const HIGH_MAX = 0x1f_ffff;
const XATTR_NAME_BYTES_MAX = 255;

export type Decode<Args> = (request: Request, args: Args) => number;

/** A u64 at word `at` as a number; -1 above 2^53-1, which is refused and never rounded. */
function u64(words: Uint32Array, at: number): number {
  const high = words[at + 1] as number;
  return high > HIGH_MAX ? -1 : high * 0x1_0000_0000 + (words[at] as number);
}

/** Finds the C string at byte `at`; its end must lie before argsEnd. Sets `name`; 0 or -errno. */
function cString(request: Request, at: number, bytesMax: number, name: Name): number {
  const bytes = request.memory.u8;
  const end = request.argsEnd;
  let i = at;
  while (i < end && bytes[i] !== 0) i++;
  if (i >= end) return -errno.EINVAL;
  name.at = at;
  name.bytes = i - at;
  name.address = request.memory.address + at;
  return name.bytes > bytesMax ? -errno.ENAMETOOLONG : 0;
}

/** A name of a directory entry: one component that is neither empty nor "." nor "..". */
function component(request: Request, at: number, name: Name): number {
  const r = cString(request, at, NAME_BYTES_MAX, name);
  if (r < 0) return r;
  if (name.bytes === 0) return -errno.EINVAL;
  const bytes = request.memory.u8;
  if (bytes[at] === DOT && (name.bytes === 1 || (name.bytes === 2 && bytes[at + 1] === DOT))) return -errno.EINVAL;
  const end = at + name.bytes;
  for (let i = at; i < end; i++) if (bytes[i] === SLASH) return -errno.EINVAL;
  return 0;
}

export function decodeNothing(): number {
  return 0;
}

export function decodeName(request: Request, args: A.NameArgs): number {
  return component(request, B, args.name);
}

export function decodeXattrName(request: Request, args: A.NameArgs): number {
  return xattrName(request, B, args.name);
}

function xattrName(request: Request, at: number, name: Name): number {
  const r = cString(request, at, XATTR_NAME_BYTES_MAX, name);
  if (r === -errno.ENAMETOOLONG) return -errno.ERANGE; // what setxattr(2) says of a name above 255
  return r < 0 ? r : name.bytes === 0 ? -errno.ERANGE : 0;
}

export function decodeForget(request: Request, args: A.ForgetArgs): number {
  const n = u64(request.memory.u32, W);
  args.nlookup = n < 0 ? Number.MAX_SAFE_INTEGER : n;
  return 0;
}

export function decodeBatchForget(request: Request, args: A.BatchForgetArgs): number {
  args.count = request.memory.u32[W] as number;
  args.at = B + 8;
  return args.at + args.count * 16 > request.argsEnd ? -errno.EINVAL : 0;
}

export function decodeGetattr(request: Request, args: A.GetattrArgs): number {
  const words = request.memory.u32;
  args.hasFh = ((words[W] as number) & GETATTR_FH) !== 0;
  args.fhLow = words[W + 2] as number;
  args.fhHigh = words[W + 3] as number;
  return 0;
}

export function decodeSetattr(request: Request, args: A.SetattrArgs): number {
  const words = request.memory.u32;
  args.valid = words[W] as number;
  args.fhLow = words[W + 2] as number;
  args.fhHigh = words[W + 3] as number;
  args.size = u64(words, W + 4);
  args.lockOwnerLow = words[W + 6] as number;
  args.lockOwnerHigh = words[W + 7] as number;
  args.atimeLow = words[W + 8] as number;
  args.atimeHigh = words[W + 9] as number;
  args.mtimeLow = words[W + 10] as number;
  args.mtimeHigh = words[W + 11] as number;
  args.atimeNsec = words[W + 14] as number;
  args.mtimeNsec = words[W + 15] as number;
  args.mode = words[W + 17] as number;
  args.uid = words[W + 19] as number;
  args.gid = words[W + 20] as number;
  return args.size < 0 ? -errno.EFBIG : 0;
}

export function decodeSymlink(request: Request, args: A.SymlinkArgs): number {
  const r = component(request, B, args.name);
  if (r < 0) return r;
  const t = cString(request, B + args.name.bytes + 1, SYMLINK_BYTES_MAX, args.target);
  return t < 0 ? t : args.target.bytes === 0 ? -errno.ENOENT : 0;
}

export function decodeMknod(request: Request, args: A.MknodArgs): number {
  const words = request.memory.u32;
  args.mode = words[W] as number;
  const rdev = words[W + 1] as number;
  args.rdevMajor = (rdev >>> 8) & 0xfff;
  args.rdevMinor = (rdev & 0xff) | ((rdev >>> 12) & 0xfff00);
  args.umask = words[W + 2] as number;
  return component(request, B + 16, args.name);
}

export function decodeMkdir(request: Request, args: A.MkdirArgs): number {
  const words = request.memory.u32;
  args.mode = words[W] as number;
  args.umask = words[W + 1] as number;
  return component(request, B + 8, args.name);
}

export function decodeRename(request: Request, args: A.RenameArgs): number {
  args.flags = 0;
  return renameNames(request, args, B + 8);
}

export function decodeRename2(request: Request, args: A.RenameArgs): number {
  args.flags = request.memory.u32[W + 2] as number;
  return renameNames(request, args, B + 16);
}

function renameNames(request: Request, args: A.RenameArgs, at: number): number {
  const words = request.memory.u32;
  args.newDirLow = words[W] as number;
  args.newDirHigh = words[W + 1] as number;
  const r = component(request, at, args.oldName);
  return r < 0 ? r : component(request, at + args.oldName.bytes + 1, args.newName);
}

export function decodeLink(request: Request, args: A.LinkArgs): number {
  const words = request.memory.u32;
  args.oldLow = words[W] as number;
  args.oldHigh = words[W + 1] as number;
  return component(request, B + 8, args.name);
}

export function decodeOpen(request: Request, args: A.OpenArgs): number {
  const words = request.memory.u32;
  args.flags = words[W] as number;
  args.killSuidgid = ((words[W + 1] as number) & OPEN_KILL_SUIDGID) !== 0;
  return 0;
}

export function decodeCreate(request: Request, args: A.CreateArgs): number {
  const words = request.memory.u32;
  args.flags = words[W] as number;
  args.mode = words[W + 1] as number;
  args.umask = words[W + 2] as number;
  args.killSuidgid = ((words[W + 3] as number) & OPEN_KILL_SUIDGID) !== 0;
  return component(request, B + 16, args.name);
}

function readIn(request: Request, args: A.ReadArgs): void {
  const words = request.memory.u32;
  args.fhLow = words[W] as number;
  args.fhHigh = words[W + 1] as number;
  args.offsetLow = words[W + 2] as number;
  args.offsetHigh = words[W + 3] as number;
  args.offset = u64(words, W + 2);
  args.size = words[W + 4] as number;
  args.readFlags = words[W + 5] as number;
  args.lockOwnerLow = words[W + 6] as number;
  args.lockOwnerHigh = words[W + 7] as number;
  args.flags = words[W + 8] as number;
}

/** The size is cut to what INIT agreed on and the guest has room for. */
export function decodeRead(request: Request, args: A.ReadArgs): number {
  readIn(request, args);
  if (args.size > request.replySpace) args.size = request.replySpace;
  return args.offset < 0 ? -errno.EINVAL : 0;
}

/** READDIR and READDIRPLUS: the offset is a cookie, any 64 bits. The size is cut to what we and the guest have room for. */
export function decodeReaddir(request: Request, args: A.ReadArgs): number {
  readIn(request, args);
  if (args.size > request.replySpace) args.size = request.replySpace;
  return 0;
}

export function decodeWrite(request: Request, args: A.WriteArgs): number {
  const words = request.memory.u32;
  args.fhLow = words[W] as number;
  args.fhHigh = words[W + 1] as number;
  args.offset = u64(words, W + 2);
  args.size = words[W + 4] as number;
  args.writeFlags = words[W + 5] as number;
  args.lockOwnerLow = words[W + 6] as number;
  args.lockOwnerHigh = words[W + 7] as number;
  args.flags = words[W + 8] as number;
  if (args.offset < 0 || args.offset + args.size > Number.MAX_SAFE_INTEGER) return -errno.EFBIG;
  return args.size > request.data.bytes ? -errno.EINVAL : 0;
}

export function decodeRelease(request: Request, args: A.ReleaseArgs): number {
  const words = request.memory.u32;
  args.fhLow = words[W] as number;
  args.fhHigh = words[W + 1] as number;
  args.flags = words[W + 2] as number;
  args.releaseFlags = words[W + 3] as number;
  args.lockOwnerLow = words[W + 4] as number;
  args.lockOwnerHigh = words[W + 5] as number;
  return 0;
}

export function decodeFlush(request: Request, args: A.FlushArgs): number {
  const words = request.memory.u32;
  args.fhLow = words[W] as number;
  args.fhHigh = words[W + 1] as number;
  args.lockOwnerLow = words[W + 4] as number;
  args.lockOwnerHigh = words[W + 5] as number;
  return 0;
}

export function decodeFsync(request: Request, args: A.FsyncArgs): number {
  const words = request.memory.u32;
  args.fhLow = words[W] as number;
  args.fhHigh = words[W + 1] as number;
  args.dataOnly = ((words[W + 2] as number) & FSYNC_DATA_ONLY) !== 0;
  return 0;
}

/** setxattr_in has 16 bytes where SETXATTR_EXT was negotiated, else 8. */
export function decodeSetxattr(request: Request, args: A.SetxattrArgs): number {
  const words = request.memory.u32;
  const extended = (request.negotiated.flags & INIT.SETXATTR_EXT) !== 0;
  const at = B + (extended ? 16 : 8);
  if (at > request.argsEnd) return -errno.EINVAL;
  args.valueBytes = words[W] as number;
  args.flags = words[W + 1] as number;
  args.killSgid = extended && ((words[W + 2] as number) & SETXATTR_ACL_KILL_SGID) !== 0;
  const r = xattrName(request, at, args.name);
  if (r < 0) return r;
  const value = at + args.name.bytes + 1;
  args.valueAddress = request.memory.address + value;
  if (args.valueBytes > XATTR_VALUE_BYTES_MAX) return -errno.E2BIG;
  return value + args.valueBytes > request.argsEnd ? -errno.EINVAL : 0;
}

export function decodeGetxattr(request: Request, args: A.GetxattrArgs): number {
  args.size = request.memory.u32[W] as number;
  if (args.size > request.replySpace) args.size = request.replySpace;
  return xattrName(request, B + 8, args.name);
}

export function decodeListxattr(request: Request, args: A.ListxattrArgs): number {
  args.size = request.memory.u32[W] as number;
  if (args.size > request.replySpace) args.size = request.replySpace;
  return 0;
}

export function decodeAccess(request: Request, args: A.AccessArgs): number {
  args.mask = request.memory.u32[W] as number;
  return 0;
}

export function decodeFallocate(request: Request, args: A.FallocateArgs): number {
  const words = request.memory.u32;
  args.fhLow = words[W] as number;
  args.fhHigh = words[W + 1] as number;
  args.offset = u64(words, W + 2);
  args.length = u64(words, W + 4);
  args.mode = words[W + 6] as number;
  if (args.offset < 0 || args.length < 0 || args.offset + args.length > Number.MAX_SAFE_INTEGER) return -errno.EFBIG;
  return 0;
}

export function decodeLseek(request: Request, args: A.LseekArgs): number {
  const words = request.memory.u32;
  args.fhLow = words[W] as number;
  args.fhHigh = words[W + 1] as number;
  args.offset = u64(words, W + 2);
  args.whence = words[W + 4] as number;
  return args.offset < 0 ? -errno.EINVAL : 0;
}

export function decodeCopyFileRange(request: Request, args: A.CopyFileRangeArgs): number {
  const words = request.memory.u32;
  args.fhInLow = words[W] as number;
  args.fhInHigh = words[W + 1] as number;
  args.offsetIn = u64(words, W + 2);
  args.nodeOutLow = words[W + 4] as number;
  args.nodeOutHigh = words[W + 5] as number;
  args.fhOutLow = words[W + 6] as number;
  args.fhOutHigh = words[W + 7] as number;
  args.offsetOut = u64(words, W + 8);
  args.length = u64(words, W + 10);
  args.flagsLow = words[W + 12] as number;
  return args.offsetIn < 0 || args.offsetOut < 0 || args.length < 0 ? -errno.EINVAL : 0;
}

export function decodeInterrupt(request: Request, args: A.InterruptArgs): number {
  const words = request.memory.u32;
  args.uniqueLow = words[W] as number;
  args.uniqueHigh = words[W + 1] as number;
  return 0;
}

/** Guests before 5.17 and Windows send 16 bytes; flags2 counts only if INIT_EXT is set and its bytes are there. */
export function decodeInit(request: Request, args: A.InitArgs): number {
  const words = request.memory.u32;
  args.major = words[W] as number;
  args.minor = words[W + 1] as number;
  args.maxReadahead = words[W + 2] as number;
  args.flags = words[W + 3] as number;
  const has2 = (args.flags & INIT.INIT_EXT) !== 0 && request.argsEnd >= B + 20;
  args.flags2 = has2 ? (words[W + 4] as number) : 0;
  return 0;
}
