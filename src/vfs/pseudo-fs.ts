/**
 * The pseudo directories as a read-only file system: everything but the step into a mount, which is the union's.
 *
 * No lookups are counted here: a pseudo directory lives as long as there is a mount in or on it, whatever the guest
 * still knows; afterwards its nodeid is ESTALE.
 */
import type * as A from '../fuse/args.ts';
import type { Result } from '../fuse/file-system.ts';
import { direntType, S } from '../fuse/flags.ts';
import { REPLY_BODY_BYTES_MAX, Request } from '../fuse/request.ts';
import {
  ATTR_OUT,
  ATTR_OUT_BYTES,
  ENTRY_OUT,
  ENTRY_OUT_BYTES,
  GETXATTR_OUT_BYTES,
  OPEN_OUT_BYTES,
  STATFS_OUT,
  STATFS_OUT_BYTES,
} from '../fuse/wire/layout.ts';
import { direntBytes, putAttr, putAttrHead, putDirent, putEntryHead } from '../fuse/wire/out.ts';
import { errno } from '../sys/errno.ts';
import { MOUNT_VALID_MS, PSEUDO, PSEUDO_INO_HIGH, ROOT_LOCAL } from './node-ids.ts';
import { NAME_BYTES_MAX, type PseudoTree } from './pseudo-tree.ts';
import { Refusing } from './refusing.ts';

const MODE = S.IFDIR | 0o755;
const TYPE = direntType(MODE);
const BLOCK_BYTES = 4096;
const WRITE_ACCESS = 2;
const BODY = Request.BODY_WORD;
const BODY_BYTES = BODY * 4;
/** A cookie is the id of the entry before it, plus 1: "." takes 1, ".." takes 2, the first child has id 2. */
const COOKIE_DOT = 1;
const COOKIE_DOTS = 2;

export class PseudoFs extends Refusing {
  readonly #name = new Uint8Array(NAME_BYTES_MAX);

  constructor(readonly tree: PseudoTree) {
    super(-errno.EROFS);
  }

  /** entry_out of the directory in `slot`. */
  entry(request: Request, slot: number): Result {
    const words = request.reply.u32;
    putEntryHead(words, BODY, this.tree.id(slot), PSEUDO, MOUNT_VALID_MS, MOUNT_VALID_MS);
    this.#attributes(words, BODY + ENTRY_OUT.ATTR, slot);
    return ENTRY_OUT_BYTES;
  }

  override lookup(request: Request, args: A.NameArgs): Result {
    const slot = this.tree.slotOf(request.nodeLow);
    if (slot < 0) return -errno.ESTALE;
    const child = this.tree.child(slot, request.memory.u8, args.name.at, args.name.bytes);
    return child < 0 ? -errno.ENOENT : this.entry(request, child);
  }

  override getattr(request: Request): Result {
    const slot = this.tree.slotOf(request.nodeLow);
    if (slot < 0) return -errno.ESTALE;
    putAttrHead(request.reply.u32, BODY, request.nodeLow === ROOT_LOCAL ? request.rootAttrMs : MOUNT_VALID_MS);
    this.#attributes(request.reply.u32, BODY + ATTR_OUT.ATTR, slot);
    return ATTR_OUT_BYTES;
  }

  /**
   * EEXIST, or ENOSYS: the Kata agent takes exactly these two as "somebody else makes this directory", and the kernel
   * does not remember ENOSYS of MKDIR (protocols 6.6 row 5).
   */
  override mkdir(request: Request, args: A.MkdirArgs): Result {
    const slot = this.tree.slotOf(request.nodeLow);
    if (slot < 0) return -errno.ESTALE;
    const there = this.tree.child(slot, request.memory.u8, args.name.at, args.name.bytes) >= 0;
    return there ? -errno.EEXIST : -errno.ENOSYS;
  }

  /** No state: the stream is nodeid and cookie. */
  override opendir(request: Request): Result {
    if (this.tree.slotOf(request.nodeLow) < 0) return -errno.ESTALE;
    const words = request.reply.u32;
    for (let i = 0; i < OPEN_OUT_BYTES / 4; i++) words[BODY + i] = 0;
    return OPEN_OUT_BYTES;
  }

  override readdir(request: Request, args: A.ReadArgs): Result {
    return this.#list(request, args, false);
  }

  /**
   * Entries with nodeid 0 ("ask when you need it"): attributes of mount points would mean a call into every member for
   * one `ls`, and a lookup count on roots nobody wants; all of it for a time-out of a second.
   */
  override readdirplus(request: Request, args: A.ReadArgs): Result {
    return this.#list(request, args, true);
  }

  #list(request: Request, args: A.ReadArgs, plus: boolean): Result {
    const tree = this.tree;
    const slot = tree.slotOf(request.nodeLow);
    if (slot < 0) return -errno.ESTALE;
    if (args.offsetHigh !== 0) return 0;
    let at = 0;
    let cookie = args.offsetLow;
    if (cookie < COOKIE_DOT) {
      this.#name[0] = 0x2e;
      const n = this.#record(request, args, at, plus, tree.id(slot), COOKIE_DOT, 0, 1);
      if (n === 0) return -errno.EINVAL;
      at += n;
      cookie = COOKIE_DOT;
    }
    if (cookie < COOKIE_DOTS) {
      this.#name[0] = this.#name[1] = 0x2e;
      const n = this.#record(request, args, at, plus, tree.id(tree.parent(slot)), COOKIE_DOTS, 0, 2);
      if (n === 0) return at === 0 ? -errno.EINVAL : at;
      at += n;
      cookie = COOKIE_DOTS;
    }
    return this.children(request, args, plus, slot, cookie - 1, 0, at);
  }

  /**
   * Writes the children of `slot` with ids above `afterId` from byte `at` of the body on; their cookies have
   * `cookieHigh` above them. Returns the bytes of the whole body.
   */
  children(
    request: Request,
    args: A.ReadArgs,
    plus: boolean,
    slot: number,
    afterId: number,
    cookieHigh: number,
    at: number,
  ): Result {
    const tree = this.tree;
    let end = at;
    for (let child = tree.childAfter(slot, afterId); child >= 0; child = tree.sibling(child)) {
      const id = tree.id(child);
      tree.copyName(child, this.#name, 0);
      const n = this.#record(request, args, end, plus, id, id + 1, cookieHigh, tree.nameBytes(child));
      if (n === 0) return end === 0 ? -errno.EINVAL : end;
      end += n;
    }
    return end;
  }

  /** One record with the name in `#name`; 0 when it does not fit. */
  #record(
    request: Request,
    args: A.ReadArgs,
    at: number,
    plus: boolean,
    id: number,
    cookie: number,
    cookieHigh: number,
    nameBytes: number,
  ): number {
    const head = plus ? ENTRY_OUT_BYTES : 0;
    const room = Math.min(args.size, REPLY_BODY_BYTES_MAX) - at;
    if (head + direntBytes(nameBytes) > room) return 0;
    const { u32, u8 } = request.reply;
    for (let i = (BODY_BYTES + at) >> 2, end = i + (head >> 2); i < end; i++) u32[i] = 0;
    const from = BODY_BYTES + at + head;
    return head + putDirent(u32, u8, from, id, PSEUDO_INO_HIGH, cookie, cookieHigh, TYPE, this.#name, 0, nameBytes);
  }

  override readlink(): Result {
    return -errno.EINVAL;
  }

  override open(): Result {
    return -errno.EISDIR;
  }

  override read(): Result {
    return -errno.EISDIR;
  }

  override write(): Result {
    return -errno.EISDIR;
  }

  override flush(): Result {
    return 0;
  }

  override fsync(): Result {
    return 0;
  }

  override fsyncdir(): Result {
    return 0;
  }

  override syncfs(): Result {
    return 0;
  }

  override lseek(): Result {
    return -errno.EINVAL;
  }

  override statfs(request: Request): Result {
    const words = request.reply.u32;
    for (let i = 0; i < STATFS_OUT_BYTES / 4; i++) words[BODY + i] = 0;
    words[BODY + STATFS_OUT.BSIZE] = words[BODY + STATFS_OUT.FRSIZE] = BLOCK_BYTES;
    words[BODY + STATFS_OUT.NAMELEN] = NAME_BYTES_MAX;
    return STATFS_OUT_BYTES;
  }

  override getxattr(): Result {
    return -errno.ENODATA;
  }

  override listxattr(request: Request, args: A.ListxattrArgs): Result {
    if (args.size !== 0) return 0;
    request.reply.u32[BODY] = request.reply.u32[BODY + 1] = 0;
    return GETXATTR_OUT_BYTES;
  }

  override access(_request: Request, args: A.AccessArgs): Result {
    return (args.mask & WRITE_ACCESS) !== 0 ? -errno.EROFS : 0;
  }

  #attributes(words: Uint32Array, at: number, slot: number): void {
    const tree = this.tree;
    const nlink = 2 + tree.children(slot);
    const changed = tree.changedSeconds(slot);
    putAttr(words, at, tree.id(slot), PSEUDO_INO_HIGH, BLOCK_BYTES, 8, changed, 0, MODE, nlink, 0, 0, 0, 0);
  }
}
