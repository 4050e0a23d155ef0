/** Directory streams on the wire (protocols 4.11): OPENDIR, READDIR, READDIRPLUS. */
import type { OpenArgs, ReadArgs } from '../fuse/args.ts';
import type { Result } from '../fuse/file-system.ts';
import { direntType, S } from '../fuse/flags.ts';
import { REPLY_BODY_BYTES_MAX, Request } from '../fuse/request.ts';
import { ENTRY_OUT_BYTES, OPEN_OUT_BYTES, OUT_HEADER_BYTES } from '../fuse/wire/layout.ts';
import { direntBytes, putDirent } from '../fuse/wire/out.ts';
import { errno } from '../sys/errno.ts';
import { O } from '../sys/path.ts';
import { DIRENT, STATX } from '../sys/stat.ts';
import { shownInoHigh } from './attr.ts';
import { putOpened } from './data.ts';
import { KIND } from './handles.ts';
import { ROOT_ID } from './inodes.ts';
import { putEntry } from './lookup.ts';
import type { Share } from './share.ts';

const DOT = 0x2e;
const ENTRY_WORDS = ENTRY_OUT_BYTES / 4;

export function opendir(share: Share, request: Request, _args: OpenArgs): Result {
  if (!share.fits(request, OPEN_OUT_BYTES)) return -errno.EIO;
  const slot = share.inodes.slotOf(request.nodeLow);
  if (slot < 0) return slot;
  if (share.inodes.type(slot) !== S.IFDIR) return -errno.ENOTDIR;
  if (!share.budget.room(1) || !share.handles.room(1)) return -errno.ENFILE;
  const fd = share.reopen(slot, O.RDONLY | O.DIRECTORY);
  if (fd < 0) return fd;
  const done = putOpened(share, request, Request.BODY_WORD, slot, fd, KIND.DIRECTORY);
  return done < 0 ? done : OPEN_OUT_BYTES;
}

/**
 * Fills the reply with records. `plus` looks every name up: an entry counts as a lookup only once it is known to fit.
 * One read of the host stream per request at most: a reply need not be full, only not empty.
 */
export function readdir(share: Share, request: Request, args: ReadArgs, plus: boolean): Result {
  const handle = share.handles.find(args.fhLow, args.fhHigh, request.nodeLow, KIND.DIRECTORY);
  if (handle < 0) return handle;
  const { streams } = share;
  const space = Math.min(args.size, REPLY_BODY_BYTES_MAX);
  const stream = streams.claim(share.handles, handle);
  const sought = streams.seek(stream, args.offsetLow, args.offsetHigh);
  if (sought < 0) return sought;
  let used = 0;
  let filled = false;
  for (;;) {
    let at = streams.next(stream);
    if (at < 0) {
      if (filled) return used;
      filled = true;
      const got = streams.fill(stream);
      if (got < 0) return used > 0 ? used : got;
      if (got === 0) return used;
      at = streams.next(stream);
    }
    const nameBytes = nameLength(streams.u8, at + DIRENT.NAME);
    const record = (plus ? ENTRY_OUT_BYTES : 0) + direntBytes(nameBytes);
    if (used + record > space) return used > 0 ? used : -errno.EINVAL;
    putRecord(share, request, handle, at, nameBytes, OUT_HEADER_BYTES + used, plus);
    used += record;
    streams.consume(stream);
  }
}

/** The host ends names with a NUL inside the record. */
function nameLength(bytes: Uint8Array, at: number): number {
  let end = at;
  while (bytes[end] !== 0) end++;
  return end - at;
}

/** Dots of the entry at `at`: 1 for ".", 2 for "..", 0 for any other name. */
function dots(bytes: Uint8Array, at: number, nameBytes: number): number {
  if (nameBytes > 2 || bytes[at] !== DOT) return 0;
  return nameBytes === 1 ? 1 : bytes[at + 1] === DOT ? 2 : 0;
}

/** Writes the record of the host entry at byte `at` of the stream buffers to byte `to` of the reply. */
function putRecord(
  share: Share,
  request: Request,
  handle: number,
  at: number,
  nameBytes: number,
  to: number,
  plus: boolean,
): void {
  const { u8, u32 } = share.streams;
  const name = at + DIRENT.NAME;
  const word = at >> 2;
  const dotCount = dots(u8, name, nameBytes);
  const mount = share.handles.mount(handle);
  let type: number = u8[at + DIRENT.TYPE];
  if (plus) {
    const found = dotCount === 0 && share.rule.plus ? putLookedUp(share, request, handle, name, to >> 2) : -1;
    if (found >= 0) type = direntType(share.inodes.type(found));
    else for (let i = 0; i < ENTRY_WORDS; i++) request.reply.u32[(to >> 2) + i] = 0;
    to += ENTRY_OUT_BYTES;
  }
  // Overlayfs in the guest demands a type in every entry; some host file systems (XFS without ftype) leave it out.
  if (type === 0 && share.statName(share.handles.fd(handle), share.streams.address(name)) === 0)
    type = direntType(share.stat.u32[STATX.MODE]);
  let inoLow: number = u32[word];
  let inoHigh: number = u32[word + 1];
  if (dotCount === 2 && request.nodeLow === ROOT_ID) {
    // The host directory above the share is none of the guest's business: its root is its own parent.
    const root = share.inodes.slotOf(ROOT_ID);
    inoLow = share.inodes.ino(root, 0);
    inoHigh = share.inodes.ino(root, 1);
  }
  inoHigh = shownInoHigh(share, request, share.mounts.devMajor(mount), share.mounts.devMinor(mount), inoHigh);
  const low = u32[word + DIRENT.OFF / 4];
  const high = u32[word + DIRENT.OFF / 4 + 1];
  putDirent(request.reply.u32, request.reply.u8, to, inoLow, inoHigh, low, high, type, u8, name, nameBytes);
}

/** entry_out of a name for READDIRPLUS: its inode's slot, or -errno. A failed lookup leaves the name in the list, without an inode. */
function putLookedUp(share: Share, request: Request, handle: number, name: number, word: number): number {
  const slot = share.resolve(share.handles.fd(handle), share.streams.address(name));
  if (slot >= 0) putEntry(share, request, word, slot, share.handles.mount(handle));
  return slot;
}
