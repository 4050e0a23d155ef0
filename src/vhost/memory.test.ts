import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { fdCount } from '../common/descriptors.testing.ts';
import { close, ftruncate } from '../sys/io.ts';
import { memfdCreate } from '../sys/memory.ts';
import { MIB, mapCount } from './echo-fixture.ts';
import { GuestRam } from './guest-ram.ts';
import { GuestMemory, type RegionSpec } from './memory.ts';
import { MEM_SLOTS_MAX } from './messages.ts';

const GIB = 2 ** 30;

function shared(layout: { gpa: number; bytes: number }[]): { ram: GuestRam; memory: GuestMemory; end: () => void } {
  const ram = new GuestRam(layout);
  const memory = new GuestMemory();
  assert.equal(memory.replace(ram.regions), null);
  return {
    ram,
    memory,
    end: () => {
      memory.clear();
      ram.free();
    },
  };
}

describe('translation', () => {
  // The regions QEMU shares for a 256 MiB PC guest, and one more that adjoins.
  const layout = [
    { gpa: 0, bytes: 0xa0000 },
    { gpa: 0xc0000, bytes: 0x10000000 - 0xc0000 },
    { gpa: 0x10000000, bytes: MIB },
  ];

  test('borders: the first and last byte of each region, and not one more', () => {
    const { memory, end } = shared(layout);
    for (const { gpa, bytes } of layout) {
      assert.ok(memory.address(gpa, bytes) > 0);
      assert.equal(memory.address(gpa, bytes + 1), 0);
      assert.ok(memory.address(gpa + bytes - 1, 1) > 0);
      assert.equal(memory.address(gpa + bytes - 1, 2), 0);
      assert.equal(memory.bytesFrom(gpa + bytes - 1), 1);
    }
    for (const hole of [0xa0000, 0xbffff, 0x10100000, 2 ** 52, 2 ** 53 - 1, -1, Number.NaN, Number.POSITIVE_INFINITY]) {
      assert.equal(memory.address(hole, 1), 0, `${hole}`);
      assert.equal(memory.bytesFrom(hole), 0);
    }
    assert.equal(memory.address(0, 2 ** 53), 0);
    end();
  });

  test('random addresses against a model, whatever was asked before', () => {
    const { ram, memory, end } = shared(layout);
    fc.assert(
      fc.property(fc.nat({ max: 0x10200000 }), fc.nat({ max: 2 * MIB }), (gpa, more) => {
        const bytes = more + 1;
        const region = ram.regions.find((r) => gpa >= r.gpa && gpa < r.gpa + r.bytes);
        const inside = region !== undefined && gpa + bytes <= region.gpa + region.bytes;
        assert.equal(memory.address(gpa, bytes) > 0, inside);
        assert.equal(memory.bytesFrom(gpa), region === undefined ? 0 : region.gpa + region.bytes - gpa);
      }),
      { numRuns: 3000 },
    );
    end();
  });

  test('both sides see the same bytes, through windows and user addresses', () => {
    const { ram, memory, end } = shared(layout);
    for (const gpa of [0, 0x9ffff, 0xc0000, 0xfffffff, 0x10000000]) {
      ram.write(gpa, Uint8Array.of(gpa % 251));
      const address = memory.address(gpa, 1);
      const window = memory.window(address);
      assert.equal(window.u8[address - window.base], gpa % 251);
      assert.equal(memory.userAddress(ram.address(gpa), 1), address);
    }
    assert.equal(memory.userAddress(12345, 1), 0);
    assert.throws(() => memory.window(4096), RangeError);
    end();
  });

  test('a window asked for at any address of a 3 GiB region holds the MiB after it', () => {
    const { memory, end } = shared([{ gpa: 4 * GIB, bytes: 3 * GIB }]);
    for (const offset of [0, GIB - 1, GIB, GIB + MIB, 2 * GIB - 4, 3 * GIB - MIB]) {
      const address = memory.address(4 * GIB + offset, MIB > 3 * GIB - offset ? 1 : MIB);
      const window = memory.window(address);
      assert.ok(window.base <= address && address + MIB <= window.end, `offset ${offset}`);
    }
    end();
  });
});

describe('the region table', () => {
  const file = (bytes: number): number => {
    const fd = memfdCreate('region');
    ftruncate(fd, bytes);
    return fd;
  };

  test('overlaps, short files and files that cannot be mapped are refused; nothing leaks', () => {
    const fds = fdCount();
    const { memory, end } = shared([{ gpa: MIB, bytes: MIB }]);
    const maps = mapCount();
    const fd = file(2 * MIB);
    const rows: [Partial<RegionSpec>, RegExp][] = [
      [{ gpa: 2 * MIB - 1 }, /overlaps another one in guest memory/],
      [{ gpa: 0, bytes: MIB + 1 }, /overlaps another one in guest memory/],
      [{ offset: MIB + 1 }, /ends before the region/],
      [{ fd: -1 }, /EBADF/],
    ];
    for (const [wrong, expected] of rows) {
      const spec = { gpa: 8 * MIB, bytes: MIB, user: 2 ** 46, offset: 0, fd, ...wrong };
      assert.match(memory.add(spec) ?? 'accepted', expected);
      assert.match(memory.replace([spec, { ...spec, gpa: spec.gpa + 1 }]) ?? 'accepted', /./);
    }
    assert.equal(memory.regionCount, 1, 'a refused table leaves the old one');
    assert.equal(memory.add({ gpa: 8 * MIB, bytes: MIB, user: 2 ** 46, offset: 12_288, fd }), null);
    assert.match(
      memory.add({ gpa: 32 * MIB, bytes: MIB, user: 2 ** 46 + MIB - 1, offset: 0, fd }) ?? '',
      /user addresses/,
    );
    assert.equal(memory.remove(8 * MIB, MIB, 2 ** 46), null);
    assert.equal(memory.remove(8 * MIB, MIB, 2 ** 46), 'no such region');
    assert.ok(mapCount() <= maps + 1);
    close(fd);
    end();
    assert.equal(fdCount(), fds);
  });

  test('as many slots as announced, and not one more', () => {
    const memory = new GuestMemory();
    const fd = file(MIB);
    const spec = (i: number): RegionSpec => ({ gpa: i * MIB, bytes: 4096, user: i * MIB, offset: 0, fd });
    for (let i = 0; i < MEM_SLOTS_MAX; i++) assert.equal(memory.add(spec(i)), null);
    assert.match(memory.add(spec(MEM_SLOTS_MAX)) ?? '', /more than 512/);
    for (let i = 0; i < MEM_SLOTS_MAX; i++) assert.ok(memory.address(i * MIB + 4095, 1) > 0);
    assert.equal(memory.totalBytes, MEM_SLOTS_MAX * 4096);
    memory.clear();
    assert.equal(memory.regionCount, 0);
    close(fd);
  });

  test('pinned addresses stay reserved after removal and reach nothing real', () => {
    const { ram, memory, end } = shared([{ gpa: 0, bytes: MIB }]);
    const address = memory.address(0, 8);
    const window = memory.window(address);
    const early = memory.pin();
    const late = memory.pin();
    const [region] = ram.regions;
    assert.equal(memory.remove(0, MIB, region.user), null);
    window.u8[address - window.base] = 99;
    assert.equal(ram.read(0, 1)[0], 0, 'the guest does not see a write through an old address');
    assert.equal(memory.add({ ...region }), null);
    assert.notEqual(memory.address(0, 1), address, 'the address is not used again while a pin of then lives');
    memory.unpin(early);
    const fresh = memory.pin();
    assert.equal(memory.remove(0, MIB, region.user), null);
    memory.unpin(fresh);
    memory.unpin(late);
    assert.throws(() => memory.unpin(late), RangeError);
    end();
  });

  test('200 adds and removes, with views and pins, do not grow the mappings of the process', () => {
    const { ram, memory, end } = shared([{ gpa: 0, bytes: 4 * MIB }]);
    const fd = file(8 * MIB);
    let before = 0;
    for (let i = 0; i < 200; i++) {
      const spec = { gpa: 16 * MIB, bytes: 4096 * (1 + ((i * 7) % 512)), user: 2 ** 45, offset: 4096 * (i % 9), fd };
      assert.equal(memory.add(spec), null);
      const address = memory.address(16 * MIB, 1);
      memory.window(address);
      const pin = memory.pin();
      assert.equal(memory.remove(spec.gpa, spec.bytes, spec.user), null);
      memory.unpin(pin);
      if (i === 100) before = mapCount();
    }
    assert.ok(mapCount() <= before + 1, `${before} mappings half way, ${mapCount()} at the end`);
    close(fd);
    ram.bytes(0, 1);
    end();
  });
});
