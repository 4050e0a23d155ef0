/** The union over real members: images of the fixtures and host directories. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fdCount } from '../common/descriptors.testing.ts';
import { SILENT } from '../common/log.ts';
import { ATTR_SUBMOUNT, S } from '../fuse/flags.ts';
import { PARKED } from '../fuse/request.ts';
import { DescriptorBudget } from '../passthrough/index.ts';
import { bootPath, expectedTree, FixtureBlobs, V6_CASES } from '../rafs/fixture-blobs.testing.ts';
import { type OpenedImage, openImage } from '../rafs/open-image.ts';
import { Arena } from '../sys/arena.ts';
import { errno } from '../sys/errno.ts';
import { createMember, type MemberEnvironment } from './members.ts';
import type { MemberSpec } from './spec.ts';
import { type Entry, FsClient, type Handle, ROOT } from './testing/client.ts';
import { Union } from './union.ts';

const PATH = '/rafs/c/lowerdir';
const CYCLES = 300;

class Host {
  readonly base = mkdtempSync(join(tmpdir(), 'union-'));
  readonly arena = Arena.create();
  readonly union = new Union(this.arena);
  readonly guest = new FsClient(this.union);
  readonly budget = new DescriptorBudget(1000);
  readonly images: { image: OpenedImage; blobs: FixtureBlobs }[] = [];
  #ticket = 0;

  constructor() {
    this.guest.request.parking = { park: () => ++this.#ticket, unpark: () => {} };
  }

  environment(id: number): MemberEnvironment {
    const fetch: MemberEnvironment['fetch'] = (_ticket, handle, chunks) =>
      (this.images.at(-1) as { blobs: FixtureBlobs }).blobs.fetch(handle, chunks);
    return { id, arena: this.arena, log: SILENT, fetch, budget: this.budget };
  }

  mount(path: string, spec: MemberSpec): number {
    const id = this.union.newMemberId();
    return this.union.mount(path, createMember(spec, this.environment(id)), spec, id);
  }

  image(name: string): MemberSpec {
    const image = openImage(bootPath(name));
    const blobs = new FixtureBlobs(image.blobs, image.digests);
    this.images.push({ image, blobs });
    return { kind: 'rafs', bootstrapFd: image.fd, bootstrapPath: name, blobs: blobs.handles, validate: true };
  }

  /** Closes what main would: caches of images that are gone. */
  closeImages(): void {
    for (const { image, blobs } of this.images.splice(0)) {
      image.close();
      blobs.close();
    }
  }

  directory(name: string, content: string): MemberSpec {
    const source = join(this.base, name);
    mkdirSync(source);
    writeFileSync(join(source, 'release'), content);
    return { kind: 'passthrough', source, cache: 'auto', readOnly: false, xattr: true };
  }

  open(path: string): { file: Entry; handle: Handle } {
    const file = this.guest.walk(path);
    assert.ok(typeof file === 'object', `${path}: errno ${file}`);
    const handle = this.guest.open(file.node);
    assert.ok(typeof handle === 'object', `${path}: errno ${handle}`);
    return { file, handle };
  }

  /** The whole file, parked reads run again. */
  content(file: Entry, handle: Handle): string {
    let text = '';
    for (;;) {
      let piece = this.guest.read(file.node, handle, text.length, 65_536);
      for (let attempt = 1; piece === PARKED && attempt < 10; attempt++) {
        piece = this.guest.read(file.node, handle, text.length, 65_536, attempt);
      }
      assert.ok(typeof piece === 'string', `read: ${piece}`);
      if (piece === '') return text;
      text += piece;
    }
  }

  close(): void {
    this.union.destroy();
    this.closeImages();
    this.arena.close();
    rmSync(this.base, { recursive: true, force: true });
  }
}

test('an image and a host directory under one root, each with its own files', () => {
  const host = new Host();
  const [name, tree] = V6_CASES[0] as readonly [string, string];
  assert.equal(host.mount(PATH, host.image(name)), 0);
  assert.equal(host.mount('/containers', host.directory('share', 'from the host')), 0);
  const share = host.open('/containers/release');
  assert.equal(host.content(share.file, share.handle), 'from the host');
  let compared = 0;
  for (const expected of expectedTree(tree).values()) {
    if (expected.type !== 'file' || expected.path_base64 || !expected.size || compared === 20) continue;
    const { file, handle } = host.open(`${PATH}${Buffer.from(expected.path).toString('latin1')}`);
    assert.equal(file.mode, S.IFREG | Number(expected.mode));
    const digest = createHash('sha256')
      .update(Buffer.from(host.content(file, handle), 'latin1'))
      .digest('hex');
    assert.equal(digest, expected.sha256, expected.path);
    compared++;
  }
  assert.ok(compared >= 5, `${compared} files compared`);
  const lower = host.guest.walk(PATH) as Entry;
  const upper = host.guest.lookup(ROOT, 'containers') as Entry;
  // overlayfs takes no automount point as lowerdir, so an image's numbers are mixed instead of announced.
  assert.equal(lower.flags, 0);
  assert.equal(upper.flags, ATTR_SUBMOUNT);
  assert.notEqual(lower.ino.split(':')[0], '0');
  const listed = host.guest.list(lower.node) as { name: string; ino: string }[];
  assert.equal(listed.find((dirent) => dirent.name === '.')?.ino, lower.ino);
  assert.equal(host.guest.create(lower.node, 'new'), -errno.EROFS);
  assert.ok(typeof host.guest.create(upper.node, 'new') === 'object');
  assert.equal(host.guest.rename(upper.node, 'new', lower.node, 'new'), -errno.EXDEV);
  assert.equal(host.guest.link(share.file.node, lower.node, 'new'), -errno.EXDEV);
  host.close();
});

test(`${CYCLES} images at one path, one file held open across each change`, () => {
  const before = fdCount();
  const host = new Host();
  const cases = [...new Map(V6_CASES.map(([name, tree]) => [tree, name])).entries()];
  assert.ok(cases.length >= 2, 'two different trees');
  const roots = cases.map(([tree]) => [...expectedTree(tree).keys()].filter((p) => p.split('/').length === 2).sort());
  let held: { file: Entry; handle: Handle } | null = null;
  for (let i = 0; i < CYCLES; i++) {
    const at = i % cases.length;
    assert.equal(host.mount(PATH, host.image((cases[at] as [string, string])[1])), 0);
    const root = host.guest.walk(PATH) as Entry;
    const names = (host.guest.list(root.node, true) as { name: string }[]).map((dirent) => `/${dirent.name}`);
    assert.deepEqual(
      names.filter((name) => name !== '/.' && name !== '/..').sort(),
      roots[at]?.filter((name) => name !== '/'),
    );
    if (held !== null) {
      assert.equal(host.guest.read(held.file.node, held.handle), -errno.ESTALE);
      assert.equal(host.guest.release(held.file.node, held.handle), 0);
    }
    held = { file: root, handle: host.guest.opendir(root.node) as Handle };
    assert.equal(host.union.umount(PATH), 0);
    host.closeImages();
  }
  host.close();
  assert.equal(fdCount(), before);
});

test(`${CYCLES} host directories at one path, one file held open across each change`, () => {
  const host = new Host();
  const before = fdCount();
  let held: { file: Entry; handle: Handle } | null = null;
  let old: { file: Entry; handle: Handle; content: string } | null = null;
  for (let i = 0; i < CYCLES; i++) {
    const spec = host.directory(`d${i}`, `release ${i}`);
    if (i % 3 !== 2) assert.equal(host.mount(PATH, spec), 0);
    else {
      const id = host.union.newMemberId();
      assert.equal(host.union.remount(PATH, createMember(spec, host.environment(id)), spec, id), 0);
    }
    const now = host.open(`${PATH}/release`);
    assert.equal(host.content(now.file, now.handle), `release ${i}`);
    if (old !== null && i % 3 === 2) assert.equal(host.content(old.file, old.handle), old.content);
    else if (held !== null) assert.equal(host.guest.read(held.file.node, held.handle), -errno.ESTALE);
    held = now;
    old = { ...now, content: `release ${i}` };
    if (i % 3 !== 1) assert.equal(host.union.umount(PATH), 0);
  }
  if (host.union.check(PATH) < 0) host.union.umount(PATH);
  assert.deepEqual(host.union.list(), []);
  assert.equal(fdCount(), before, 'every descriptor is closed');
  assert.equal(host.budget.used, 0);
  host.close();
});
