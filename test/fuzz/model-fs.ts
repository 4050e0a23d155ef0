/**
 * What a shared directory has to do, in memory: names, links, contents and attributes, with the errno of Linux where a
 * call fails. Times, blocks and owners are left out. Nodes live as long as somebody holds them, named or not.
 */
import { constants } from 'node:os';

const { errno: E } = constants;
/** -errno of a call that fails. */
export const fails = (name: keyof typeof E): number => -E[name];

export type ModelNode = ModelFile | ModelDir | ModelLink;

interface Common {
  /** Names it has; of a directory 1 or 0. */
  names: number;
  mode: number;
  xattrs: Map<string, string>;
}

export interface ModelFile extends Common {
  kind: 'file';
  data: Buffer;
}

export interface ModelDir extends Common {
  kind: 'dir';
  children: Map<string, ModelNode>;
  parent: ModelDir | null;
}

export interface ModelLink extends Common {
  kind: 'link';
  target: string;
}

const common = (mode: number): Common => ({ names: 1, mode, xattrs: new Map() });

export function newRoot(): ModelDir {
  return { ...common(0o755), kind: 'dir', children: new Map(), parent: null };
}

/** The child, or -errno. */
export function lookup(dir: ModelNode, name: string): ModelNode | number {
  if (dir.kind !== 'dir') return fails('ENOTDIR');
  return dir.children.get(name) ?? fails('ENOENT');
}

/** 0 when `name` can be made in `dir`. */
function room(dir: ModelNode, name: string): number {
  if (dir.kind !== 'dir') return fails('ENOTDIR');
  if (dir.children.has(name)) return fails('EEXIST');
  return dir.names === 0 ? fails('ENOENT') : 0;
}

/** A new node under a name nobody has, or -errno. */
export function make(dir: ModelNode, name: string, what: 'file' | 'dir' | { target: string }): ModelNode | number {
  const free = room(dir, name);
  if (free < 0) return free;
  const parent = dir as ModelDir;
  const node = newNode(parent, what);
  parent.children.set(name, node);
  return node;
}

function newNode(parent: ModelDir, what: 'file' | 'dir' | { target: string }): ModelNode {
  if (what === 'file') return { ...common(0o644), kind: 'file', data: Buffer.alloc(0) };
  if (what === 'dir') return { ...common(0o755), kind: 'dir', children: new Map(), parent };
  return { ...common(0o777), kind: 'link', target: what.target };
}

export function unlink(dir: ModelNode, name: string): number {
  const node = lookup(dir, name);
  if (typeof node === 'number') return node;
  if (node.kind === 'dir') return fails('EISDIR');
  (dir as ModelDir).children.delete(name);
  node.names--;
  return 0;
}

export function rmdir(dir: ModelNode, name: string): number {
  const node = lookup(dir, name);
  if (typeof node === 'number') return node;
  if (node.kind !== 'dir') return fails('ENOTDIR');
  if (node.children.size > 0) return fails('ENOTEMPTY');
  (dir as ModelDir).children.delete(name);
  node.names = 0;
  return 0;
}

export function link(node: ModelNode, dir: ModelNode, name: string): number {
  // The order of these is the daemon's: a guest's kernel asks for none of them.
  if (node.kind === 'dir') return fails('EPERM');
  const free = room(dir, name);
  if (free < 0) return free;
  if (node.names === 0) return fails('ENOENT');
  (dir as ModelDir).children.set(name, node);
  node.names++;
  return 0;
}

function isBelow(node: ModelNode, top: ModelNode): boolean {
  if (node === top) return true;
  return node.kind === 'dir' && node.parent !== null && isBelow(node.parent, top);
}

export const RENAME_FLAGS = { NONE: 0, NOREPLACE: 1, EXCHANGE: 2 } as const;

/** renameat2(2); the order of its checks is that of Linux. */
export function rename(from: ModelNode, oldName: string, to: ModelNode, newName: string, flags: number): number {
  if (from.kind !== 'dir' || to.kind !== 'dir') return fails('ENOTDIR');
  const source = from.children.get(oldName);
  if (source === undefined) return fails('ENOENT');
  const victim = to.children.get(newName);
  if (flags === RENAME_FLAGS.NOREPLACE && victim !== undefined) return fails('EEXIST');
  if (flags === RENAME_FLAGS.EXCHANGE && victim === undefined) return fails('ENOENT');
  if (isBelow(to, source)) return fails('EINVAL');
  if (victim !== undefined && isBelow(from, victim)) {
    return fails(flags === RENAME_FLAGS.EXCHANGE ? 'EINVAL' : 'ENOTEMPTY');
  }
  if (source === victim) return 0;
  if (victim === undefined && to.names === 0) return fails('ENOENT');
  if (flags === RENAME_FLAGS.EXCHANGE) from.children.set(oldName, victim!);
  else {
    const refused = victim === undefined ? 0 : replaceable(source, victim);
    if (refused < 0) return refused;
    from.children.delete(oldName);
    if (victim !== undefined) victim.names--;
  }
  to.children.set(newName, source);
  if (source.kind === 'dir') source.parent = to;
  if (flags === RENAME_FLAGS.EXCHANGE && victim!.kind === 'dir') (victim as ModelDir).parent = from;
  return 0;
}

function replaceable(source: ModelNode, victim: ModelNode): number {
  if (source.kind === 'dir' && victim.kind !== 'dir') return fails('ENOTDIR');
  if (source.kind !== 'dir' && victim.kind === 'dir') return fails('EISDIR');
  return victim.kind === 'dir' && victim.children.size > 0 ? fails('ENOTEMPTY') : 0;
}

/** Content of `file` becomes `bytes` long. */
export function resize(file: ModelFile, bytes: number): void {
  const data = Buffer.alloc(bytes);
  file.data.copy(data);
  file.data = data;
}

export function write(file: ModelFile, offset: number, bytes: Buffer): void {
  if (bytes.length === 0) return;
  if (offset + bytes.length > file.data.length) resize(file, offset + bytes.length);
  bytes.copy(file.data, offset);
}

export const FALLOCATE = { NONE: 0, KEEP_SIZE: 1, PUNCH_HOLE: 3, ZERO_RANGE: 16 } as const;

/** 0 or -errno. */
export function fallocate(file: ModelFile, mode: number, offset: number, bytes: number): number {
  if (bytes === 0) return fails('EINVAL');
  const grows = mode === FALLOCATE.NONE || mode === FALLOCATE.ZERO_RANGE;
  if (grows && offset + bytes > file.data.length) resize(file, offset + bytes);
  if (mode === FALLOCATE.PUNCH_HOLE || mode === FALLOCATE.ZERO_RANGE)
    file.data.subarray(offset, offset + bytes).fill(0);
  return 0;
}

export const XATTR = { ANY: 0, CREATE: 1, REPLACE: 2 } as const;

export function setxattr(node: ModelNode, name: string, value: string, flags: number): number {
  if (flags === XATTR.CREATE && node.xattrs.has(name)) return fails('EEXIST');
  if (flags === XATTR.REPLACE && !node.xattrs.has(name)) return fails('ENODATA');
  node.xattrs.set(name, value);
  return 0;
}
