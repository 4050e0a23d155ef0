/** Between MemoryFs and a request: names and data in, replies out. */
import { direntType } from '../../fuse/flags.ts';
import { type Name, Request } from '../../fuse/request.ts';
import { copyTo } from '../../fuse/segments.ts';
import {
  ATTR_OUT,
  ATTR_OUT_BYTES,
  ENTRY_OUT,
  ENTRY_OUT_BYTES,
  GETXATTR_OUT_BYTES,
  OPEN_OUT,
  OPEN_OUT_BYTES,
} from '../../fuse/wire/layout.ts';
import { putAttr, putAttrHead, putDirent, putEntryHead } from '../../fuse/wire/out.ts';
import { errno } from '../../sys/errno.ts';
import { copyMemory } from '../../sys/io.ts';
import { NativeMemory } from '../../sys/native-memory.ts';
import type { Node } from './memory-nodes.ts';

const BODY = Request.BODY_WORD;
/** Copies between JS and native memory go through this. */
const scratch = new NativeMemory(1024 * 1024);

export function bytesOf(request: Request, name: Name): Buffer {
  return Buffer.from(request.memory.u8.subarray(name.at, name.at + name.bytes));
}

/** A name with one character per byte. */
export function text(request: Request, name: Name): string {
  return bytesOf(request, name).toString('latin1');
}

function putNode(words: Uint32Array, at: number, node: Node): void {
  const { id, data, seconds, nsec, mode, nlink, uid, gid, rdev } = node;
  const blocks = Math.ceil(data.length / 512);
  putAttr(words, at, id, 0, data.length, blocks, seconds, nsec, mode, Math.max(0, nlink), uid, gid, rdev, 0);
}

export function attrOut(request: Request, node: Node, validMs: number): number {
  putAttrHead(request.reply.u32, BODY, validMs);
  putNode(request.reply.u32, BODY + ATTR_OUT.ATTR, node);
  return ATTR_OUT_BYTES;
}

/** entry_out, counted as a lookup. */
export function entryOut(request: Request, node: Node, validMs: number): number {
  node.lookups++;
  putEntryHead(request.reply.u32, BODY, node.id, request.nodeHigh, validMs, validMs);
  putNode(request.reply.u32, BODY + ENTRY_OUT.ATTR, node);
  return ENTRY_OUT_BYTES;
}

/** open_out of handle `fh` at byte `at` of the body. */
export function openOut(request: Request, fh: number, at: number): number {
  const words = request.reply.u32;
  const word = BODY + at / 4;
  words.fill(0, word, word + OPEN_OUT_BYTES / 4);
  words[word + OPEN_OUT.FH] = fh;
  return OPEN_OUT_BYTES;
}

/** One dirent or direntplus at byte `at` of the body; returns its length. */
export function recordOut(
  request: Request,
  at: number,
  plus: boolean,
  node: Node,
  cookie: number,
  name: Buffer,
  validMs: number,
): number {
  const { u32, u8 } = request.reply;
  const from = BODY * 4 + at;
  const head = plus ? ENTRY_OUT_BYTES : 0;
  if (plus) {
    const dots = name.toString() === '.' || name.toString() === '..';
    if (!dots) node.lookups++;
    putEntryHead(u32, from >> 2, node.id, request.nodeHigh, validMs, validMs);
    putNode(u32, (from >> 2) + ENTRY_OUT.ATTR, node);
  }
  const type = direntType(node.mode);
  return head + putDirent(u32, u8, from + head, node.id, 0, cookie, 0, type, name, 0, name.length);
}

export function bytesOut(request: Request, bytes: Uint8Array): number {
  request.reply.u8.set(bytes, BODY * 4);
  return bytes.length;
}

/** An xattr answer: its size when `size` is 0, else the bytes if they fit. */
export function sizedOut(request: Request, bytes: Buffer, size: number): number {
  if (size !== 0) return bytes.length > size ? -errno.ERANGE : bytesOut(request, bytes);
  request.reply.u32[BODY] = bytes.length;
  request.reply.u32[BODY + 1] = 0;
  return GETXATTR_OUT_BYTES;
}

/** Puts file data into the guest's segments; the bytes put, or -errno. */
export function dataOut(request: Request, bytes: Uint8Array): number {
  for (let at = 0; at < bytes.length; at += scratch.bytes) {
    const piece = bytes.subarray(at, at + scratch.bytes);
    scratch.u8.set(piece);
    const n = copyTo(request.data, at, scratch.address, piece.length);
    if (n < 0) return n;
  }
  return bytes.length;
}

/** The first `size` bytes of the guest's segments. */
export function dataIn(request: Request, size: number): Buffer {
  const { address, length, first, end } = request.data;
  let { skip } = request.data;
  const parts: Buffer[] = [];
  for (let i = first, left = size; i < end && left > 0; i++, skip = 0) {
    for (let at = skip; at < length[i] && left > 0; ) {
      const n = Math.min(scratch.bytes, length[i] - at, left);
      copyMemory(scratch.address, address[i] + at, n);
      parts.push(Buffer.from(scratch.u8.subarray(0, n)));
      at += n;
      left -= n;
    }
  }
  return Buffer.concat(parts);
}
