/** READDIR and READDIRPLUS replies. Cookies are places in the directory's blocks: nothing is remembered between calls. */
import type { ReadArgs } from '../fuse/args.ts';
import { REPLY_BODY_BYTES_MAX, Request } from '../fuse/request.ts';
import { ENTRY_OUT, ENTRY_OUT_BYTES } from '../fuse/wire/layout.ts';
import { clearWords, direntBytes, putDirent, putEntryHead } from '../fuse/wire/out.ts';
import { errno } from '../sys/errno.ts';
import { copyAttributes, VALID_MS } from './attributes.ts';
import { EntryRecord, InodeRecord, type Metadata } from './metadata.ts';
import { isDots, type Nodes } from './nodes.ts';
import { DIRENT_TYPE } from './v6/inode-layout.ts';

/** d_type of a directory-entry type. */
const DT = new Uint8Array(8);
DT[DIRENT_TYPE.REGULAR] = 8;
DT[DIRENT_TYPE.DIRECTORY] = 4;
DT[DIRENT_TYPE.CHAR] = 2;
DT[DIRENT_TYPE.BLOCK] = 6;
DT[DIRENT_TYPE.FIFO] = 1;
DT[DIRENT_TYPE.SOCKET] = 12;
DT[DIRENT_TYPE.SYMLINK] = 10;

const BODY_AT = Request.BODY_WORD * 4;
/** A direntplus is an entry_out with a dirent behind it. */
const DIRENT_IN_PLUS = ENTRY_OUT_BYTES;

export class DirectoryReader {
  private readonly entry = new EntryRecord();
  private readonly child = new InodeRecord();

  constructor(
    private readonly metadata: Metadata,
    private readonly nodes: Nodes,
  ) {}

  /** Records of the loaded `dir` from cookie args.offset on: their bytes, 0 at the end, or -errno. */
  list(request: Request, args: ReadArgs, dir: InodeRecord, plus: boolean): number {
    if (args.offset < 0) return -errno.EINVAL;
    const room = Math.min(args.size, request.replySpace, REPLY_BODY_BYTES_MAX);
    const { entry } = this;
    const head = plus ? DIRENT_IN_PLUS : 0;
    let cookie = args.offset;
    let used = 0;
    for (;;) {
      const found = this.metadata.entryAt(dir, cookie, entry);
      if (found === 0) return used;
      // What came before the bad entry is delivered; the next call starts at it and fails.
      if (found < 0) return used > 0 ? used : this.nodes.failed(found, dir.node);
      if (used + head + direntBytes(entry.nameBytes) > room) return used > 0 ? used : -errno.EINVAL;
      const at = BODY_AT + used;
      // The name goes first: loading the child may push its page out of the cache.
      used += head + this.putName(request, at + head);
      cookie = entry.nextCookie;
      if (plus) this.putChild(request, dir, at);
    }
  }

  private putName(request: Request, at: number): number {
    const { entry } = this;
    return putDirent(
      request.reply.u32,
      request.reply.u8,
      at,
      entry.node,
      0,
      entry.nextCookie,
      0,
      DT[entry.type & 7],
      this.metadata.nameBytes,
      entry.nameAt,
      entry.nameBytes,
    );
  }

  /** The entry_out before a name; nodeid 0, "look it up", for dots and for children that cannot be loaded. */
  private putChild(request: Request, dir: InodeRecord, at: number): void {
    const words = request.reply.u32;
    const { entry, child } = this;
    const word = at >> 2;
    const names = this.metadata.nameBytes;
    if (isDots(names, entry.nameAt, entry.nameBytes) || this.nodes.loadChild(dir, entry, names, child) < 0) {
      clearWords(words, word, ENTRY_OUT_BYTES);
      return;
    }
    putEntryHead(words, word, this.nodes.local(child.node), request.nodeHigh, VALID_MS, VALID_MS);
    copyAttributes(this.metadata, child, words, word + ENTRY_OUT.ATTR);
  }
}
