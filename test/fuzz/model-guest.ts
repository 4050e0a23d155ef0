/**
 * The guest of the model: paths become nodeids by LOOKUP, and what the device says about a node is compared with the
 * model's. While a nodeid is referenced it means one node, and a node has one nodeid.
 */
import assert from 'node:assert/strict';
import type { OpName } from '../../src/fuse/opcodes.ts';
import { entryOf } from '../../src/virtiofs/testing/fuse-client.ts';
import { lookup, type ModelDir, type ModelFile, type ModelNode } from './model-fs.ts';

/** Whoever carries a request to the device and its reply back. */
export interface Caller {
  call(op: OpName, nodeid: bigint, args: Buffer, replyBytes: number): { error: number; body: Buffer };
}

export interface OpenFile {
  file: ModelFile;
  nodeid: bigint;
  fh: bigint;
}

/** A directory to start from, and names below it. */
export interface Path {
  /** Index among the kept nodes, modulo their number; the root of the case is the first. */
  base: number;
  names: readonly string[];
}

/** Packs words (number: u32, bigint: u64), then bytes. */
export function args(...parts: (number | bigint | Buffer)[]): Buffer {
  const bytes = parts.map((part) => {
    if (typeof part === 'object') return part;
    const word = Buffer.alloc(typeof part === 'bigint' ? 8 : 4);
    if (typeof part === 'bigint') word.writeBigUInt64LE(part);
    else word.writeUInt32LE(part);
    return word;
  });
  return Buffer.concat(bytes);
}

export const cString = (text: string): Buffer => Buffer.from(`${text}\0`);

const FILE_TYPES: Record<ModelNode['kind'], number> = { file: 0o100000, dir: 0o040000, link: 0o120000 };
const ENTRY_BYTES = 128;
const DIRENTPLUS_NAME_AT = 152;
/** Small, so that listings take several calls. */
const LIST_BYTES = 700;

/** A node of the model and the nodeid it has. */
interface Kept {
  node: ModelNode;
  nodeid: bigint;
}

export class ModelGuest {
  readonly kept: Kept[];
  readonly files: OpenFile[] = [];
  /** Lookups the device has counted, by nodeid. */
  private readonly counts = new Map<bigint, { node: ModelNode; nlookup: bigint }>();
  private readonly ids = new Map<ModelNode, bigint>();

  constructor(
    private readonly caller: Caller,
    root: ModelDir,
    rootId: bigint,
  ) {
    this.kept = [{ node: root, nodeid: rootId }];
  }

  /** @returns the reply's body, or -errno */
  call(op: OpName, nodeid: bigint, body: Buffer, replyBytes: number): Buffer | number {
    const reply = this.caller.call(op, nodeid, body, replyBytes);
    return reply.error !== 0 ? reply.error : reply.body;
  }

  /** Walks `path` in both worlds, which must agree; null when it leads nowhere. */
  walk({ base, names }: Path): Kept | null {
    let at = this.kept[base % this.kept.length]!;
    for (const name of names) {
      const node = lookup(at.node, name);
      const entry = this.call('LOOKUP', at.nodeid, cString(name), ENTRY_BYTES);
      if (typeof node === 'number') {
        assert.equal(this.errorOf(entry), node, `LOOKUP of ${name}`);
        return null;
      }
      at = { node, nodeid: this.learn(entry, node, `LOOKUP of ${name}`) };
    }
    return at;
  }

  /** The directory of a path and its last name. Null when the way there leads nowhere. */
  walkUp({ base, names }: Path): { dir: Kept; name: string } | null {
    const dir = this.walk({ base, names: names.slice(0, -1) });
    return dir === null ? null : { dir, name: names.at(-1)! };
  }

  /** A negative entry is an ENOENT. */
  private errorOf(entry: Buffer | number): number {
    if (typeof entry === 'number') return entry;
    return entry.readBigUInt64LE(0) === 0n ? -2 : 0;
  }

  /** Compares an entry_out with `node` and counts it; its nodeid. */
  learn(entry: Buffer | number, node: ModelNode, what: string): bigint {
    assert.equal(this.errorOf(entry), 0, what);
    const { nodeid } = entryOf(entry as Buffer);
    const known = this.counts.get(nodeid);
    assert.ok(known === undefined || known.node === node, `${what}: nodeid ${nodeid} means another node`);
    const before = this.ids.get(node);
    assert.ok(before === undefined || before === nodeid, `${what}: nodeid ${nodeid} instead of ${before}`);
    this.counts.set(nodeid, { node, nlookup: (known?.nlookup ?? 0n) + 1n });
    this.ids.set(node, nodeid);
    this.checkAttr((entry as Buffer).subarray(40, 128), node, what);
    return nodeid;
  }

  /** Compares a fuse_attr with `node`. */
  checkAttr(attr: Buffer, node: ModelNode, what: string): void {
    assert.equal(attr.readUInt32LE(60).toString(8), (FILE_TYPES[node.kind] | node.mode).toString(8), `${what}: mode`);
    if (node.kind === 'dir') return;
    assert.equal(attr.readUInt32LE(64), node.names, `${what}: nlink`);
    const size = node.kind === 'file' ? node.data.length : Buffer.byteLength(node.target);
    assert.equal(Number(attr.readBigUInt64LE(8)), size, `${what}: size`);
  }

  /** Lists a directory with READDIRPLUS: names and nodes must be the model's. */
  list({ node, nodeid }: Kept): void {
    const opened = this.call('OPENDIR', nodeid, Buffer.alloc(8), 16);
    assert.ok(typeof opened === 'object', `OPENDIR: ${opened}`);
    const fh = opened.readBigUInt64LE(0);
    const names: string[] = [];
    for (let offset = 0n, isMore = true; isMore; ) {
      const page = this.call('READDIRPLUS', nodeid, args(fh, offset, LIST_BYTES, 0, 0n, 0, 0), LIST_BYTES);
      // A directory that was removed lists nothing any more.
      if (node.names === 0) assert.equal(page, -2, 'READDIRPLUS of a removed directory');
      if (node.names === 0) break;
      assert.ok(typeof page === 'object', `READDIRPLUS: ${page}`);
      isMore = page.length > 0;
      for (let at = 0; at < page.length; ) {
        offset = page.readBigUInt64LE(at + 136);
        const end = at + DIRENTPLUS_NAME_AT + page.readUInt32LE(at + 144);
        const name = page.toString('utf8', at + DIRENTPLUS_NAME_AT, end);
        names.push(name);
        const child = (node as ModelDir).children.get(name);
        if (child !== undefined && page.readBigUInt64LE(at) !== 0n) {
          this.learn(page.subarray(at, at + ENTRY_BYTES), child, `READDIRPLUS of ${name}`);
        }
        at = Math.ceil(end / 8) * 8;
      }
    }
    this.call('RELEASEDIR', nodeid, args(fh, 0, 0, 0n), 0);
    const expected = [...(node as ModelDir).children.keys()];
    assert.deepEqual(names.filter((name) => name !== '.' && name !== '..').sort(), expected.sort(), 'names listed');
  }

  /** Gives back every lookup of nodes that are neither kept nor open. */
  forget(): void {
    const held = new Set([...this.kept, ...this.files].map(({ nodeid }) => nodeid));
    const gone = [...this.counts].filter(([nodeid]) => !held.has(nodeid));
    if (gone.length === 0) return;
    const pairs = gone.flatMap(([nodeid, { nlookup }]) => [nodeid, nlookup]);
    this.caller.call('BATCH_FORGET', 0n, args(gone.length, 0, ...pairs), 0);
    for (const [nodeid, { node }] of gone) {
      this.counts.delete(nodeid);
      this.ids.delete(node);
    }
  }

  /** Closes and forgets everything. */
  end(): void {
    for (const { nodeid, fh } of this.files.splice(0)) this.call('RELEASE', nodeid, args(fh, 0, 0, 0n), 0);
    this.kept.splice(1);
    this.forget();
  }
}
