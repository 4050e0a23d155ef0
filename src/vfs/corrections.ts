/**
 * What the union changes in a member's answer, because only it knows where the member is mounted and what the guest
 * can do: lookups counted, roots with short time-outs and the submount mark, inode numbers mixed.
 *
 * All functions take the result `n` of a member's handler; n <= 0 (-errno, PARKED, nothing) passes untouched.
 */
import { GetattrArgs } from '../fuse/args.ts';
import type { Result } from '../fuse/file-system.ts';
import { ATTR_SUBMOUNT, INIT } from '../fuse/flags.ts';
import { Request } from '../fuse/request.ts';
import { ATTR, ATTR_BYTES, ATTR_OUT, ENTRY_OUT, ENTRY_OUT_BYTES } from '../fuse/wire/layout.ts';
import { putAttrHead, putEntryHead } from '../fuse/wire/out.ts';
import type { Mounted } from './mounts.ts';
import { MOUNT_VALID_MS, ROOT_LOCAL } from './node-ids.ts';

const BODY = Request.BODY_WORD;
const IN_ENTRY = BODY + ENTRY_OUT.ATTR;
const IN_ATTR_OUT = BODY + ATTR_OUT.ATTR;
const ATTR_WORDS = ATTR_BYTES / 4;
const MOUNT_VALID_SECONDS = MOUNT_VALID_MS / 1000;
const noHandle = new GetattrArgs();

/** True when the guest shows this member with an st_dev of its own, because its root is announced as a submount. */
function ownDevice(request: Request, mounted: Mounted): boolean {
  return mounted.announced && (request.negotiated.flags & INIT.SUBMOUNTS) !== 0;
}

/** What is XORed into the upper word of the member's inode numbers for this guest; 0 = they stay as they are. */
export function mixed(request: Request, mounted: Mounted): number {
  return ownDevice(request, mounted) ? 0 : mounted.mix;
}

/** An entry_out (nodeid 0 is a cached negative: nothing to count). */
export function entry(request: Request, mounted: Mounted, n: Result): Result {
  if (n <= 0 || !mounted.counted) return n;
  if (request.nodeLow === ROOT_LOCAL) cutEntryValid(request.reply.u32, BODY);
  if (request.reply.u32[BODY + ENTRY_OUT.NODEID] !== 0) {
    mounted.addLookups(1);
    request.reply.u32[IN_ENTRY + ATTR.INO + 1] ^= mixed(request, mounted);
  }
  return n;
}

/**
 * Cuts the time-out of the entry_out at word `at`, of a name in a member's root, to MOUNT_VALID_MS: a mount may come
 * inside and cover the name or fill its absence, and on "/" another member may come. An image says a year.
 */
export function cutEntryValid(words: Uint32Array, at: number): void {
  if (words[at + ENTRY_OUT.ENTRY_VALID] < MOUNT_VALID_SECONDS && words[at + ENTRY_OUT.ENTRY_VALID + 1] === 0) return;
  words[at + ENTRY_OUT.ENTRY_VALID] = MOUNT_VALID_SECONDS;
  words[at + ENTRY_OUT.ENTRY_VALID + 1] = 0;
  words[at + ENTRY_OUT.ENTRY_VALID_NSEC] = 0;
}

/** An attr_out. */
export function attributes(request: Request, mounted: Mounted, n: Result): Result {
  if (n <= 0 || !mounted.counted) return n;
  if (request.nodeLow === ROOT_LOCAL) {
    cutAttrValid(request.reply.u32, mounted.path === '/' ? request.rootAttrMs : MOUNT_VALID_MS);
    rootAttributes(request, mounted, IN_ATTR_OUT);
  } else request.reply.u32[IN_ATTR_OUT + ATTR.INO + 1] ^= mixed(request, mounted);
  return n;
}

/** entry_out of the member's root, made from its attributes. Turns the request into one for that root. */
export function rootEntry(request: Request, mounted: Mounted): Result {
  request.nodeLow = ROOT_LOCAL;
  request.nodeHigh = mounted.id;
  const n = mounted.fs.getattr(request, noHandle);
  if (n <= 0) return n;
  const words = request.reply.u32;
  const validMs = cutAttrValid(words, MOUNT_VALID_MS);
  words.copyWithin(IN_ENTRY, IN_ATTR_OUT, IN_ATTR_OUT + ATTR_WORDS);
  putEntryHead(words, BODY, ROOT_LOCAL, mounted.id, MOUNT_VALID_MS, validMs);
  rootAttributes(request, mounted, IN_ENTRY);
  mounted.addLookups(1);
  return ENTRY_OUT_BYTES;
}

/** The fuse_attr at word `at` of a member's root. */
function rootAttributes(request: Request, mounted: Mounted, at: number): void {
  const words = request.reply.u32;
  if (ownDevice(request, mounted)) words[at + ATTR.FLAGS] |= ATTR_SUBMOUNT;
  else words[at + ATTR.INO + 1] ^= mounted.mix;
}

/** Cuts the time-out of an attr_out to at most `limitMs`; what is left of it in ms (0: the member allows no caching). */
function cutAttrValid(words: Uint32Array, limitMs: number): number {
  const seconds = words[BODY + ATTR_OUT.ATTR_VALID] + words[BODY + ATTR_OUT.ATTR_VALID + 1] * 2 ** 32;
  const validMs = seconds * 1000 + words[BODY + ATTR_OUT.ATTR_VALID_NSEC] / 1e6;
  if (validMs <= limitMs) return validMs;
  putAttrHead(words, BODY, limitMs);
  return limitMs;
}
