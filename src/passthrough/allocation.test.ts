/** The request path leaves nothing for the garbage collector: a pause there is a pause of the guest. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import * as A from '../fuse/args.ts';
import { ok, withShare } from './harness.testing.ts';
import { ROOT_ID } from './inodes.ts';

/** Addresses are doubles, boxed now and then in 16 bytes; a closure or array per entry or request costs more than two of those. */
const BYTES_PER_REQUEST_MAX = 40;
const REQUESTS = 2000;
const ROUNDS = 6;
/** Names in the directory listed: its cost is counted per name. */
const ENTRIES = 20;

/** Least heap growth per call over some rounds: a collection in between can only hide growth of one of them. */
function growth(call: () => number): number {
  for (let i = 0; i < 10_000; i++) call();
  let least = Number.POSITIVE_INFINITY;
  for (let round = 0; round < ROUNDS; round++) {
    const before = process.memoryUsage().heapUsed;
    for (let i = 0; i < REQUESTS; i++) if (call() < 0) throw new Error('the call failed');
    const grown = (process.memoryUsage().heapUsed - before) / REQUESTS;
    if (grown >= 0) least = Math.min(least, grown);
  }
  return least;
}

test('lookup, getattr, read, write, readdirplus, open and release allocate nothing', () => {
  withShare({}, ({ dir, guest, fs }) => {
    writeFileSync(join(dir, 'f'), Buffer.alloc(65_536));
    for (let i = 1; i < ENTRIES; i++) writeFileSync(join(dir, `${i}`), '');
    const { node } = guest.walk('f');
    const file = ok(guest.open(node, 2));
    const directory = ok(guest.opendir(ROOT_ID));
    const { request } = guest;
    request.replySpace = 65_536;
    request.data.set(Float64Array.of(guest.data.address), Uint32Array.of(4096), 0, 1, 0, 4096);
    const fh = { fhLow: file.low, fhHigh: file.high };
    const name = new A.NameArgs();
    Object.assign(name.name, { address: request.memory.putText(64, 'f'), at: 64, bytes: 1 });
    const getattr = new A.GetattrArgs();
    const read = Object.assign(new A.ReadArgs(), fh, { offset: 4096, size: 4096 });
    const write = Object.assign(new A.WriteArgs(), fh, { offset: 8192, size: 4096 });
    const list = Object.assign(new A.ReadArgs(), { fhLow: directory.low, fhHigh: directory.high, size: 4096 });
    const open = new A.OpenArgs();
    const release = new A.ReleaseArgs();
    const on = (id: number): typeof request => {
      request.nodeLow = id;
      return request;
    };
    const calls: Record<string, () => number> = {
      lookup: () => fs.lookup(on(ROOT_ID), name),
      getattr: () => fs.getattr(on(node), getattr),
      read: () => fs.read(on(node), read),
      write: () => fs.write(on(node), write),
      readdirplus: () => fs.readdirplus(on(ROOT_ID), list),
      openAndRelease: () => {
        fs.open(on(node), open);
        release.fhLow = request.reply.u32[4];
        release.fhHigh = request.reply.u32[5];
        return fs.release(request, release);
      },
    };
    for (const [what, call] of Object.entries(calls)) {
      const bytes = growth(call) / (what === 'readdirplus' ? ENTRIES : 1);
      assert.ok(bytes <= BYTES_PER_REQUEST_MAX, `${what} allocates ${bytes.toFixed(1)} bytes per request`);
    }
    assert.ok(
      growth(() => [1, 2, 3].map((i) => i + node).length) > BYTES_PER_REQUEST_MAX,
      'the measure measures nothing',
    );
  });
});
