/** GETXATTR and LISTXATTR replies from an inode's xattr area. */
import type { GetxattrArgs } from '../fuse/args.ts';
import { Request } from '../fuse/request.ts';
import { GETXATTR_OUT_BYTES } from '../fuse/wire/layout.ts';
import { errno } from '../sys/errno.ts';
import type { Span, XattrCursor } from './metadata.ts';

/** XATTR_LIST_MAX of Linux: no caller's buffer is larger. */
const LIST_BYTES_MAX = 65536;
const BODY_AT = Request.BODY_WORD * 4;

/** Value of the named xattr, or its size when args.size is 0; -ENODATA, -ERANGE, -EIO for a bad area. */
export function getXattr(request: Request, args: GetxattrArgs, area: Span, cursor: XattrCursor): number {
  if (area.bytes === 0) return -errno.ENODATA;
  cursor.start(area);
  for (;;) {
    const step = cursor.next();
    if (step < 0) return step;
    if (step === 0) return -errno.ENODATA;
    if (cursor.matches(request.memory.u8, args.name.at, args.name.bytes)) break;
  }
  const bytes = cursor.valueBytes;
  if (args.size === 0) return putSize(request, bytes);
  if (args.size < bytes) return -errno.ERANGE;
  const to = request.reply.u8;
  for (let i = 0; i < bytes; i++) to[BODY_AT + i] = cursor.u8[cursor.valueAt + i];
  return bytes;
}

/** All names, each with a NUL, or their size when `size` is 0; -ERANGE, -E2BIG, -EIO for a bad area. */
export function listXattr(request: Request, size: number, area: Span, cursor: XattrCursor): number {
  const bytes = listBytes(area, cursor);
  if (bytes < 0) return bytes;
  if (bytes > LIST_BYTES_MAX) return -errno.E2BIG;
  if (size === 0) return putSize(request, bytes);
  if (size < bytes) return -errno.ERANGE;
  if (bytes === 0) return 0;
  const to = request.reply.u8;
  let at = BODY_AT;
  cursor.start(area);
  while (cursor.next() === 1) {
    at += cursor.copyName(to, at);
    to[at++] = 0;
  }
  return bytes;
}

function listBytes(area: Span, cursor: XattrCursor): number {
  if (area.bytes === 0) return 0;
  let bytes = 0;
  cursor.start(area);
  for (;;) {
    const step = cursor.next();
    if (step <= 0) return step < 0 ? step : bytes;
    bytes += cursor.nameBytes + 1;
  }
}

function putSize(request: Request, bytes: number): number {
  request.reply.u32[Request.BODY_WORD] = bytes;
  request.reply.u32[Request.BODY_WORD + 1] = 0;
  return GETXATTR_OUT_BYTES;
}
