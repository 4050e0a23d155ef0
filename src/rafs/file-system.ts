/**
 * An image as a read-only `FileSystem` of the device thread.
 *
 *     nodeid low ── swap of 1 and root ── nid ── Metadata (page cache) ── attributes, entries, chunk lists
 *                                                                           │
 *     READ: chunk list ── all bits of `ready` set? ── yes: one preadv per contiguous run, cache file → guest pages
 *                                                └── no: park, ask main for the chunks, run again
 *
 * No table: a node is its place in the bootstrap, so FORGET, handles and a restart of the session need nothing.
 * An image never changes, so names, attributes, symlinks and absent names are cached by the guest for as long as it
 * likes. Whatever an image breaks is an errno for that request and one line in the log.
 */
import type * as A from '../fuse/args.ts';
import type { FileSystem, Result } from '../fuse/file-system.ts';
import { FOPEN, S } from '../fuse/flags.ts';
import { Request } from '../fuse/request.ts';
import {
  ATTR_OUT,
  ATTR_OUT_BYTES,
  ENTRY_OUT,
  ENTRY_OUT_BYTES,
  LSEEK_OUT_BYTES,
  OPEN_OUT,
  OPEN_OUT_BYTES,
  STATFS_OUT,
  STATFS_OUT_BYTES,
  SYMLINK_BYTES_MAX,
} from '../fuse/wire/layout.ts';
import { clearWords, putAttrHead, putEntryHead, putU64 } from '../fuse/wire/out.ts';
import { errno } from '../sys/errno.ts';
import { close, SEEK } from '../sys/io.ts';
import { copyAttributes, VALID_MS } from './attributes.ts';
import { DirectoryReader } from './directory-reply.ts';
import { FileReader } from './file-reader.ts';
import { NAME_BYTES_MAX } from './flags.ts';
import { EntryRecord, InodeRecord, type Metadata, Span } from './metadata.ts';
import { Nodes } from './nodes.ts';
import { mountMetadata, type RafsOptions } from './rafs-options.ts';
import { getXattr, listXattr } from './xattr-reply.ts';

export type { RafsOptions } from './rafs-options.ts';

const O_ACCMODE = 3;
const O_TRUNC = 0o1000;
const W_OK = 2;
const BLOCK_BYTES = 4096;
/** No local number: those are u32. */
const NO_NODE = -1;

export class Rafs implements FileSystem {
  readonly metadata: Metadata;
  private readonly fd: number;
  private readonly nodes: Nodes;
  private readonly files: FileReader;
  private readonly directories: DirectoryReader;
  private readonly self = new InodeRecord();
  private readonly child = new InodeRecord();
  /** Directory of the last LOOKUP, and its local number: names are looked up in one directory after the other. */
  private readonly dir = new InodeRecord();
  private dirLow = NO_NODE;
  private readonly entry = new EntryRecord();
  private readonly span = new Span();
  /** 4096-byte blocks of all blobs and the bootstrap, for statfs. */
  private readonly blocks: number;

  /** @throws AppError when the bootstrap is invalid or has other blobs than `options.blobs` */
  constructor(options: RafsOptions) {
    this.metadata = mountMetadata(options);
    this.fd = options.bootstrapFd;
    this.nodes = new Nodes(this.metadata, options.label, options.log);
    this.files = new FileReader(this.metadata, this.nodes, options);
    this.directories = new DirectoryReader(this.metadata, this.nodes);
    let bytes = this.metadata.fileBytes;
    for (const blob of options.blobs) bytes += blob.uncompressedSize;
    this.blocks = Math.ceil(bytes / BLOCK_BYTES);
  }

  lookup(request: Request, args: A.NameArgs): Result {
    const { name } = args;
    const { dir } = this;
    if (request.nodeLow !== this.dirLow) {
      this.dirLow = NO_NODE;
      const loaded = this.nodes.loadDirectory(request.nodeLow, dir);
      if (loaded < 0) return loaded;
      this.dirLow = request.nodeLow;
    }
    if (name.bytes > NAME_BYTES_MAX) return -errno.ENAMETOOLONG;
    const found = this.metadata.find(dir, request.memory.u8, name.at, name.bytes, this.entry);
    if (found === -errno.ENOENT) return this.absent(request);
    if (found < 0) return this.nodes.failed(found, dir.node);
    const checked = this.nodes.loadChild(dir, this.entry, this.metadata.nameBytes, this.child);
    if (checked < 0) return checked;
    const words = request.reply.u32;
    const { BODY_WORD } = Request;
    putEntryHead(words, BODY_WORD, this.nodes.local(this.child.node), request.nodeHigh, VALID_MS, VALID_MS);
    copyAttributes(this.metadata, this.child, words, BODY_WORD + ENTRY_OUT.ATTR);
    return ENTRY_OUT_BYTES;
  }

  /** nodeid 0 with a time-out: the guest need not ask again, overlayfs asks for every absent name in every layer. */
  private absent(request: Request): Result {
    const words = request.reply.u32;
    clearWords(words, Request.BODY_WORD, ENTRY_OUT_BYTES);
    putEntryHead(words, Request.BODY_WORD, 0, 0, VALID_MS, 0);
    return ENTRY_OUT_BYTES;
  }

  forget(): void {}

  getattr(request: Request): Result {
    const loaded = this.nodes.load(request.nodeLow, this.self);
    if (loaded < 0) return loaded;
    putAttrHead(request.reply.u32, Request.BODY_WORD, VALID_MS);
    copyAttributes(this.metadata, this.self, request.reply.u32, Request.BODY_WORD + ATTR_OUT.ATTR);
    return ATTR_OUT_BYTES;
  }

  readlink(request: Request): Result {
    const loaded = this.nodes.load(request.nodeLow, this.self);
    if (loaded < 0) return loaded;
    if ((this.self.mode & S.IFMT) !== S.IFLNK) return -errno.EINVAL;
    if (this.self.size > SYMLINK_BYTES_MAX) return -errno.ENAMETOOLONG;
    const { span } = this;
    const found = this.metadata.target(this.self, span);
    if (found < 0) return this.nodes.failed(found, this.self.node);
    const to = request.reply.u8;
    const at = Request.BODY_WORD * 4;
    for (let i = 0; i < span.bytes; i++) to[at + i] = span.u8[span.at + i];
    return span.bytes;
  }

  open(request: Request, args: A.OpenArgs): Result {
    const loaded = this.nodes.load(request.nodeLow, this.self);
    if (loaded < 0) return loaded;
    const type = this.self.mode & S.IFMT;
    if (type === S.IFDIR) return -errno.EISDIR;
    if (type === S.IFLNK) return -errno.ELOOP;
    if ((args.flags & O_ACCMODE) !== 0 || (args.flags & O_TRUNC) !== 0) return -errno.EROFS;
    if (type !== S.IFREG) return -errno.ENXIO;
    return opened(request, FOPEN.KEEP_CACHE | FOPEN.NOFLUSH);
  }

  read(request: Request, args: A.ReadArgs): Result {
    const loaded = this.nodes.load(request.nodeLow, this.self);
    if (loaded < 0) return loaded;
    return this.files.read(request, args, this.self);
  }

  opendir(request: Request): Result {
    const loaded = this.nodes.loadDirectory(request.nodeLow, this.self);
    if (loaded < 0) return loaded;
    return opened(request, FOPEN.KEEP_CACHE | FOPEN.CACHE_DIR);
  }

  readdir(request: Request, args: A.ReadArgs): Result {
    const loaded = this.nodes.loadDirectory(request.nodeLow, this.self);
    return loaded < 0 ? loaded : this.directories.list(request, args, this.self, false);
  }

  readdirplus(request: Request, args: A.ReadArgs): Result {
    const loaded = this.nodes.loadDirectory(request.nodeLow, this.self);
    return loaded < 0 ? loaded : this.directories.list(request, args, this.self, true);
  }

  statfs(request: Request): Result {
    const words = request.reply.u32;
    const { BODY_WORD } = Request;
    clearWords(words, BODY_WORD, STATFS_OUT_BYTES);
    putU64(words, BODY_WORD + STATFS_OUT.BLOCKS, this.blocks);
    putU64(words, BODY_WORD + STATFS_OUT.FILES, this.metadata.names);
    words[BODY_WORD + STATFS_OUT.BSIZE] = BLOCK_BYTES;
    words[BODY_WORD + STATFS_OUT.FRSIZE] = BLOCK_BYTES;
    words[BODY_WORD + STATFS_OUT.NAMELEN] = NAME_BYTES_MAX;
    return STATFS_OUT_BYTES;
  }

  getxattr(request: Request, args: A.GetxattrArgs): Result {
    const loaded = this.loadXattrs(request);
    if (loaded < 0) return loaded;
    const result = getXattr(request, args, this.span, this.metadata.cursor);
    return result === -errno.EIO ? this.nodes.brokenXattrs(this.self.node) : result;
  }

  listxattr(request: Request, args: A.ListxattrArgs): Result {
    const loaded = this.loadXattrs(request);
    if (loaded < 0) return loaded;
    const result = listXattr(request, args.size, this.span, this.metadata.cursor);
    return result === -errno.EIO ? this.nodes.brokenXattrs(this.self.node) : result;
  }

  private loadXattrs(request: Request): Result {
    const loaded = this.nodes.load(request.nodeLow, this.self);
    if (loaded < 0) return loaded;
    const found = this.metadata.xattrs(this.self, this.span);
    return found < 0 ? this.nodes.failed(found, this.self.node) : 0;
  }

  /** Whole files are data: a lazily loaded image has no holes that a reader could skip. */
  lseek(request: Request, args: A.LseekArgs): Result {
    const loaded = this.nodes.load(request.nodeLow, this.self);
    if (loaded < 0) return loaded;
    if (args.whence !== SEEK.DATA && args.whence !== SEEK.HOLE) return -errno.EINVAL;
    if (args.offset < 0 || args.offset >= this.self.size) return -errno.ENXIO;
    putU64(request.reply.u32, Request.BODY_WORD, args.whence === SEEK.DATA ? args.offset : this.self.size);
    return LSEEK_OUT_BYTES;
  }

  /** Permission bits are the guest's business (default_permissions); what we know is that nothing can be written. */
  access(request: Request, args: A.AccessArgs): Result {
    const loaded = this.nodes.load(request.nodeLow, this.self);
    if (loaded < 0) return loaded;
    return (args.mask & W_OK) !== 0 ? -errno.EROFS : 0;
  }

  release(): Result {
    return 0;
  }
  releasedir(): Result {
    return 0;
  }
  flush(): Result {
    return 0;
  }
  fsync(): Result {
    return 0;
  }
  fsyncdir(): Result {
    return 0;
  }
  syncfs(): Result {
    return 0;
  }

  setattr(): Result {
    return -errno.EROFS;
  }
  symlink(): Result {
    return -errno.EROFS;
  }
  mknod(): Result {
    return -errno.EROFS;
  }
  mkdir(): Result {
    return -errno.EROFS;
  }
  link(): Result {
    return -errno.EROFS;
  }
  create(): Result {
    return -errno.EROFS;
  }
  unlink(): Result {
    return -errno.EROFS;
  }
  rmdir(): Result {
    return -errno.EROFS;
  }
  rename(): Result {
    return -errno.EROFS;
  }
  write(): Result {
    return -errno.EROFS;
  }
  setxattr(): Result {
    return -errno.EROFS;
  }
  removexattr(): Result {
    return -errno.EROFS;
  }
  fallocate(): Result {
    return -errno.EROFS;
  }
  copyFileRange(): Result {
    return -errno.EROFS;
  }

  reset(): void {}

  destroy(): void {
    this.metadata.close();
    close(this.fd);
  }
}

function opened(request: Request, flags: number): Result {
  const words = request.reply.u32;
  clearWords(words, Request.BODY_WORD, OPEN_OUT_BYTES);
  words[Request.BODY_WORD + OPEN_OUT.OPEN_FLAGS] = flags;
  return OPEN_OUT_BYTES;
}
