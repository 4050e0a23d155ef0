/** The objects behind MemoryFs: nodes by number, names with cookies, open handles. */
import { S } from '../../fuse/flags.ts';
import { errno } from '../../sys/errno.ts';

export const ROOT = 1;

export interface Node {
  id: number;
  mode: number;
  uid: number;
  gid: number;
  rdev: number;
  nlink: number;
  seconds: number;
  nsec: number;
  /** File content, or a symlink's target. */
  data: Buffer;
  /** Entries by name (one character per byte), each with a cookie of its own. */
  entries: Map<string, { node: number; cookie: number }>;
  parent: number;
  xattrs: Map<string, Buffer>;
  lookups: number;
  handles: number;
}

/** What `dump` gives and the constructor takes back. */
export interface MemoryFsState {
  nodes: Node[];
  handles: [fh: number, node: number][];
  next: [node: number, handle: number, cookie: number];
}

export class MemoryNodes {
  readonly byId = new Map<number, Node>();
  readonly handles = new Map<number, number>();
  #nextNode = ROOT;
  #nextHandle = 1;
  #nextCookie = 1;

  constructor(saved: MemoryFsState | null) {
    if (saved === null) {
      this.#make(S.IFDIR | 0o755, 0, 0).nlink = 2;
      return;
    }
    for (const node of structuredClone(saved.nodes)) {
      node.data = Buffer.from(node.data);
      for (const [name, value] of node.xattrs) node.xattrs.set(name, Buffer.from(value));
      this.byId.set(node.id, node);
    }
    for (const [fh, node] of saved.handles) this.handles.set(fh, node);
    [this.#nextNode, this.#nextHandle, this.#nextCookie] = saved.next;
  }

  dump(): MemoryFsState {
    return structuredClone({
      nodes: [...this.byId.values()],
      handles: [...this.handles],
      next: [this.#nextNode, this.#nextHandle, this.#nextCookie] as MemoryFsState['next'],
    });
  }

  /** A node that must be there. */
  must(id: number): Node {
    const node = this.byId.get(id);
    if (node === undefined) throw new RangeError(`no node ${id}`);
    return node;
  }

  /** Directory `id`, or -errno. */
  dir(id: number): Node | number {
    const node = this.byId.get(id);
    if (node === undefined) return -errno.ESTALE;
    return isDir(node) ? node : -errno.ENOTDIR;
  }

  /** Node behind an open handle. */
  opened(fh: number): Node | null {
    return this.byId.get(this.handles.get(fh) ?? 0) ?? null;
  }

  open(node: Node): number {
    const fh = this.#nextHandle++;
    this.handles.set(fh, node.id);
    node.handles++;
    return fh;
  }

  close(fh: number): void {
    const node = this.opened(fh);
    this.handles.delete(fh);
    if (node === null) return;
    node.handles--;
    this.drop(node);
  }

  /** A new node under a new name. */
  enter(dir: Node, name: string, mode: number, uid: number, gid: number): Node {
    const node = this.#make(mode, uid, gid);
    node.parent = dir.id;
    if (isDir(node)) {
      node.nlink = 2;
      dir.nlink++;
    }
    this.name(dir, name, node);
    return node;
  }

  /** Gives a node a name; link counts are the caller's. */
  name(dir: Node, name: string, node: Node): void {
    dir.entries.set(name, { node: node.id, cookie: this.#nextCookie++ });
    touch(dir);
  }

  unlink(dir: Node, name: string, node: Node): void {
    dir.entries.delete(name);
    if (isDir(node)) dir.nlink--;
    node.nlink -= isDir(node) ? 2 : 1;
    touch(dir);
    this.drop(node);
  }

  /** A node without name, lookups and handles is gone. */
  drop(node: Node): void {
    if (node.nlink <= 0 && node.lookups === 0 && node.handles === 0) this.byId.delete(node.id);
  }

  /** The guest's session ended. */
  reset(): void {
    this.handles.clear();
    for (const node of [...this.byId.values()]) {
      node.lookups = node.handles = 0;
      this.drop(node);
    }
  }

  clear(): void {
    this.handles.clear();
    this.byId.clear();
  }

  #make(mode: number, uid: number, gid: number): Node {
    const node: Node = {
      id: this.#nextNode++,
      mode,
      uid,
      gid,
      rdev: 0,
      nlink: 1,
      seconds: 0,
      nsec: 0,
      data: Buffer.alloc(0),
      entries: new Map(),
      parent: ROOT,
      xattrs: new Map(),
      lookups: 0,
      handles: 0,
    };
    touch(node);
    this.byId.set(node.id, node);
    return node;
  }
}

export function isDir(node: Node): boolean {
  return (node.mode & S.IFMT) === S.IFDIR;
}

export function touch(node: Node): void {
  const now = Date.now();
  node.seconds = Math.floor(now / 1000);
  node.nsec = (now % 1000) * 1e6;
}

export function resize(node: Node, bytes: number): void {
  const data = Buffer.alloc(bytes);
  node.data.copy(data);
  node.data = data;
}
