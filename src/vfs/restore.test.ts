import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { fdCount } from '../common/descriptors.testing.ts';
import { SILENT } from '../common/log.ts';
import { PARKED } from '../fuse/request.ts';
import { DescriptorBudget, type Passthrough } from '../passthrough/index.ts';
import { Arena } from '../sys/arena.ts';
import { dumpArena, loadArena } from '../sys/arena-dump.ts';
import { errno } from '../sys/errno.ts';
import { dupCloexec } from '../sys/io.ts';
import { O } from '../sys/path.ts';
import { Table } from '../sys/table.ts';
import { createMember } from './members.ts';
import { restoreUnion } from './restore.ts';
import type { PassthroughSpec } from './spec.ts';
import type { SavedMount, UnionState } from './state.ts';
import { type Entry, FsClient, type Handle, ROOT } from './testing/client.ts';
import { MemoryFs, type MemoryFsState } from './testing/memory-fs.ts';
import { Union } from './union.ts';

function memory(content: string): MemoryFs {
  const fs = new MemoryFs();
  fs.addFile('/f', content);
  return fs;
}

function open(guest: FsClient, path: string): { file: Entry; handle: Handle } {
  const file = guest.walk(path);
  assert.ok(typeof file === 'object', `${path}: errno ${file}`);
  const handle = guest.open(file.node, O.RDWR);
  assert.ok(typeof handle === 'object', `errno ${handle}`);
  return { file, handle };
}

const reopen = (mount: SavedMount): MemoryFs => new MemoryFs(60_000, mount.saved as MemoryFsState);

/** As it arrives over a socket. */
function sent(state: UnionState): UnionState {
  return structuredClone(state);
}

describe('a union continued elsewhere', () => {
  for (const how of ['attached', 'dumped and loaded'] as const) {
    test(`${how}: nodeids, handles, root handles, counts, retired members, parked reads`, () => {
      const arena = Arena.create();
      const union = new Union(arena);
      const guest = new FsClient(union);
      guest.request.parking = { park: () => 1, unpark: () => {} };
      union.mount('/', memory('root'));
      union.mount('/rafs/a/lowerdir', memory('old'));
      const kept = open(guest, '/rafs/a/lowerdir/f');
      union.remount('/rafs/a/lowerdir', memory('new'));
      const slow = memory('slow');
      union.mount('/b', slow);
      const parked = open(guest, '/b/f');
      slow.park = true;
      assert.equal(guest.read(parked.file.node, parked.handle), PARKED);
      const rootDir = guest.opendir(ROOT) as Handle;
      const before = union.list();

      const state = sent(union.dump());
      const copy = how === 'attached' ? Arena.attach(dupCloexec(arena.fd)) : loadArena(dumpArena(arena));
      arena.close();
      const next = restoreUnion(copy, state, reopen);
      const later = new FsClient(next);
      assert.deepEqual(next.list(), before);
      assert.equal(later.read(kept.file.node, kept.handle), 'old');
      assert.equal(later.read(parked.file.node, parked.handle, 0, 4096, 1), 'slow');
      const now = open(later, '/rafs/a/lowerdir/f');
      assert.equal(later.read(now.file.node, now.handle), 'new');
      const listed = later.readdir(ROOT, rootDir) as { name: string }[];
      assert.deepEqual(listed.map((dirent) => dirent.name).sort(), ['.', '..', 'f']);
      const children = later.list(ROOT) as { name: string }[];
      assert.deepEqual(children.map((dirent) => dirent.name).sort(), ['.', '..', 'b', 'f', 'rafs']);
      later.release(kept.file.node, kept.handle);
      later.forget(kept.file.node);
      next.collect();
      assert.equal(
        next.list().some((mount) => mount.retired),
        false,
      );
      next.mount('/c', memory('c'));
      const c = open(later, '/c/f');
      assert.ok(c.file.node.high > Math.max(...before.map((mount) => mount.id)), 'ids go on, none comes again');
      next.destroy();
      assert.deepEqual(next.list(), []);
      copy.close();
    });
  }

  test('a passthrough goes on with its descriptors', () => {
    const base = mkdtempSync(join(tmpdir(), 'union-'));
    try {
      writeFileSync(join(base, 'f'), 'host file');
      const spec: PassthroughSpec = { kind: 'passthrough', source: base, cache: 'auto', readOnly: false, xattr: true };
      const budget = new DescriptorBudget(1000);
      const arena = Arena.create();
      const start = fdCount();
      const environment = (id: number, on: Arena) => ({ id, arena: on, log: SILENT, fetch: () => {}, budget });
      const union = new Union(arena);
      const id = union.newMemberId();
      const share = createMember(spec, environment(id, arena));
      assert.equal(union.mount('/containers', share, spec, id), 0);
      const { file, handle } = open(new FsClient(union), '/containers/f');

      const state = sent(union.dump());
      (share as Passthrough).abandon();
      const next = restoreUnion(arena, state, (mount) =>
        createMember(mount.spec as PassthroughSpec, environment(mount.id, arena), mount.saved),
      );
      const guest = new FsClient(next);
      assert.equal(guest.read(file.node, handle), 'host file');
      assert.equal(guest.write(file.node, handle, 'HOST'), 4);
      assert.equal(guest.release(file.node, handle), 0);
      const again = open(guest, '/containers/f');
      assert.deepEqual(again.file.node, file.node);
      assert.equal(guest.read(file.node, again.handle), 'HOST file');
      assert.equal(next.umount('/containers'), 0);
      assert.equal(fdCount(), start);
      assert.equal(budget.used, 0);
      assert.equal(guest.read(file.node, again.handle), -errno.ESTALE);
      arena.close();
    } finally {
      rmSync(base, { recursive: true, force: true });
    }
  });
});

describe('what does not fit', () => {
  function dumped(): { arena: Arena; state: UnionState; members: MemoryFs[] } {
    const arena = Arena.create();
    const union = new Union(arena);
    union.mount('/a', memory('a'));
    union.mount('/deep/b', memory('b'));
    return { arena, state: union.dump(), members: [] };
  }

  const LIES: Record<string, (state: UnionState) => unknown> = {
    'no object': () => null,
    'another version': (s) => ({ ...s, version: 2 }),
    'no list': (s) => ({ ...s, mounts: 5 }),
    'a mount that is none': (s) => ({ ...s, mounts: [null] }),
    'an id of 0': (s) => ({ ...s, mounts: [{ ...s.mounts[0], id: 0 }] }),
    'a fraction': (s) => ({ ...s, mounts: [{ ...s.mounts[0], id: 1.5 }] }),
    'an id twice': (s) => ({ ...s, mounts: [s.mounts[0], s.mounts[0]] }),
    'an unknown id': (s) => ({ ...s, mounts: [{ ...s.mounts[0], id: 99 }] }),
    'another path': (s) => ({ ...s, mounts: [{ ...s.mounts[0], path: '/deep' }] }),
    'a path that is none': (s) => ({ ...s, mounts: [{ ...s.mounts[0], path: 'a' }] }),
    'no path': (s) => ({ ...s, mounts: [{ ...s.mounts[0], path: 7 }] }),
    'a retired member without record': (s) => ({ ...s, mounts: [{ ...s.mounts[0], id: 99, retired: true }] }),
  };
  for (const [name, lie] of Object.entries(LIES)) {
    test(`${name} is refused, and members opened for it are closed`, () => {
      const { arena, state } = dumped();
      const opened: MemoryFs[] = [];
      const make = (mount: SavedMount): MemoryFs => {
        const member = reopen(mount);
        opened.push(member);
        return member;
      };
      assert.throws(() => restoreUnion(arena, lie(state) as UnionState, make), { code: 'UNION_STATE' });
      assert.ok(opened.every((member) => member.destroyed));
      arena.close();
    });
  }

  test('members the state does not name are as if unmounted', () => {
    const { arena, state } = dumped();
    const next = restoreUnion(arena, { ...state, mounts: [state.mounts[0] as SavedMount] }, reopen);
    assert.deepEqual(
      next.list().map((mount) => mount.path),
      ['/a'],
    );
    const names = new FsClient(next).list(ROOT) as { name: string }[];
    assert.deepEqual(
      names.map((dirent) => dirent.name),
      ['.', '..', 'a'],
    );
    assert.equal(new Table(arena, 'vfs.mounts', 6, 4096).count, 1);
    arena.close();
  });

  test('a crash in the middle of a change: links are made anew from what is whole', () => {
    const { arena, state } = dumped();
    const tree = new Table(arena, 'vfs.pseudo', 75, 65_536);
    for (let slot = tree.next(0); slot >= 0; slot = tree.next(slot + 1)) {
      for (const word of [1, 3, 4, 5, 6]) tree.set(slot, word, 12_345);
      tree.set(slot, 7, 9);
    }
    tree.allocate(); // a record that got no id yet
    const next = restoreUnion(arena, state, reopen);
    const guest = new FsClient(next);
    const { file, handle } = open(guest, '/deep/b/f');
    assert.equal(guest.read(file.node, handle), 'b');
    const root = guest.getattr(ROOT);
    assert.ok(typeof root === 'object' && root.nlink === 4);
    next.destroy();
    assert.equal(tree.count, 1);
    arena.close();
  });
});
