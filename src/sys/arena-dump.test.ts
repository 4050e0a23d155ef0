import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Arena, Counter } from './arena.ts';
import { dumpArena, loadArena } from './arena-dump.ts';
import { HashIndex } from './hash-index.ts';
import { Table } from './table.ts';

function filled(records: number): { arena: Arena; table: Table } {
  const arena = Arena.create();
  const table = new Table(arena, 'handles', 3, 100_000);
  const index = new HashIndex(arena, 'handles.by-id', table, 0, 1, 2);
  for (let i = 0; i < records; i++) {
    const slot = table.allocate();
    table.set(slot, 0, i + 1000);
    table.set(slot, 1, i * 2);
    index.insert(slot);
  }
  for (let slot = 0; slot < records; slot += 5) {
    index.remove(slot);
    table.free(slot);
  }
  const counter = new Counter(arena, 'ids');
  counter.next();
  counter.next();
  return { arena, table };
}

test('a dump brings back every record at its slot, free slots, counters; indexes are rebuilt', () => {
  const { arena, table } = filled(20_000);
  const copy = loadArena(dumpArena(arena));
  const again = new Table(copy, 'handles', 3, 100_000);
  const index = new HashIndex(copy, 'handles.by-id', again, 0, 1, 2);
  index.rebuild();
  assert.equal(again.count, table.count);
  for (let slot = 0; slot < 20_000; slot++) {
    assert.equal(again.live(slot), slot % 5 !== 0);
    index.key[0] = slot + 1000;
    assert.equal(index.find(), slot % 5 === 0 ? -1 : slot);
    if (slot % 5 !== 0) assert.equal(again.get(slot, 1), slot * 2);
  }
  assert.equal(new Counter(copy, 'ids').next(), 3);
  assert.ok(again.allocate() < 20_000, 'free slots are used again');
  arena.close();
  copy.close();
});

test('every changed byte, and every cut, is refused', () => {
  const { arena } = filled(10);
  const dump = dumpArena(arena);
  arena.close();
  for (let at = 0; at < dump.length; at++) {
    const bad = Uint8Array.from(dump);
    bad[at] ^= 0x40;
    assert.throws(() => loadArena(bad), { code: 'ARENA_FOREIGN' }, `byte ${at}`);
    assert.throws(() => loadArena(dump.subarray(0, at)), { code: 'ARENA_FOREIGN' }, `cut at ${at}`);
  }
});

test('numbers that lie are refused also when the checksum is right', async (t) => {
  const { crc32 } = await import('node:zlib');
  const { arena } = filled(10);
  const dump = dumpArena(arena);
  arena.close();
  const ENTRY_AT = 6;
  const lies: [name: string, word: number, value: number][] = [
    ['record words', ENTRY_AT + 1, 0xffff_fffe],
    ['no words', ENTRY_AT + 1, 0],
    ['cap', ENTRY_AT + 2, 0],
    ['slots', ENTRY_AT + 4, 0x4000_0000],
    ['kind', ENTRY_AT, 9],
    ['name', ENTRY_AT + 16, 0],
    ['tables', 4, 1],
    ['more tables', 4, 3],
  ];
  for (const [name, word, value] of lies) {
    await t.test(name, () => {
      const words = new Uint32Array(dump.slice().buffer);
      words[word] = value;
      words[2] = crc32(new Uint8Array(words.buffer, 12));
      assert.throws(() => loadArena(new Uint8Array(words.buffer)), { code: 'ARENA_FOREIGN' });
    });
  }
});
