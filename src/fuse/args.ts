/**
 * Arguments of the opcodes, decoded. One object per opcode lives as long as the thread and is filled again for each
 * request: decoding allocates nothing. 64-bit values that are opaque are two u32; offsets and sizes are numbers,
 * refused above 2^53-1 by the decoder.
 */
import { Name } from './request.ts';

export class NameArgs {
  readonly name = new Name();
}
export class ForgetArgs {
  /** Lookup counts above 2^53 are cut there: no table counts that far. */
  nlookup = 0;
}
export class BatchForgetArgs {
  count = 0;
  /** Byte offset in request.memory of the first {nodeid u64, nlookup u64}. */
  at = 0;
}
export class GetattrArgs {
  hasFh = false;
  fhLow = 0;
  fhHigh = 0;
}
export class SetattrArgs {
  /** FATTR bits. */
  valid = 0;
  fhLow = 0;
  fhHigh = 0;
  size = 0;
  lockOwnerLow = 0;
  lockOwnerHigh = 0;
  /** Times: signed 64-bit seconds as two words, nanoseconds apart. */
  atimeLow = 0;
  atimeHigh = 0;
  atimeNsec = 0;
  mtimeLow = 0;
  mtimeHigh = 0;
  mtimeNsec = 0;
  mode = 0;
  uid = 0;
  gid = 0;
}
export class SymlinkArgs {
  readonly name = new Name();
  readonly target = new Name();
}
export class MknodArgs {
  readonly name = new Name();
  mode = 0;
  rdevMajor = 0;
  rdevMinor = 0;
  umask = 0;
}
export class MkdirArgs {
  readonly name = new Name();
  mode = 0;
  umask = 0;
}
/** RENAME and RENAME2; `flags` are RENAME of sys/path.ts. */
export class RenameArgs {
  readonly oldName = new Name();
  readonly newName = new Name();
  newDirLow = 0;
  newDirHigh = 0;
  flags = 0;
}
export class LinkArgs {
  readonly name = new Name();
  oldLow = 0;
  oldHigh = 0;
}
export class OpenArgs {
  /** O_* flags of the guest. */
  flags = 0;
  killSuidgid = false;
}
export class CreateArgs {
  readonly name = new Name();
  flags = 0;
  mode = 0;
  umask = 0;
  killSuidgid = false;
}
/** READ, READDIR and READDIRPLUS. For the latter two the offset is an opaque cookie in two words. */
export class ReadArgs {
  fhLow = 0;
  fhHigh = 0;
  /** -1 when the words are no whole number below 2^53 (a directory cookie). */
  offset = 0;
  offsetLow = 0;
  offsetHigh = 0;
  size = 0;
  readFlags = 0;
  lockOwnerLow = 0;
  lockOwnerHigh = 0;
  /** O_* flags of the open file. */
  flags = 0;
}
export class WriteArgs {
  fhLow = 0;
  fhHigh = 0;
  offset = 0;
  size = 0;
  /** WRITE_FLAG bits. */
  writeFlags = 0;
  lockOwnerLow = 0;
  lockOwnerHigh = 0;
  flags = 0;
}
export class ReleaseArgs {
  fhLow = 0;
  fhHigh = 0;
  flags = 0;
  releaseFlags = 0;
  lockOwnerLow = 0;
  lockOwnerHigh = 0;
}
export class FlushArgs {
  fhLow = 0;
  fhHigh = 0;
  lockOwnerLow = 0;
  lockOwnerHigh = 0;
}
export class FsyncArgs {
  fhLow = 0;
  fhHigh = 0;
  dataOnly = false;
}
export class SetxattrArgs {
  readonly name = new Name();
  valueAddress = 0;
  valueBytes = 0;
  /** XATTR_CREATE, XATTR_REPLACE. */
  flags = 0;
  killSgid = false;
}
export class GetxattrArgs {
  readonly name = new Name();
  /** 0: the guest asks for the size only. */
  size = 0;
}
export class ListxattrArgs {
  size = 0;
}
export class AccessArgs {
  mask = 0;
}
export class FallocateArgs {
  fhLow = 0;
  fhHigh = 0;
  offset = 0;
  length = 0;
  mode = 0;
}
export class LseekArgs {
  fhLow = 0;
  fhHigh = 0;
  offset = 0;
  whence = 0;
}
export class CopyFileRangeArgs {
  fhInLow = 0;
  fhInHigh = 0;
  offsetIn = 0;
  nodeOutLow = 0;
  nodeOutHigh = 0;
  fhOutLow = 0;
  fhOutHigh = 0;
  offsetOut = 0;
  length = 0;
  flagsLow = 0;
}
export class InterruptArgs {
  uniqueLow = 0;
  uniqueHigh = 0;
}
export class InitArgs {
  major = 0;
  minor = 0;
  maxReadahead = 0;
  flags = 0;
  /** 0 unless INIT_EXT was set and the bytes are there. */
  flags2 = 0;
}
export class NoArgs {}
