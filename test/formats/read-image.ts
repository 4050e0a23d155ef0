/**
 * An image read completely through our readers and store, without a daemon: the handlers that the device thread calls,
 * on blobs that the store brings from a backend. The result is the same kind of list that `find` and friends give.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { SILENT } from '../../src/common/log.ts';
import { S } from '../../src/fuse/flags.ts';
import { Rafs } from '../../src/rafs/file-system.ts';
import { type Attributes, Guest } from '../../src/rafs/guest.testing.ts';
import { ROOT_LOCAL } from '../../src/rafs/nodes.ts';
import { openImage } from '../../src/rafs/open-image.ts';
import { parseConfig } from '../../src/storage/config/config.ts';
import type { StoreStats } from '../../src/storage/stats.ts';
import { BlobStore } from '../../src/storage/store.ts';
import type { Entry, EntryType, Manifest } from '../vm/manifest.ts';
import { shownDevice, TYPES } from './attributes.ts';

const READ_BYTES = 1024 * 1024;
const LIST_BYTES = 128 * 1024;

export interface ReadImage {
  manifest: Manifest;
  stats: StoreStats;
  /** What was logged as an error or a warning. */
  lines: string[];
}

/**
 * Walks the whole tree and reads every byte of it.
 * @param config text of kata-contract 3
 * @throws AssertionError for the first request that fails
 */
export async function readImage(bootstrap: string, config: object): Promise<ReadImage> {
  const parsed = parseConfig(JSON.stringify(config));
  const lines: string[] = [];
  const log = {
    ...SILENT,
    error: (line: string) => void lines.push(line),
    warn: (line: string) => void lines.push(line),
  };
  const store = new BlobStore(log);
  const image = openImage(bootstrap);
  const guest = new Guest(() => rafs);
  const blobs = image.blobs.map((blob) => store.openBlob(blob, image.digests(blob.index), parsed));
  const rafs = new Rafs({
    bootstrapFd: image.fd,
    label: bootstrap,
    blobs,
    validate: parsed.validate,
    fetch: guest.fetch,
    log,
  });
  try {
    const reader = new TreeReader(guest, store, lines);
    await reader.add('/', ROOT_LOCAL, reader.attributes(ROOT_LOCAL));
    return { manifest: reader.manifest, stats: store.stats, lines };
  } finally {
    rafs.destroy();
    await store.close();
    image.close();
  }
}

class TreeReader {
  readonly manifest: Manifest = new Map();
  /** Files of several names are read under the first. */
  private readonly sums = new Map<number, string>();

  constructor(
    private readonly guest: Guest,
    private readonly store: BlobStore,
    private readonly lines: readonly string[],
  ) {}

  attributes(node: number): Attributes {
    return this.ok(this.guest.getattr(node), `attributes of node ${node}`);
  }

  async add(path: string, node: number, attributes: Attributes): Promise<void> {
    const type = TYPES[attributes.mode & S.IFMT];
    assert.ok(type !== undefined, `${path}: mode 0${attributes.mode.toString(8)}`);
    this.manifest.set(path, await this.entry(path, node, attributes, type));
    if (type !== 'dir') return;
    const listed = this.ok(this.guest.list(node, true, LIST_BYTES), path);
    const names = new Set<string>();
    for (const { name, node: child, attributes: shown, ino } of listed) {
      const text = name.toString('latin1');
      assert.ok(!names.has(text), `${path}: ${text} is listed twice`);
      names.add(text);
      if (text === '.' || text === '..') continue;
      const found = this.ok(this.guest.lookup(node, name), `${path}: ${text}`);
      assert.equal(found.attributes.ino, ino, `${path}: inode number of ${text}`);
      if (child !== 0) assert.deepEqual(shown, found.attributes, `${path}: ${text} listed and looked up`);
      await this.add(`${path === '/' ? '' : path}/${text}`, found.node, found.attributes);
    }
  }

  private async entry(path: string, node: number, a: Attributes, type: EntryType): Promise<Entry> {
    const isDevice = type === 'char' || type === 'block';
    return {
      type,
      mode: a.mode & 0o7777,
      uid: a.uid,
      gid: a.gid,
      ino: String(a.ino),
      nlink: a.nlink,
      size: a.size,
      mtimeSec: a.mtime,
      mtimeNsec: a.mtimeNs,
      target: type === 'symlink' ? this.ok(this.guest.readlink(node), path).toString('latin1') : null,
      rdev: isDevice ? shownDevice(a.rdev) : null,
      sha256: type === 'file' ? await this.sum(path, node, a.size) : null,
      xattrs: this.xattrs(path, node),
    };
  }

  private xattrs(path: string, node: number): string[] {
    const names = this.ok(this.guest.listxattr(node), `${path}: xattrs`);
    return names
      .map((name) => `${name}=${this.ok(this.guest.getxattr(node, name), `${path}: ${name}`).toString('base64')}`)
      .sort();
  }

  private async sum(path: string, node: number, size: number): Promise<string> {
    const known = this.sums.get(node);
    if (known !== undefined) return known;
    const hash = createHash('sha256');
    for (let offset = 0; offset < size; offset += READ_BYTES) {
      const data = await this.guest.readLazily(node, offset, READ_BYTES, ({ handle, chunks }) =>
        this.store.fetch(handle, chunks),
      );
      hash.update(this.ok(data, `${path} at ${offset}`));
    }
    const sum = hash.digest('hex');
    this.sums.set(node, sum);
    return sum;
  }

  private ok<T>(answer: T | number, what: string): T {
    assert.ok(typeof answer !== 'number', `${what}: ${String(answer)}; ${this.lines.join('\n')}`);
    return answer;
  }
}
