/**
 * What we may tell the kernel over /dev/fuse without having been asked (protocols 4.14). virtio-fs has none of it.
 *
 *     out_header { length, code, unique 0 }, then the code's own fields
 */
import { write } from '../sys/io.ts';
import { NativeMemory } from '../sys/native-memory.ts';
import { OUT_HEADER, OUT_HEADER_BYTES } from './wire/layout.ts';

const NOTIFY = { INVAL_INODE: 2, RESEND: 7 } as const;
const BODY = OUT_HEADER_BYTES / 4;
/** struct fuse_notify_inval_inode_out: nodeid, offset, length. */
const INVAL_INODE_BYTES = 24;

const notice = new NativeMemory(OUT_HEADER_BYTES + INVAL_INODE_BYTES);

/** Asks for everything unanswered. 0 or -errno. */
export function askResend(fd: number): number {
  return send(fd, NOTIFY.RESEND, 0);
}

/** Has the kernel ask for the attributes of node `nodeLow` again; its pages stay. 0 or -errno; -ENOENT: it has none. */
export function forgetAttributes(fd: number, nodeLow: number): number {
  const words = notice.u32;
  words.fill(0, BODY, BODY + INVAL_INODE_BYTES / 4);
  words[BODY] = nodeLow;
  words.fill(0xffff_ffff, BODY + 2, BODY + 4); // offset -1: attributes only
  return send(fd, NOTIFY.INVAL_INODE, INVAL_INODE_BYTES);
}

function send(fd: number, code: number, bytes: number): number {
  const words = notice.u32;
  words[OUT_HEADER.LEN] = OUT_HEADER_BYTES + bytes;
  words[OUT_HEADER.ERROR] = code;
  words[OUT_HEADER.UNIQUE] = words[OUT_HEADER.UNIQUE + 1] = 0;
  return Math.min(write(fd, notice.address, OUT_HEADER_BYTES + bytes), 0);
}
