/** Valid and invalid bytes per opcode: what the decoder makes of them, or the errno it answers. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { errno } from '../sys/errno.ts';
import { decodeExtensions } from './extensions.ts';
import { INIT } from './flags.ts';
import { OPS, type OpArgs, type OpName } from './opcodes.ts';
import { Request } from './request.ts';
import { IN_HEADER_BYTES } from './wire/layout.ts';

const request = new Request();

/** Loads header + `body` (hex, blanks ignored) and `ext` and decodes it as `op`. */
function decode<K extends OpName>(op: K, body: string | Buffer, ext = Buffer.alloc(0)): OpArgs[K] | number {
  const bytes = Buffer.isBuffer(body) ? body : Buffer.from(body.replaceAll(' ', ''), 'hex');
  const length = IN_HEADER_BYTES + bytes.length + ext.length;
  request.memory.u8.fill(0xee, 0, length + 64);
  const header = request.memory.view;
  header.setUint32(0, length, true);
  header.setUint32(4, OPS[op].op, true);
  header.setUint32(36, ext.length / 8, true);
  request.memory.u8.set(bytes, IN_HEADER_BYTES);
  request.memory.u8.set(ext, IN_HEADER_BYTES + bytes.length);
  request.bytes = length;
  request.replySpace = 4096;
  const extensions = decodeExtensions(request);
  if (extensions < 0) return extensions;
  const spec = OPS[op];
  if (request.argsEnd - IN_HEADER_BYTES < spec.argBytes) return -errno.EINVAL;
  const r = (spec.decode as (q: Request, a: OpArgs[K]) => number)(request, spec.args as OpArgs[K]);
  return r < 0 ? r : (spec.args as OpArgs[K]);
}

function nameOf(name: { at: number; bytes: number }): string {
  return Buffer.from(request.memory.u8.slice(name.at, name.at + name.bytes)).toString('latin1');
}

const text = (s: string) => Buffer.from(s, 'latin1');
const zeros = (n: number) => Buffer.alloc(n);

test('names: one component, NUL-terminated, any bytes but slash', () => {
  const good = decode('LOOKUP', text('caf\xe9\0'));
  assert.ok(typeof good === 'object');
  assert.equal(nameOf(good.name), 'caf\xe9');
  for (const bad of ['', '\0', '.\0', '..\0', 'a/b\0', '/\0', 'no-nul']) {
    assert.equal(decode('LOOKUP', text(bad)), -errno.EINVAL, JSON.stringify(bad));
  }
  for (const fine of ['...\0', '.a\0', 'a.\0', '..a\0']) assert.equal(typeof decode('LOOKUP', text(fine)), 'object');
  assert.equal(decode('LOOKUP', text(`${'x'.repeat(4096)}\0`)), -errno.ENAMETOOLONG);
});

test('two names: both are checked, and the second must be there', () => {
  const args = decode(
    'RENAME2',
    Buffer.concat([Buffer.from('0500000007000000 02000000 00000000'.replaceAll(' ', ''), 'hex'), text('old\0new\0')]),
  );
  assert.ok(typeof args === 'object');
  assert.deepEqual(
    [args.newDirLow, args.newDirHigh, args.flags, nameOf(args.oldName), nameOf(args.newName)],
    [5, 7, 2, 'old', 'new'],
  );
  assert.equal(decode('RENAME', Buffer.concat([zeros(8), text('old\0')])), -errno.EINVAL);
  assert.equal(decode('RENAME', Buffer.concat([zeros(8), text('old\0..\0')])), -errno.EINVAL);
  assert.equal(decode('SYMLINK', text('name\0')), -errno.EINVAL);
  const link = decode('SYMLINK', text('name\0../any/../where\0'));
  assert.ok(typeof link === 'object');
  assert.equal(nameOf(link.target), '../any/../where');
});

test('fixed arguments that are cut short are refused before they are read', () => {
  for (const [name, spec] of Object.entries(OPS)) {
    if (spec.argBytes === 0) continue;
    const got = decode(name as OpName, zeros(spec.argBytes - 1));
    assert.equal(got, -errno.EINVAL, name);
  }
});

test('64-bit numbers: offsets above 2^53-1 are refused, cookies are kept as words', () => {
  const read = zeros(40);
  read.writeUInt32LE(9, 0);
  read.writeBigUInt64LE(2n ** 53n - 1n, 8);
  read.writeUInt32LE(4096, 16);
  const args = decode('READ', read);
  assert.ok(typeof args === 'object');
  assert.deepEqual([args.fhLow, args.offset, args.size], [9, 2 ** 53 - 1, 4096]);
  read.writeBigUInt64LE(2n ** 53n, 8);
  assert.equal(decode('READ', read), -errno.EINVAL);
  read.writeBigUInt64LE(0x7fff_ffff_ffff_fff1n, 8);
  const dir = decode('READDIR', read);
  assert.ok(typeof dir === 'object');
  assert.deepEqual([dir.offsetLow, dir.offsetHigh, dir.offset], [0xffff_fff1, 0x7fff_ffff, -1]);
  const size = zeros(88);
  size.writeUInt32LE(8, 0);
  size.writeBigUInt64LE(2n ** 63n, 16);
  assert.equal(decode('SETATTR', size), -errno.EFBIG);
});

test('WRITE: as much data as it says, and no offset that overflows', () => {
  const write = zeros(40);
  write.writeUInt32LE(100, 16);
  request.data.bytes = 99;
  assert.equal(decode('WRITE', write), -errno.EINVAL);
  request.data.bytes = 100;
  assert.equal(typeof decode('WRITE', write), 'object');
  write.writeBigUInt64LE(2n ** 53n - 50n, 8);
  assert.equal(decode('WRITE', write), -errno.EFBIG);
});

test('SETXATTR: 8 or 16 bytes of arguments by negotiation; the value must be inside the request', () => {
  const value = (head: Buffer, bytes: number) => Buffer.concat([head, text('user.a\0'), zeros(bytes)]);
  const head = zeros(8);
  head.writeUInt32LE(5, 0);
  request.negotiated.flags = 0;
  const short = decode('SETXATTR', value(head, 5));
  assert.ok(typeof short === 'object');
  assert.deepEqual([nameOf(short.name), short.valueBytes], ['user.a', 5]);
  assert.equal(decode('SETXATTR', value(head, 4)), -errno.EINVAL);
  request.negotiated.flags = INIT.SETXATTR_EXT;
  const long = decode('SETXATTR', value(Buffer.concat([head, Buffer.from('0100000000000000', 'hex')]), 5));
  assert.ok(typeof long === 'object' && long.killSgid);
  head.writeUInt32LE(65537, 0);
  assert.equal(decode('SETXATTR', value(Buffer.concat([head, zeros(8)]), 5)), -errno.E2BIG);
});

test('BATCH_FORGET: the count must fit the message', () => {
  const two = zeros(8 + 32);
  two.writeUInt32LE(2, 0);
  assert.equal(typeof decode('BATCH_FORGET', two), 'object');
  two.writeUInt32LE(3, 0);
  assert.equal(decode('BATCH_FORGET', two), -errno.EINVAL);
  two.writeUInt32LE(0xffff_ffff, 0);
  assert.equal(decode('BATCH_FORGET', two), -errno.EINVAL);
});

test('INIT: flags2 counts only with INIT_EXT and its bytes', () => {
  const init = zeros(64);
  init.writeUInt32LE(7, 0);
  init.writeUInt32LE(36, 4);
  init.writeUInt32LE(INIT.INIT_EXT, 12);
  init.writeUInt32LE(0x1ff, 16);
  const long = decode('INIT', init);
  assert.ok(typeof long === 'object');
  assert.equal(long.flags2, 0x1ff);
  const short = decode('INIT', init.subarray(0, 16));
  assert.ok(typeof short === 'object');
  assert.equal(short.flags2, 0);
});

test('extensions: group and security context after the names, in 8-byte units', () => {
  const group = Buffer.from('10000000 20000000 01000000 e9030000'.replaceAll(' ', ''), 'hex');
  const context = Buffer.concat([
    Buffer.from('28000000 01000000 03000000 00000000'.replaceAll(' ', ''), 'hex'),
    text('security.selinux\0abc'),
    zeros(4),
  ]);
  assert.equal(context.length, 40);
  const body = Buffer.concat([zeros(8), text('dir\0')]);
  const args = decode('MKDIR', body, Buffer.concat([context, group]));
  assert.ok(typeof args === 'object');
  assert.equal(nameOf(args.name), 'dir');
  assert.equal(request.groupCount, 1);
  assert.equal(request.memory.view.getUint32(request.groupsAddress - request.memory.address, true), 1001);
  assert.equal(nameOf(request.contextName), 'security.selinux');
  assert.equal(request.contextBytes, 3);
});

test('extensions: sizes that lie are refused', () => {
  const body = Buffer.concat([zeros(8), text('dir\0')]);
  const ext = (hex: string) => Buffer.from(hex.replaceAll(' ', ''), 'hex');
  const bad = [
    '04000000 20000000', // shorter than its header
    '0c000000 20000000', // not a multiple of 8
    '18000000 20000000 01000000 00000000', // beyond the end
    '10000000 20000000 02000000 00000000', // more groups than bytes
    '10000000 20000000 ffffffff 00000000',
    '10000000 02000000 00000000 00000000', // two contexts
    '10000000 01000000 03000000 00000000', // no room for a name
  ];
  for (const hex of bad) assert.equal(decode('MKDIR', body, ext(hex)), -errno.EINVAL, hex);
  assert.equal(typeof decode('MKDIR', body, ext('10000000 99000000 00000000 00000000')), 'object', 'unknown type');
});
