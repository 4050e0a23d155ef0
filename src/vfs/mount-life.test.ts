import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as A from '../fuse/args.ts';
import type { Result } from '../fuse/file-system.ts';
import { PARKED, type Parking, type Request } from '../fuse/request.ts';
import { ATTR_OUT_BYTES } from '../fuse/wire/layout.ts';
import { Arena } from '../sys/arena.ts';
import { errno } from '../sys/errno.ts';
import { Table } from '../sys/table.ts';
import { Refusing } from './refusing.ts';
import { type Entry, FsClient, type Handle, ROOT } from './testing/client.ts';
import { MemoryFs } from './testing/memory-fs.ts';
import { Union } from './union.ts';

const PATH = '/rafs/c/lowerdir';

function image(content: string): MemoryFs {
  const fs = new MemoryFs();
  fs.addFile('/etc/release', content);
  return fs;
}

function setUp(): { arena: Arena; union: Union; guest: FsClient } {
  const arena = Arena.create();
  const union = new Union(arena);
  return { arena, union, guest: new FsClient(union) };
}

function openFile(guest: FsClient, path: string): { file: Entry; handle: Handle } {
  const file = guest.walk(path);
  assert.ok(typeof file === 'object', `${path}: errno ${file}`);
  const handle = guest.open(file.node);
  assert.ok(typeof handle === 'object', `errno ${handle}`);
  return { file, handle };
}

/** Records left in the union's tables, besides the pseudo root. */
function left(arena: Arena): number {
  const mounts = new Table(arena, 'vfs.mounts', 6, 4096).count;
  const pseudo = new Table(arena, 'vfs.pseudo', 75, 65_536).count;
  const handles = new Table(arena, 'vfs.root-handles', 4, 65_536).count;
  return mounts + pseudo - 1 + handles;
}

describe('one path, many contents', () => {
  test('300 unmounts and mounts: lookups see the new one, an old handle is ESTALE', () => {
    const { arena, union, guest } = setUp();
    let before: ReturnType<typeof openFile> | null = null;
    const nodes = new Set<string>();
    for (let i = 0; i < 300; i++) {
      assert.equal(union.mount(PATH, image(`release ${i}`)), 0);
      const now = openFile(guest, `${PATH}/etc/release`);
      assert.equal(guest.read(now.file.node, now.handle), `release ${i}`);
      if (before !== null) {
        assert.equal(guest.read(before.file.node, before.handle), -errno.ESTALE);
        assert.equal(guest.getattr(before.file.node), -errno.ESTALE);
        assert.equal(guest.release(before.file.node, before.handle), 0);
        guest.forget(before.file.node);
      }
      nodes.add(`${now.file.node.high}:${now.file.node.low}`);
      before = now;
      assert.equal(union.umount(PATH), 0);
    }
    assert.equal(nodes.size, 300);
    assert.equal(left(arena), 0);
  });

  test('300 remounts: lookups see the new one, an old handle its own bytes until it is given back', () => {
    const { arena, union, guest } = setUp();
    union.mount(PATH, image('release 0'));
    const open = [openFile(guest, `${PATH}/etc/release`)];
    for (let i = 1; i < 300; i++) {
      assert.equal(union.remount(PATH, image(`release ${i}`)), 0);
      open.push(openFile(guest, `${PATH}/etc/release`));
      open.forEach(({ file, handle }, at) => {
        if (at % 50 === i % 50) assert.equal(guest.read(file.node, handle), `release ${at}`);
      });
    }
    assert.equal(union.list().filter((mount) => mount.retired).length, 299);
    for (const { file, handle } of open) {
      assert.equal(guest.release(file.node, handle), 0);
      guest.forget(file.node);
    }
    union.collect();
    const [last, ...others] = union.list();
    assert.deepEqual(others, []);
    assert.deepEqual([last?.path, last?.retired, last?.lookups, last?.handles], [PATH, false, 0, 0]);
    union.umount(PATH);
    assert.equal(left(arena), 0);
  });

  test('an unmount ends older generations too', () => {
    const { union, guest } = setUp();
    const old = image('old');
    union.mount(PATH, old);
    const { file, handle } = openFile(guest, `${PATH}/etc/release`);
    union.remount(PATH, image('new'));
    assert.equal(old.destroyed, false);
    union.umount(PATH);
    assert.equal(old.destroyed, true);
    assert.equal(guest.read(file.node, handle), -errno.ESTALE);
    assert.deepEqual(union.list(), []);
  });

  test('1,000 cycles under a walker end with empty tables', () => {
    const { arena, union, guest } = setUp();
    const held: Entry[] = [];
    for (let i = 0; i < 1000; i++) {
      const path = `/d${i % 7}/e${i % 3}/m`;
      const answer = i % 3 === 2 ? union.remount(path, image(`${i}`)) : union.mount(path, image(`${i}`));
      assert.ok(answer === 0 || answer === -errno.EEXIST || answer === -errno.ENOENT);
      for (const dirent of guest.list(ROOT) as { name: string }[]) {
        if (dirent.name.startsWith('.')) continue;
        for (let e = 0; e < 3; e++) {
          const file = guest.walk(`/${dirent.name}/e${e}/m/etc/release`);
          if (typeof file === 'object') held.push(file);
        }
      }
      for (let n = i % 5; n > 0 && held.length > 0; n--) guest.forget((held.shift() as Entry).node);
      if (i % 2 === 1) union.umount(`/d${(i * 5) % 7}/e${i % 3}/m`);
    }
    for (const mount of union.list()) if (!mount.retired) assert.equal(union.umount(mount.path), 0);
    for (const entry of held) guest.forget(entry.node, 3);
    union.collect();
    assert.deepEqual(union.list(), []);
    assert.equal(left(arena), 0);
    assert.deepEqual(
      (guest.list(ROOT) as { name: string }[]).map((dirent) => dirent.name),
      ['.', '..'],
    );
  });
});

describe('members', () => {
  test('1,000 at a time: no limit of 255', () => {
    const { union, guest } = setUp();
    for (let i = 0; i < 1000; i++) assert.equal(union.mount(`/rafs/c${i}/lowerdir`, image(`${i}`)), 0);
    for (let i = 0; i < 1000; i += 99) {
      const { file, handle } = openFile(guest, `/rafs/c${i}/lowerdir/etc/release`);
      assert.equal(guest.read(file.node, handle), `${i}`);
    }
    assert.equal((guest.list(guestNode(guest, '/rafs')) as unknown[]).length, 1002);
    union.destroy();
    assert.deepEqual(union.list(), []);
  });

  test('unmount answers parked requests before the member closes, and is over at once', () => {
    const { union, guest } = setUp();
    const member = image('slow');
    union.mount(PATH, member);
    const { file, handle } = openFile(guest, `${PATH}/etc/release`);
    const order: string[] = [];
    const parking: Parking = { park: () => 7, unpark: () => {} };
    guest.request.parking = parking;
    member.park = true;
    assert.equal(guest.read(file.node, handle), PARKED);
    union.onMemberGone = (id) => order.push(`gone ${id}, closed: ${member.destroyed}, mounted: ${union.list().length}`);
    assert.equal(union.umount(PATH), 0);
    assert.deepEqual(order, [`gone ${file.node.high}, closed: false, mounted: 0`]);
    assert.equal(member.destroyed, true);
    assert.equal(union.umount(PATH), -errno.ENOENT);
  });

  test('a second session: mounts stay, what the old one held is void, retired members go', () => {
    const { union, guest } = setUp();
    const old = image('old');
    const fresh = image('new');
    union.mount('/', old);
    openFile(guest, '/etc/release');
    guest.opendir(ROOT);
    union.remount('/', fresh);
    openFile(guest, '/etc/release');
    guest.opendir(ROOT);
    union.reset();
    union.collect();
    assert.equal(old.destroyed, true);
    assert.equal(fresh.resets, 1);
    const [mount, ...others] = union.list();
    assert.deepEqual([mount?.lookups, mount?.handles, others.length], [0, 0, 0]);
    const { file, handle } = openFile(guest, '/etc/release');
    assert.equal(guest.read(file.node, handle), 'new');
  });

  test('forgetting more than was given counts as all', () => {
    const { union, guest } = setUp();
    union.mount(PATH, image('x'));
    const { file } = openFile(guest, `${PATH}/etc/release`);
    guest.forget(file.node, Number.MAX_SAFE_INTEGER);
    guest.forget({ low: 1, high: file.node.high }, 5);
    guest.forget({ low: 77, high: 99_999 }, 5);
    guest.forget(ROOT, 5);
    assert.equal(union.list()[0]?.lookups, 0);
  });

  test('lookup counts go on above 2^32', () => {
    const { union, guest } = setUp();
    union.mount(PATH, image('x'));
    const { file } = openFile(guest, `${PATH}/etc/release`);
    const table = new Table(union.arena, 'vfs.mounts', 6, 4096);
    table.set(table.next(0), 2, 0xffff_ffff);
    guest.walk(`${PATH}/etc/release`);
    assert.ok((union.list()[0]?.lookups ?? 0) > 2 ** 32 - 1);
    guest.forget(file.node, 2 ** 32 - 10);
    assert.ok((union.list()[0]?.lookups ?? 0) < 12);
  });

  test('full tables answer ENFILE and leave the member to its owner', () => {
    const { union } = setUp();
    const member = image('x');
    assert.equal(union.mount('/a/b', member, null, 0), -errno.ENFILE);
    assert.deepEqual(union.list(), []);
    for (let i = 0; i < 4096; i++) assert.equal(union.mount(`/m${i}`, new Fast()), 0);
    assert.equal(union.mount('/x/y/z', member), -errno.ENFILE);
    assert.equal(union.check('/x'), 0);
    assert.equal(union.remount('/m1', member), -errno.ENFILE);
    assert.equal(member.destroyed, false);
    assert.equal(union.list().length, 4096);
  });
});

/** Answers GETATTR at no cost, to see what routing costs. */
class Fast extends Refusing {
  constructor() {
    super(-errno.EROFS);
  }

  override getattr(request: Request): Result {
    request.reply.u32[4] = 1;
    return ATTR_OUT_BYTES;
  }
}

test('routing a request allocates nothing', () => {
  const { union, guest } = setUp();
  for (let i = 0; i < 8; i++) union.mount(`/m${i}`, new Fast());
  union.mount('/', new Fast());
  const args = new A.GetattrArgs();
  const { request } = guest;
  const run = (rounds: number): void => {
    for (let i = 0; i < rounds; i++) {
      request.nodeLow = i % 3;
      request.nodeHigh = i % 10;
      union.getattr(request, args);
    }
  };
  run(50_000);
  const before = process.memoryUsage().heapUsed;
  const from = performance.now();
  run(1_000_000);
  const ns = performance.now() - from;
  const grown = process.memoryUsage().heapUsed - before;
  assert.ok(grown < 2_000_000, `a million requests allocated ${grown} bytes`);
  console.log(`# routing: ${ns.toFixed(0)} ns`);
});

function guestNode(guest: FsClient, path: string): Entry['node'] {
  const entry = guest.walk(path);
  assert.ok(typeof entry === 'object', `errno ${entry}`);
  return entry.node;
}
