/** Calls of the model-based test: each is made in the model and on the device, and both have to say the same. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import {
  FALLOCATE,
  fails,
  fallocate,
  link,
  type ModelDir,
  type ModelFile,
  type ModelNode,
  make,
  RENAME_FLAGS,
  rename,
  resize,
  rmdir,
  setxattr,
  unlink,
  write,
  XATTR,
} from './model-fs.ts';
import { args, cString, type ModelGuest, type OpenFile, type Path } from './model-guest.ts';

/** The model needs nothing but its root; the guest has the rest. */
export type Model = ModelDir;
type Step = (guest: ModelGuest) => void;

const O = { RDWR: 2, CREAT: 0o100, EXCL: 0o200, TRUNC: 0o1000 } as const;
const FATTR = { MODE: 1, SIZE: 8, FH: 64 } as const;
const FILE_BYTES_MAX = 600;
const ENTRY_BYTES = 128;
const KEPT_MAX = 8;
const FILES_MAX = 8;
const READ_BYTES = 1024;

/** A step with its name, for the report of a failure. */
class Call implements fc.Command<Model, ModelGuest> {
  constructor(
    private readonly text: string,
    private readonly step: Step,
  ) {}
  check(): boolean {
    return true;
  }
  run(_model: Model, guest: ModelGuest): void {
    this.step(guest);
  }
  toString(): string {
    return this.text;
  }
}

/** Both worlds agree on the errno; true when the call succeeded in both. */
function agree(what: string, expected: number | ModelNode, got: Buffer | number): got is Buffer {
  assert.equal(typeof got === 'number' ? got : 0, typeof expected === 'number' ? expected : 0, what);
  return typeof got === 'object';
}

type MakeOp = 'CREATE' | 'MKDIR' | 'MKNOD' | 'SYMLINK';

function makeRequest(op: MakeOp, name: string): { body: Buffer; what: 'file' | 'dir' | { target: string } } {
  switch (op) {
    case 'MKDIR':
      return { body: args(0o755, 0, cString(name)), what: 'dir' };
    case 'MKNOD':
      return { body: args(0o100644, 0, 0, 0, cString(name)), what: 'file' };
    case 'SYMLINK':
      return { body: args(cString(name), cString('../a')), what: { target: '../a' } };
    case 'CREATE':
      return { body: args(O.RDWR | O.CREAT | O.EXCL, 0o100644, 0, 0, cString(name)), what: 'file' };
  }
}

function makeNode(op: MakeOp, path: Path): Step {
  return (guest) => {
    const at = guest.walkUp(path);
    if (at === null) return;
    const { body, what } = makeRequest(op, at.name);
    const node = make(at.dir.node, at.name, what);
    const got = guest.call(op, at.dir.nodeid, body, ENTRY_BYTES + 16);
    if (!agree(op, node, got)) return;
    const nodeid = guest.learn(got, node as ModelNode, op);
    if (op === 'CREATE') keepFile(guest, { file: node as ModelFile, nodeid, fh: got.readBigUInt64LE(ENTRY_BYTES) });
  };
}

function keepFile(guest: ModelGuest, file: OpenFile): void {
  if (guest.files.length < FILES_MAX) guest.files.push(file);
  else guest.call('RELEASE', file.nodeid, args(file.fh, 0, 0, 0n), 0);
}

function remove(op: 'UNLINK' | 'RMDIR', path: Path): Step {
  return (guest) => {
    const at = guest.walkUp(path);
    if (at === null) return;
    const expected = (op === 'UNLINK' ? unlink : rmdir)(at.dir.node, at.name);
    agree(op, expected, guest.call(op, at.dir.nodeid, cString(at.name), 0));
  };
}

function renameStep(from: Path, to: Path, flags: number): Step {
  return (guest) => {
    const [old, next] = [guest.walkUp(from), guest.walkUp(to)];
    if (old === null || next === null) return;
    const expected = rename(old.dir.node, old.name, next.dir.node, next.name, flags);
    const names = [cString(old.name), cString(next.name)];
    const op = flags === RENAME_FLAGS.NONE ? 'RENAME' : 'RENAME2';
    const head = op === 'RENAME' ? args(next.dir.nodeid) : args(next.dir.nodeid, flags, 0);
    agree(op, expected, guest.call(op, old.dir.nodeid, args(head, ...names), 0));
  };
}

function linkStep(from: Path, to: Path): Step {
  return (guest) => {
    const [source, next] = [guest.walk(from), guest.walkUp(to)];
    if (source === null || next === null) return;
    const expected = link(source.node, next.dir.node, next.name);
    const body = args(source.nodeid, cString(next.name));
    const got = guest.call('LINK', next.dir.nodeid, body, ENTRY_BYTES);
    if (agree('LINK', expected, got)) guest.learn(got, source.node, 'LINK');
  };
}

/** Looks at a node with everything that only reads. */
function look(path: Path): Step {
  return (guest) => {
    const at = guest.walk(path);
    if (at === null) return;
    const attr = guest.call('GETATTR', at.nodeid, Buffer.alloc(16), 104);
    assert.ok(typeof attr === 'object', `GETATTR: ${attr}`);
    guest.checkAttr(attr.subarray(16), at.node, 'GETATTR');
    const target = guest.call('READLINK', at.nodeid, Buffer.alloc(0), 256);
    const { node } = at;
    if (agree('READLINK', node.kind === 'link' ? 0 : fails('EINVAL'), target)) {
      assert.equal(target.toString(), (node as { target: string }).target, 'READLINK');
    }
    if (node.kind === 'dir') guest.list(at);
  };
}

/** Holds on to a node: later paths may start there, whatever becomes of its names. */
function keep(path: Path): Step {
  return (guest) => {
    const at = guest.walk(path);
    if (at !== null && guest.kept.length < KEPT_MAX) guest.kept.push(at);
  };
}

function openStep(path: Path, flags: number): Step {
  return (guest) => {
    const at = guest.walk(path);
    if (at === null || at.node.kind !== 'file') return;
    const got = guest.call('OPEN', at.nodeid, args(O.RDWR | flags, 0), 16);
    assert.ok(typeof got === 'object', `OPEN: ${got}`);
    if ((flags & O.TRUNC) !== 0) resize(at.node, 0);
    keepFile(guest, { file: at.node, nodeid: at.nodeid, fh: got.readBigUInt64LE(0) });
  };
}

/** A step on the open file `which`, modulo their number. */
function onFile(which: number, step: (guest: ModelGuest, open: OpenFile) => void): Step {
  return (guest) => {
    const open = guest.files[which % Math.max(1, guest.files.length)];
    if (open !== undefined) step(guest, open);
  };
}

function writeStep(which: number, offset: number, text: string): Step {
  return onFile(which, (guest, { file, nodeid, fh }) => {
    const data = Buffer.from(text);
    const got = guest.call('WRITE', nodeid, args(fh, BigInt(offset), data.length, 0, 0n, 0, 0, data), 8);
    assert.ok(typeof got === 'object' && got.readUInt32LE(0) === data.length, 'WRITE');
    write(file, offset, data);
  });
}

function readStep(which: number, offset: number): Step {
  return onFile(which, (guest, { file, nodeid, fh }) => {
    const got = guest.call('READ', nodeid, args(fh, BigInt(offset), READ_BYTES, 0, 0n, 0, 0), READ_BYTES);
    assert.ok(typeof got === 'object', `READ: ${got}`);
    assert.deepEqual(Buffer.from(got), file.data.subarray(offset, offset + READ_BYTES), 'READ');
  });
}

function allocate(which: number, mode: number, offset: number, bytes: number): Step {
  return onFile(which, (guest, { file, nodeid, fh }) => {
    const body = args(fh, BigInt(offset), BigInt(bytes), mode, 0);
    const got = guest.call('FALLOCATE', nodeid, body, 0);
    // Some file systems cannot do all of it; what they refuse has changed nothing.
    if (got === fails('EOPNOTSUPP')) return;
    agree('FALLOCATE', fallocate(file, mode, offset, bytes), got);
  });
}

function copyStep(from: number, to: number, offset: number, bytes: number): Step {
  return onFile(from, (guest, source) => {
    const target = guest.files[to % guest.files.length]!;
    if (source.file === target.file) return;
    const body = args(source.fh, BigInt(offset), target.nodeid, target.fh, BigInt(offset), BigInt(bytes), 0n);
    const got = guest.call('COPY_FILE_RANGE', source.nodeid, body, 8);
    const data = source.file.data.subarray(offset, offset + bytes);
    assert.ok(typeof got === 'object' && got.readUInt32LE(0) === data.length, `COPY_FILE_RANGE: ${got}`);
    write(target.file, offset, Buffer.from(data));
  });
}

/** Both by descriptor and by nodeid. */
function resizeStep(which: number, bytes: number, byFh: boolean): Step {
  return onFile(which, (guest, { file, nodeid, fh }) => {
    resize(file, bytes);
    setattr(guest, { node: file, nodeid }, byFh ? FATTR.SIZE | FATTR.FH : FATTR.SIZE, { fh, size: bytes, mode: 0 });
  });
}

function chmodStep(path: Path, mode: number): Step {
  return (guest) => {
    const at = guest.walk(path);
    if (at === null || at.node.kind === 'link') return;
    at.node.mode = mode;
    setattr(guest, at, FATTR.MODE, { fh: 0n, size: 0, mode });
  };
}

function setattr(
  guest: ModelGuest,
  { node, nodeid }: { node: ModelNode; nodeid: bigint },
  valid: number,
  { fh, size, mode }: { fh: bigint; size: number; mode: number },
): void {
  const body = args(valid, 0, fh, BigInt(size), 0n, 0n, 0n, 0n, 0, 0, 0, mode, 0, 0, 0, 0);
  const got = guest.call('SETATTR', nodeid, body, 104);
  assert.ok(typeof got === 'object', `SETATTR: ${got}`);
  guest.checkAttr(got.subarray(16), node, 'SETATTR');
}

function syncStep(which: number, dataOnly: boolean): Step {
  return onFile(which, (guest, { nodeid, fh }) => {
    agree('FSYNC', 0, guest.call('FSYNC', nodeid, args(fh, dataOnly ? 1 : 0, 0), 0));
  });
}

function releaseStep(which: number): Step {
  return onFile(which, (guest, open) => {
    guest.files.splice(guest.files.indexOf(open), 1);
    agree('FLUSH', 0, guest.call('FLUSH', open.nodeid, args(open.fh, 0, 0, 0n), 0));
    agree('RELEASE', 0, guest.call('RELEASE', open.nodeid, args(open.fh, 0, 0, 0n), 0));
  });
}

/** Only root may have `trusted`, but every file system of Linux keeps them. */
const XATTR_PREFIX = 'trusted.';

function setxattrStep(path: Path, name: string, value: string, flags: number): Step {
  return (guest) => {
    const at = guest.walk(path);
    if (at === null) return;
    const expected = setxattr(at.node, name, value, flags);
    const body = args(value.length, flags, 0, 0, cString(XATTR_PREFIX + name), Buffer.from(value));
    agree('SETXATTR', expected, guest.call('SETXATTR', at.nodeid, body, 0));
  };
}

function xattrsStep(path: Path, name: string, isRemoved: boolean): Step {
  return (guest) => {
    const at = guest.walk(path);
    if (at === null) return;
    const { xattrs } = at.node;
    const there = xattrs.has(name) ? 0 : fails('ENODATA');
    const got = guest.call('GETXATTR', at.nodeid, args(64, 0, cString(XATTR_PREFIX + name)), 64);
    if (agree('GETXATTR', there, got)) assert.equal(got.toString(), xattrs.get(name), 'GETXATTR');
    const list = guest.call('LISTXATTR', at.nodeid, args(512, 0), 512);
    assert.ok(typeof list === 'object', `LISTXATTR: ${list}`);
    const own = list
      .toString()
      .split('\0')
      .filter((text) => text.startsWith(XATTR_PREFIX));
    assert.deepEqual(own.sort(), [...xattrs.keys()].map((key) => XATTR_PREFIX + key).sort(), 'LISTXATTR');
    if (!isRemoved) return;
    agree('REMOVEXATTR', there, guest.call('REMOVEXATTR', at.nodeid, cString(XATTR_PREFIX + name), 0));
    xattrs.delete(name);
  };
}

const name = fc.constantFrom('a', 'b', 'c', 'd');
const base = fc.nat({ max: KEPT_MAX - 1 });
const path = fc.record({ base, names: fc.array(name, { minLength: 1, maxLength: 3 }) });
const anyPath = fc.record({ base, names: fc.array(name, { maxLength: 3 }) });
const which = fc.nat({ max: FILES_MAX - 1 });
const offset = fc.nat({ max: FILE_BYTES_MAX });
const bytes = fc.nat({ max: FILE_BYTES_MAX });
const oneOf = (values: Readonly<Record<string, number>>): fc.Arbitrary<number> =>
  fc.constantFrom(...Object.values(values));

/** An arbitrary of calls of `step`, shown as `name` with its arguments. */
function call<A extends unknown[]>(
  what: string,
  step: (...of: A) => Step,
  ...from: { [K in keyof A]: fc.Arbitrary<A[K]> }
): fc.Arbitrary<Call> {
  return fc
    .tuple<A>(...from)
    .map((of) => new Call(`${what}(${of.map((a) => JSON.stringify(a)).join(', ')})`, step(...of)));
}

const COMMANDS: readonly fc.Arbitrary<Call>[] = [
  call('make', makeNode, fc.constantFrom<MakeOp>('CREATE', 'MKDIR', 'MKNOD', 'SYMLINK'), path),
  call('make', makeNode, fc.constantFrom<MakeOp>('CREATE', 'MKDIR'), path),
  call('remove', remove, fc.constantFrom<'UNLINK' | 'RMDIR'>('UNLINK', 'RMDIR'), path),
  call('rename', renameStep, path, path, oneOf(RENAME_FLAGS)),
  call('link', linkStep, anyPath, path),
  call('look', look, anyPath),
  call('keep', keep, path),
  call('open', openStep, path, fc.constantFrom(0, O.TRUNC)),
  call('write', writeStep, which, offset, fc.string({ maxLength: 60 })),
  call('read', readStep, which, offset),
  call('allocate', allocate, which, oneOf(FALLOCATE), offset, bytes),
  call('copy', copyStep, which, which, offset, bytes),
  call('resize', resizeStep, which, bytes, fc.boolean()),
  call('chmod', chmodStep, anyPath, fc.constantFrom(0o600, 0o644, 0o755, 0o4711, 0o1777)),
  call('sync', syncStep, which, fc.boolean()),
  call('release', releaseStep, which),
  call('setxattr', setxattrStep, anyPath, name, fc.string({ maxLength: 40 }).filter(isAscii), oneOf(XATTR)),
  call('xattrs', xattrsStep, anyPath, name, fc.boolean()),
  fc.constant(new Call('forget()', (guest) => guest.forget())),
];

function isAscii(text: string): boolean {
  return Buffer.byteLength(text) === text.length;
}

/** Lists of calls, up to `maxCommands` long. */
export function modelCommands(maxCommands: number): fc.Arbitrary<Iterable<fc.Command<Model, ModelGuest>>> {
  return fc.commands([...COMMANDS], { maxCommands, size: 'max' });
}
