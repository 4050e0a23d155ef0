/** Random mounts, remounts and unmounts of nested paths, compared after each with a list of what is mounted. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Arena } from '../sys/arena.ts';
import { dumpArena, loadArena } from '../sys/arena-dump.ts';
import { errno } from '../sys/errno.ts';
import { restoreUnion } from './restore.ts';
import { type Entry, FsClient, type Handle, ROOT } from './testing/client.ts';
import { MemoryFs, type MemoryFsState } from './testing/memory-fs.ts';
import { Union } from './union.ts';

const NAMES = ['a', 'b'];
const DEPTH = 3;
const STEPS = 1500;

function paths(depth: number): string[] {
  if (depth === 0) return [''];
  const above = paths(depth - 1);
  return ['', ...above.flatMap((path) => NAMES.map((name) => `/${name}${path}`))];
}

/** Every member has a file, and a directory that mounts below will cover. */
function member(content: string): MemoryFs {
  const fs = new MemoryFs();
  fs.addFile('/f', content);
  fs.addFile('/a/own', content);
  return fs;
}

function content(guest: FsClient, path: string): string | number {
  const file = guest.walk(path);
  if (typeof file === 'number') return file;
  const handle = guest.open(file.node) as Handle;
  const text = guest.read(file.node, handle);
  guest.release(file.node, handle);
  guest.forget(file.node);
  return text;
}

/** What the guest must see in directory `path`. */
function expectedNames(mounted: Map<string, string>, path: string): string[] | null {
  const below = [...mounted.keys()].filter((other) => other !== path && other.startsWith(`${path}/`));
  const children = new Set(below.map((other) => other.slice(path.length + 1).split('/')[0] as string));
  if (mounted.has(path)) for (const own of ['f', 'a']) children.add(own);
  else if (children.size === 0 && path !== '') return null;
  return [...children].sort();
}

function check(guest: FsClient, mounted: Map<string, string>, step: string): void {
  for (const path of new Set(paths(DEPTH))) {
    const expected = expectedNames(mounted, path);
    const covered = [...mounted.keys()].some((other) => other === `${path}/a` || other.startsWith(`${path}/a/`));
    const own = mounted.has(path) && !covered ? mounted.get(path) : -errno.ENOENT;
    assert.equal(content(guest, `${path}/f`), mounted.get(path) ?? -errno.ENOENT, `${step}: ${path}/f`);
    if (!mounted.has(`${path}/a`)) assert.equal(content(guest, `${path}/a/own`), own, `${step}: ${path}/a/own`);
    if (expected === null) continue;
    const dir = path === '' ? { node: ROOT } : (guest.walk(path) as Entry);
    for (const plus of [false, true]) {
      const list = guest.list(dir.node, plus, 400) as { name: string; node: Entry['node'] | null }[];
      const names = list.map((dirent) => dirent.name).filter((name) => name !== '.' && name !== '..');
      assert.deepEqual(names.sort(), expected, `${step}: list ${path}`);
      for (const { name, node } of list)
        if (node !== null && node.low !== 0 && !name.startsWith('.')) guest.forget(node);
    }
    if (path !== '') guest.forget(dir.node);
  }
}

test(`${STEPS} random steps agree with the model, and nothing is left at the end`, () => {
  let arena = Arena.create();
  let union = new Union(arena);
  let guest = new FsClient(union);
  const mounted = new Map<string, string>();
  const all = [...new Set(paths(DEPTH))];
  let random = 20_261_122;
  for (let step = 0; step < STEPS; step++) {
    random = (Math.imul(random, 1_103_515_245) + 12_345) >>> 0;
    const path = all[(random >>> 8) % all.length] as string;
    const label = `step ${step}`;
    const action = (random >>> 20) % 16;
    if (action === 0) {
      const state = structuredClone(union.dump());
      const next = loadArena(dumpArena(arena));
      arena.close();
      arena = next;
      union = restoreUnion(arena, state, (mount) => new MemoryFs(60_000, mount.saved as MemoryFsState));
      guest = new FsClient(union);
    } else if (action < 8) {
      const done = union.mount(path === '' ? '/' : path, member(label));
      assert.equal(done, mounted.has(path) ? -errno.EEXIST : 0, label);
      if (done === 0) mounted.set(path, label);
    } else if (action < 14) {
      assert.equal(union.umount(path === '' ? '/' : path), mounted.delete(path) ? 0 : -errno.ENOENT, label);
    } else {
      const done = union.remount(path === '' ? '/' : path, member(label));
      assert.equal(done, mounted.has(path) ? 0 : -errno.ENOENT, label);
      if (done === 0) mounted.set(path, label);
    }
    check(guest, mounted, label);
    const held = union.list();
    assert.deepEqual(
      held.map((mount) => [mount.retired, mount.lookups, mount.handles]),
      held.map(() => [false, 0, 0]),
      `${label}: the walker gave everything back`,
    );
  }
  for (const path of mounted.keys()) assert.equal(union.umount(path === '' ? '/' : path), 0);
  assert.deepEqual(union.list(), []);
  assert.deepEqual(
    (guest.list(ROOT) as { name: string }[]).map((dirent) => dirent.name),
    ['.', '..'],
  );
  arena.close();
});
