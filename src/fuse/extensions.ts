/**
 * Request extensions (protocols 4.9): blocks after the last argument that carry the caller's group and the security
 * context of a new object.
 *
 *     header │ arguments, names │ ext block │ ext block          total_extlen counts the blocks, in 8-byte units
 *                               ▲ argsEnd
 *
 * A guest of Linux 5.17-6.1 sends the security context block alone, with total_extlen 0; SECURITY_CTX is not
 * negotiated with those (init.ts), so the block never comes.
 */
import { errno } from '../sys/errno.ts';
import type { Request } from './request.ts';
import { IN_HEADER, IN_HEADER_BYTES } from './wire/layout.ts';

/** Extension types up to here are the count of security contexts, not a type. */
const SECCTX_COUNT_MAX = 31;
const EXT_GROUPS = 32;
/** Linux sends at most one group; room for as many as a process may have is not needed. */
export const GROUPS_MAX = 32;

/** Finds where arguments end and decodes the extensions of `request`. 0, or -EINVAL for a malformed block. */
export function decodeExtensions(request: Request): number {
  request.groupCount = 0;
  request.contextBytes = 0;
  const words = request.memory.u32;
  const extBytes = ((words[IN_HEADER.EXTLEN] as number) & 0xffff) * 8;
  request.argsEnd = request.bytes - extBytes;
  if (extBytes === 0) return 0;
  if (request.argsEnd < IN_HEADER_BYTES) return -errno.EINVAL;
  const view = request.memory.view;
  let at = request.argsEnd;
  while (at < request.bytes) {
    if (request.bytes - at < 8) return -errno.EINVAL;
    const size = view.getUint32(at, true);
    const type = view.getUint32(at + 4, true);
    if (size < 8 || size % 8 !== 0 || size > request.bytes - at) return -errno.EINVAL;
    if (type === EXT_GROUPS) {
      if (size < 12) return -errno.EINVAL;
      const count = view.getUint32(at + 8, true);
      if (count > GROUPS_MAX || 12 + count * 4 > size) return -errno.EINVAL;
      request.groupCount = count;
      request.groupsAddress = request.memory.address + at + 12;
    } else if (type <= SECCTX_COUNT_MAX) {
      const r = decodeContext(request, at, size, type);
      if (r < 0) return r;
    } // a type we do not know is skipped: extensions are optional by design
    at += size;
  }
  return 0;
}

/** One security context: {size, padding, name NUL, value}. More than one is refused: Linux sends none or one. */
function decodeContext(request: Request, at: number, size: number, count: number): number {
  if (count === 0) return 0;
  if (count > 1 || size < 8 + 8 + 2) return -errno.EINVAL;
  const valueBytes = request.memory.view.getUint32(at + 8, true);
  const nameAt = at + 16;
  const bytes = request.memory.u8;
  let i = nameAt;
  while (i < at + size && bytes[i] !== 0) i++;
  if (i >= at + size || i === nameAt || i + 1 + valueBytes > at + size) return -errno.EINVAL;
  request.contextName.at = nameAt;
  request.contextName.bytes = i - nameAt;
  request.contextName.address = request.memory.address + nameAt;
  request.contextAddress = request.memory.address + i + 1;
  request.contextBytes = valueBytes;
  return 0;
}
