import assert from 'node:assert/strict';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fdCount } from '../common/descriptors.testing.ts';
import { Arena } from '../sys/arena.ts';
import { errno } from '../sys/errno.ts';
import { close, dupCloexec } from '../sys/io.ts';
import { O } from '../sys/path.ts';
import { DescriptorBudget } from './budget.ts';
import { Guest } from './guest.testing.ts';
import { ok, withShare } from './harness.testing.ts';
import { ROOT_ID } from './inodes.ts';
import { Passthrough } from './passthrough.ts';

/** A guest with files open, a directory half read, and an unlinked file. */
function busy(dir: string, guest: Guest) {
  mkdirSync(join(dir, 'd'));
  for (let i = 0; i < 200; i++) writeFileSync(join(dir, `d/n${i}`), `content ${i}`);
  const d = guest.walk('d').node;
  const f = guest.walk('d/n7').node;
  const file = ok(guest.open(f, O.RDWR));
  rmSync(join(dir, 'd/n7'));
  const directory = ok(guest.opendir(d));
  const page = ok(guest.readdir(d, directory, 0, 0, 2048, true));
  return { d, f, file, directory, page };
}

function goesOn(guest: Guest, before: ReturnType<typeof busy>): void {
  const { d, f, file, directory, page } = before;
  assert.equal(ok(guest.read(f, file, 0, 100)).toString(), 'content 7');
  assert.equal(guest.write(f, file, 0, 'CONTENT'), 7);
  assert.equal(ok(guest.getattr(f)).nlink, 0);
  const first = page.find((p) => p.node !== 0);
  assert.equal(guest.walk(`d/${first?.name}`).node, first?.node);
  let { low, high } = page[page.length - 1];
  const names = new Set(page.map((p) => p.name.toString()));
  for (;;) {
    const next = ok(guest.readdir(d, directory, low, high, 4096));
    if (next.length === 0) break;
    for (const entry of next) {
      assert.ok(!names.has(entry.name.toString()), `${entry.name} twice`);
      names.add(entry.name.toString());
    }
    ({ low, high } = next[next.length - 1]);
  }
  for (let i = 0; i < 200; i++) assert.ok(i === 7 || names.has(`n${i}`), `n${i} is missing`);
  assert.equal(guest.release(f, { ...file, high: file.high + 1 }), -errno.EBADF);
  assert.equal(guest.release(f, file), 0);
  assert.equal(guest.releasedir(d, directory), 0);
}

test('a second life on the same arena and descriptors serves the same nodeids and handles', () => {
  withShare({ cache: 'always' }, ({ dir, guest, fs, arena, budget }) => {
    const before = busy(dir, guest);
    const state = JSON.parse(JSON.stringify(fs.dump()));
    const used = budget.used;
    fs.abandon();
    assert.equal(budget.used, 0);
    const heir = Passthrough.load(state, arena, budget);
    assert.equal(budget.used, used);
    assert.equal(heir.options.cache, 'always');
    const next = new Guest(heir);
    goesOn(next, before);
    const fresh = next.walk('d/n9').node;
    heir.reset();
    assert.ok(next.walk('d').node > fresh, 'ids go on where they were');
    heir.destroy();
    assert.equal(budget.used, 0);
  });
});

test('another process: the arena by its descriptor, all others under new numbers', () => {
  withShare({}, ({ dir, guest, fs, arena, budget }) => {
    const before = busy(dir, guest);
    const state = fs.dump();
    const sent = new Map(fs.descriptors().map((fd) => [fd, dupCloexec(fd)]));
    const theirs = Arena.attach(dupCloexec(arena.fd));
    const theirBudget = new DescriptorBudget(1000);
    const old = fs.descriptors();
    fs.abandon();
    for (const fd of old) close(fd);
    const heir = Passthrough.load(state, theirs, theirBudget, (fd) => sent.get(fd) ?? -1);
    assert.equal(theirBudget.used, old.length);
    goesOn(new Guest(heir), before);
    heir.destroy();
    theirs.close();
    assert.equal(budget.used, 0);
  });
});

test('state that does not fit is refused', () => {
  withShare({}, ({ fs, arena, budget }) => {
    const state = fs.dump();
    assert.throws(() => Passthrough.load({ ...state, version: 2 }, arena, budget), { code: 'SHARE_STATE' });
    assert.throws(() => Passthrough.load({ ...state, tables: 'q' }, arena, budget), { code: 'SHARE_STATE' });
    assert.throws(() => new Passthrough({ source: '/' }, { arena, tables: 'p', budget }), { code: 'SHARE_STATE' });
  });
});

test('what cannot be shared says so and leaves nothing behind', () => {
  const arena = Arena.create('refused');
  const budget = new DescriptorBudget(10);
  const before = fdCount();
  const environment = { arena, tables: 'p', budget };
  assert.throws(() => new Passthrough({ source: '/nowhere/at/all' }, environment), { code: 'SHARE_OPEN' });
  assert.throws(() => new Passthrough({ source: '/proc/self/maps' }, environment), { code: 'SHARE_OPEN' });
  const none = { ...environment, budget: new DescriptorBudget(0) };
  assert.throws(() => new Passthrough({ source: '/' }, none), { code: 'SHARE_NO_DESCRIPTORS' });
  assert.equal(fdCount(), before);
  assert.deepEqual(arena.names(), []);
  arena.close();
});

test('reset: a new session starts from the root, ids do not come again; destroy leaves the arena empty', () => {
  withShare({}, ({ dir, guest, fs, arena, budget }) => {
    const { f, file } = busy(dir, guest);
    fs.reset();
    assert.deepEqual([fs.inodeCount, fs.handleCount, fs.mountCount, budget.used], [0, 0, 1, 1]);
    assert.equal(guest.getattr(f), -errno.ESTALE);
    assert.equal(guest.read(f, file, 0, 1), -errno.EBADF);
    assert.ok(ok(guest.getattr(ROOT_ID)));
    fs.destroy();
    assert.deepEqual(arena.names(), []);
    assert.equal(guest.getattr(ROOT_ID), -errno.ESTALE);
    assert.equal(guest.read(f, file, 0, 1), -errno.EBADF);
    guest.forget(f);
  });
});

test('300 shares come and go in one arena', () => {
  withShare({}, ({ dir, arena, budget }) => {
    writeFileSync(join(dir, 'f'), 'x');
    const before = fdCount();
    for (let i = 0; i < 300; i++) {
      const fs = new Passthrough({ source: dir }, { arena, tables: `member.${i}`, budget });
      const guest = new Guest(fs);
      const { node } = guest.walk('f');
      ok(guest.open(node, O.RDONLY));
      guest.request.memory.free();
      guest.request.reply.free();
      guest.data.free();
      fs.destroy();
    }
    assert.equal(fdCount(), before);
    assert.ok(arena.usedBytes <= 16 * 128 * 1024, `${arena.usedBytes} bytes of tables`);
  });
});
