/** A tree listed by a guest's requests over virtqueues: the same list that `find` and friends give. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { S } from '../../src/fuse/flags.ts';
import { ATTR, DIRENT_BYTES, ENTRY_OUT, ENTRY_OUT_BYTES } from '../../src/fuse/wire/layout.ts';
import { direntBytes } from '../../src/fuse/wire/out.ts';
import { type FuseClient, type Reply, readArgs } from '../../src/virtiofs/testing/fuse-client.ts';
import type { Entry, EntryType, Manifest } from '../vm/manifest.ts';
import { shownDevice, TYPES } from './attributes.ts';

const LIST_BYTES = 64 * 1024;
const READ_BYTES = 128 * 1024;
const XATTR_BYTES = 64 * 1024;
/** FUSE attributes begin here in a GETATTR reply. */
const ATTR_AT = 16;

interface Node {
  nodeid: bigint;
  attributes: Buffer;
}

/** A request that failed: what was asked of which path, and -errno. */
export class Refused extends Error {
  constructor(
    what: string,
    readonly result: number,
  ) {
    super(`${what}: ${result}`);
  }
}

/**
 * Everything below `root` (a path of the device), every byte read. Forgets what it has looked up.
 * @throws Refused at the first request that fails
 */
export function clientManifest(client: FuseClient, root: string): Manifest {
  const manifest: Manifest = new Map();
  const nodeid = client.walk(root);
  const attributes = ok(client.getattr(nodeid), '/').subarray(ATTR_AT);
  addEntry(client, manifest, '/', { nodeid, attributes }, new Map());
  return manifest;
}

function addEntry(client: FuseClient, manifest: Manifest, path: string, node: Node, sums: Map<bigint, string>): void {
  const entry = entryOf(client, path, node, sums);
  manifest.set(path, entry);
  if (entry.type !== 'dir') return;
  for (const [name, child] of children(client, path, node.nodeid)) {
    addEntry(client, manifest, `${path === '/' ? '' : path}/${name}`, child, sums);
    client.forget(child.nodeid, 2n);
  }
}

/** Entries by READDIRPLUS, each looked up as well. */
function children(client: FuseClient, path: string, nodeid: bigint): [string, Node][] {
  const found: [string, Node][] = [];
  const opened = ok(client.call('OPENDIR', Buffer.alloc(8), { nodeid, replyBytes: 16 }), path);
  const fh = opened.readBigUInt64LE(0);
  for (let cookie = 0n; ; ) {
    const args = readArgs(fh, cookie, LIST_BYTES);
    const body = ok(client.call('READDIRPLUS', args, { nodeid, replyBytes: LIST_BYTES }), path);
    if (body.length === 0) break;
    for (let at = 0; at < body.length; ) {
      const entry = at + ENTRY_OUT_BYTES;
      const nameBytes = body.readUInt32LE(entry + 16);
      const name = body.subarray(entry + DIRENT_BYTES, entry + DIRENT_BYTES + nameBytes);
      cookie = body.readBigUInt64LE(entry + 8);
      at = entry + direntBytes(nameBytes);
      const text = name.toString('latin1');
      if (text === '.' || text === '..') continue;
      const nul = Buffer.concat([name, Buffer.alloc(1)]);
      const looked = ok(client.call('LOOKUP', nul, { nodeid, replyBytes: 128 }), `${path}: ${text}`);
      const attributes = looked.subarray(ENTRY_OUT.ATTR * 4);
      found.push([text, { nodeid: looked.readBigUInt64LE(0), attributes }]);
    }
  }
  const release = Buffer.alloc(24);
  release.writeBigUInt64LE(fh, 0);
  client.call('RELEASEDIR', release, { nodeid });
  return found;
}

function entryOf(client: FuseClient, path: string, { nodeid, attributes }: Node, sums: Map<bigint, string>): Entry {
  const u32 = (field: number) => attributes.readUInt32LE(field * 4);
  const u64 = (field: number) => Number(attributes.readBigInt64LE(field * 4));
  const type = TYPES[u32(ATTR.MODE) & S.IFMT] as EntryType;
  const isDevice = type === 'char' || type === 'block';
  const size = u64(ATTR.SIZE);
  let sha256 = null;
  if (type === 'file') {
    sha256 = sums.get(nodeid) ?? sumOf(client, path, nodeid, size);
    sums.set(nodeid, sha256);
  }
  return {
    type,
    mode: u32(ATTR.MODE) & 0o7777,
    uid: u32(ATTR.UID),
    gid: u32(ATTR.GID),
    ino: String(attributes.readBigUInt64LE(ATTR.INO * 4)),
    nlink: u32(ATTR.NLINK),
    size,
    mtimeSec: u64(ATTR.MTIME),
    mtimeNsec: u32(ATTR.MTIMENSEC),
    target:
      type === 'symlink' ? ok(client.call('READLINK', Buffer.alloc(0), { nodeid }), path).toString('latin1') : null,
    rdev: isDevice ? shownDevice(u32(ATTR.RDEV)) : null,
    sha256,
    xattrs: xattrsOf(client, path, nodeid),
  };
}

function sumOf(client: FuseClient, path: string, nodeid: bigint, size: number): string {
  const fh = client.open(nodeid);
  if (typeof fh === 'number') throw new Refused(`open ${path}`, fh);
  const hash = createHash('sha256');
  for (let offset = 0; offset < size; ) {
    const body = ok(client.read(nodeid, fh, offset, READ_BYTES), `${path} at ${offset}`);
    assert.ok(body.length > 0, `${path} ends at ${offset} of ${size}`);
    hash.update(body);
    offset += body.length;
  }
  const release = Buffer.alloc(24);
  release.writeBigUInt64LE(fh, 0);
  client.call('RELEASE', release, { nodeid });
  return hash.digest('hex');
}

function xattrsOf(client: FuseClient, path: string, nodeid: bigint): string[] {
  const sizes = Buffer.alloc(8);
  sizes.writeUInt32LE(XATTR_BYTES);
  const options = { nodeid, replyBytes: XATTR_BYTES };
  const names = ok(client.call('LISTXATTR', sizes, options), `${path}: xattrs`)
    .toString('latin1')
    .split('\0')
    .slice(0, -1);
  return names
    .map((name) => {
      const args = Buffer.concat([sizes, Buffer.from(`${name}\0`, 'latin1')]);
      const value = ok(client.call('GETXATTR', args, options), `${path}: ${name}`);
      return `${name}=${value.toString('base64')}`;
    })
    .sort();
}

function ok(reply: Reply, what: string): Buffer {
  if (reply.error !== 0) throw new Refused(what, reply.error);
  return Buffer.from(reply.body);
}
