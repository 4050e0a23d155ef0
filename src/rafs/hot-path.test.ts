/** What a request costs when everything is there: no garbage, and little time. */
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import * as A from '../fuse/args.ts';
import { bootPath, expectedTree } from './fixture-blobs.testing.ts';
import { Mounted } from './mounted.testing.ts';
import { CACHE_BYTES_MAX } from './page-cache.ts';

const ROUNDS = 300_000;
/** A test machine is busy and slow; these only catch an order of magnitude. Design: below 1 µs. */
const NS_MAX = 10_000;
/** One small object per request would be 16 or more. */
const GARBAGE_BYTES_MAX = 4;

for (const image of ['v6-zstd-blake3', 'v5-lz4-blake3']) {
  const mounted = new Mounted(bootPath(image), CACHE_BYTES_MAX);
  const { rafs, guest } = mounted;
  const { request } = guest;
  after(() => mounted.close());

  const file = [...expectedTree('expect/full.json').values()].find(({ size }) => (size ?? 0) > 2_000_000)!;
  const big = mounted.node(file.path);
  const many = mounted.node('/many');
  const listed = guest.list(many, true);
  assert.ok(typeof listed !== 'number');
  const nodes = listed.map(({ node }) => node).filter((node) => node !== 0);
  mounted.readAll(big, 1024 * 1024, 128 * 1024);
  const name = new A.NameArgs();
  const read = new A.ReadArgs();

  const CASES: readonly (readonly [what: string, run: (i: number) => number])[] = [
    [
      'GETATTR',
      (i) => {
        request.nodeLow = nodes[i % nodes.length];
        return rafs.getattr(request);
      },
    ],
    [
      'LOOKUP',
      () => {
        request.nodeLow = many;
        return rafs.lookup(request, name);
      },
    ],
    [
      'READ of 4 KiB',
      (i) => {
        request.nodeLow = big;
        read.offset = (i & 0xff) * 4096;
        return rafs.read(request, read);
      },
    ],
    [
      'READDIRPLUS of 4 KiB',
      () => {
        request.nodeLow = many;
        read.offset = 0;
        return rafs.readdirplus(request, read);
      },
    ],
  ];

  for (const [what, run] of CASES) {
    test(`${image}: ${what} makes no garbage`, (t) => {
      guest.name(name.name, listed[100].name);
      guest.lend(4096);
      read.size = 4096;
      request.attempt = 0;
      const rounds = what.startsWith('READDIR') ? ROUNDS / 10 : ROUNDS;
      for (let i = 0; i < rounds; i++) assert.ok(run(i) > 0 || assert.fail(what));
      const heap = process.memoryUsage().heapUsed;
      const start = process.cpuUsage();
      for (let i = 0; i < rounds; i++) run(i);
      const { user, system } = process.cpuUsage(start);
      const ns = ((user + system) * 1e3) / rounds;
      const garbage = (process.memoryUsage().heapUsed - heap) / rounds;
      t.diagnostic(`${what}: ${ns.toFixed(0)} ns, ${garbage.toFixed(2)} bytes of garbage`);
      assert.ok(garbage < GARBAGE_BYTES_MAX, `${garbage} bytes of garbage per request`);
      assert.ok(ns < (what.startsWith('READDIR') ? 10 * NS_MAX : NS_MAX), `${ns} ns`);
    });
  }
}
