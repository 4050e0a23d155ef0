import assert from 'node:assert/strict';
import { test } from 'node:test';
import { errno } from '../sys/errno.ts';
import { InitArgs } from './args.ts';
import { INIT, INIT2 } from './flags.ts';
import {
  DEV_FUSE_POLICY,
  FUSE_MINOR_MAX,
  MAX_PAGES,
  MAX_WRITE_BYTES,
  negotiate,
  putInitOut,
  VIRTIOFS_POLICY,
} from './init.ts';

function offer(minor: number, flags: number, flags2 = 0, major = 7): InitArgs {
  return Object.assign(new InitArgs(), { major, minor, maxReadahead: 131072, flags: flags >>> 0, flags2 });
}

/** What Linux 6.1.192 sends on x86 (observed, protocols 4.4). */
const LINUX_6_1 = offer(38, 0x7bff_fffb, 0x0b);

for (let minor = 27; minor <= 45; minor++) {
  test(`minor ${minor}: the reply keeps the guest's minor and answers only what was offered`, () => {
    const reply = negotiate(offer(minor, 0x7bff_fffb, 0x1ff), VIRTIOFS_POLICY);
    assert.equal(reply.result, 0);
    assert.equal(reply.minor, minor);
    assert.equal((reply.flags & ~0x7bff_fffb) >>> 0, 0);
    assert.equal(reply.flags2, INIT2.CREATE_SUPP_GROUP | INIT2.ALLOW_IDMAP);
  });
}

test('newer minors are answered with ours, older than 27 with EPROTO', () => {
  assert.equal(negotiate(offer(99, 0), VIRTIOFS_POLICY).minor, FUSE_MINOR_MAX);
  assert.equal(negotiate(offer(26, 0), VIRTIOFS_POLICY).result, -errno.EPROTO);
  assert.equal(negotiate(offer(40, 0, 0, 6), VIRTIOFS_POLICY).result, -errno.EPROTO);
});

test('a newer major gets our version only, and INIT comes again', () => {
  const reply = negotiate(offer(0, 0xffff_ffff, 0xffff_ffff, 8), VIRTIOFS_POLICY);
  const words = new Uint32Array(16).fill(0xffff_ffff);
  putInitOut(words, 0, reply);
  assert.ok(reply.again);
  assert.deepEqual([...words], [7, FUSE_MINOR_MAX, ...new Array(14).fill(0)]);
});

test('flags2 needs INIT_EXT in the reply, or the guest ignores it', () => {
  const reply = negotiate(LINUX_6_1, VIRTIOFS_POLICY);
  assert.ok((reply.flags & INIT.INIT_EXT) !== 0);
  const without = negotiate(offer(38, 0x7bff_fffb & ~INIT.INIT_EXT, 0x1ff), VIRTIOFS_POLICY);
  assert.equal(without.flags2, 0);
});

test('flags that bind all future members are never set', () => {
  const reply = negotiate(offer(45, 0xffff_ffff, 0xffff_ffff), VIRTIOFS_POLICY);
  for (const never of [
    'NO_OPEN_SUPPORT',
    'NO_OPENDIR_SUPPORT',
    'WRITEBACK_CACHE',
    'POSIX_LOCKS',
    'FLOCK_LOCKS',
    'EXPORT_SUPPORT',
    'POSIX_ACL',
    'DONT_MASK',
  ] as const) {
    assert.equal(reply.flags & INIT[never], 0, never);
  }
  assert.equal(reply.flags2 & INIT2.SECURITY_CTX, 0);
});

test('/dev/fuse goes without submounts and idmap', () => {
  const reply = negotiate(offer(45, 0xffff_ffff, 0xffff_ffff), DEV_FUSE_POLICY);
  assert.equal(reply.flags & INIT.SUBMOUNTS, 0);
  assert.equal(reply.flags2 & INIT2.ALLOW_IDMAP, 0);
});

test('init_out: 64 bytes, limits that belong together', () => {
  const words = new Uint32Array(16);
  putInitOut(words, 0, negotiate(LINUX_6_1, VIRTIOFS_POLICY));
  assert.equal(words[5], MAX_WRITE_BYTES);
  assert.equal((words[7]! & 0xffff) * 4096, MAX_WRITE_BYTES);
  assert.equal(words[7]! & 0xffff, MAX_PAGES);
  assert.ok(words[4]! >>> 16 < (words[4]! & 0xffff), 'congestion below max_background');
});
