/**
 * The tree an image is made of, built from a stream of entries: children in byte order, hard links joined, whiteout
 * markers of a first layer dropped (rafs-format 1.9, 7.1, 7.4). One small object per entry; contents never enter.
 */
import { NAME_BYTES_MAX } from '../rafs/flags.ts';
import {
  direntType,
  packDevice,
  S_IFCHR,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  SYMLINK_BYTES_MAX,
} from '../rafs/v6/inode-layout.ts';
import { imageError } from './errors.ts';
import { type ByteText, type SourceEntry, shown, type Xattr } from './source.ts';

export type WhiteoutSpec = 'oci' | 'overlayfs' | 'none';

export interface TreeRules {
  whiteouts: WhiteoutSpec;
  /** False (`--repeatable`): uid and gid 0 are stored, and the image says that they do not count. */
  explicitIds: boolean;
}

/** Names nothing may have deeper than this: a tree of that depth cannot be walked by path on Linux (PATH_MAX). */
const DEPTH_MAX = 4096;
const OCI_MARKER = '.wh.';
const OVERLAY_OPAQUE = 'trusted.overlay.opaque';

export class TreeNode {
  /** Sequential number in sibling-first order, from 1; a hard link counts but shares `first`'s on disk. */
  index = 0;
  nlink = 1;
  children: TreeNode[] | null;
  /** The first name of this file, when this is another one. */
  first: TreeNode | null = null;
  /** Regular files: this node's chunks are `ChunkRefs` firstRef .. firstRef + chunkCount - 1. */
  firstRef = 0;
  chunkCount = 0;
  /** Offset of the inode in the bootstrap, set by the layout. */
  offset = 0;
  /** Offset of full data blocks (directories, symlinks). */
  dataOffset = 0;
  /** Bytes of data, and how many of them follow the inode (-1: none, all at `dataOffset`). */
  dataBytes = 0;
  tailBytes = -1;
  xattrBytes = 0;

  constructor(
    readonly name: ByteText,
    readonly parent: TreeNode | null,
    readonly mode: number,
    readonly uid: number,
    readonly gid: number,
    readonly sizeBytes: number,
    readonly mtime: number,
    readonly mtimeNs: number,
    readonly rdev: number,
    readonly target: ByteText | null,
    readonly xattrs: readonly Xattr[],
  ) {
    this.children = this.isDirectory ? [] : null;
  }

  get isDirectory(): boolean {
    return (this.mode & S_IFMT) === S_IFDIR;
  }

  get isFile(): boolean {
    return (this.mode & S_IFMT) === S_IFREG;
  }

  get isSymlink(): boolean {
    return (this.mode & S_IFMT) === S_IFLNK;
  }

  /** Path from the image's root, for reading contents and for messages. */
  get path(): ByteText {
    const names: ByteText[] = [];
    for (let node: TreeNode = this; node.parent !== null; node = node.parent) names.push(node.name);
    return `/${names.reverse().join('/')}`;
  }
}

export interface Tree {
  root: TreeNode;
  /** All nodes in sibling-first order: position = index - 1. */
  nodes: TreeNode[];
}

/** Takes entries one by one, then gives the tree. */
export class TreeBuilder {
  readonly #rules: TreeRules;
  readonly #directories = new Map<ByteText, TreeNode>();
  readonly #links = new Map<string, TreeNode>();
  #root: TreeNode | null = null;

  constructor(rules: TreeRules) {
    this.#rules = rules;
  }

  /**
   * The node of `entry`, or null when it is no part of the image. A further name of a file has `first` set, which is the
   * name that came first.
   * @throws AppError SOURCE_LIMIT for names and targets the format cannot hold
   */
  add(entry: SourceEntry): TreeNode | null {
    if (this.#root === null) {
      this.#root = nodeOf(entry, null, '', this.#rules);
      this.#directories.set('/', this.#root);
      return this.#root;
    }
    const slash = entry.path.lastIndexOf('/');
    const name = entry.path.slice(slash + 1);
    const parent = this.#directories.get(slash === 0 ? '/' : entry.path.slice(0, slash));
    // A missing parent is a directory that was itself a marker.
    if (parent === undefined || isMarker(entry, name, this.#rules.whiteouts)) return null;
    const node = nodeOf(entry, parent, name, this.#rules);
    parent.children?.push(node);
    if (node.isDirectory) this.#directories.set(entry.path, node);
    if (entry.linkKey !== null) join(this.#links, entry.linkKey, node);
    return node;
  }

  /** The tree with numbers, nlinks and sorted children. @throws AppError SOURCE_LIMIT for a depth it cannot have */
  finish(): Tree {
    if (this.#root === null) throw imageError('SOURCE_LIMIT', { path: '/', rule: 'the source has no root' });
    return number(this.#root);
  }
}

/** A first layer has nothing below it that could be hidden: its markers say nothing and are dropped (7.1). */
function isMarker(entry: SourceEntry, name: ByteText, whiteouts: WhiteoutSpec): boolean {
  if (whiteouts === 'oci') return name.startsWith(OCI_MARKER);
  if (whiteouts === 'none') return false;
  return (entry.mode & S_IFMT) === S_IFCHR && entry.rdevMajor === 0 && entry.rdevMinor === 0;
}

/** Opaque over nothing is a plain directory. */
function isOpaqueMark({ name, value }: Xattr): boolean {
  return name === OVERLAY_OPAQUE && value.length === 1 && value[0] === 0x79; // 'y'
}

function nodeOf(entry: SourceEntry, parent: TreeNode | null, name: ByteText, rules: TreeRules): TreeNode {
  const refuse = (rule: string) => imageError('SOURCE_LIMIT', { path: shown(entry.path), rule });
  if (parent !== null && (name.length === 0 || name.length > NAME_BYTES_MAX)) throw refuse(`${name.length}-byte name`);
  if (direntType(entry.mode) === 0) throw refuse(`mode 0${entry.mode.toString(8)}`);
  const symlink = entry.target !== null;
  if (symlink && (entry.sizeBytes === 0 || entry.sizeBytes > SYMLINK_BYTES_MAX - 1)) throw refuse('symlink target');
  if (parent === null && (entry.mode & S_IFMT) !== S_IFDIR) throw refuse('the source is no directory');
  return new TreeNode(
    name,
    parent,
    entry.mode,
    rules.explicitIds ? entry.uid : 0,
    rules.explicitIds ? entry.gid : 0,
    entry.sizeBytes,
    parent === null ? 0 : entry.mtime,
    parent === null ? 0 : entry.mtimeNs,
    packDevice(entry.rdevMajor, entry.rdevMinor),
    entry.target,
    rules.whiteouts === 'overlayfs' ? entry.xattrs.filter((xattr) => !isOpaqueMark(xattr)) : entry.xattrs,
  );
}

/** Joins hard links; which name is the first one is settled by `number`, since entries come in any order. */
function join(links: Map<string, TreeNode>, key: string, node: TreeNode): void {
  const other = links.get(key);
  if (other === undefined) links.set(key, node);
  else node.first = other;
}

/**
 * Sibling-first numbering (1.9): all children of a directory get consecutive numbers, then each child directory in
 * turn. Also counts links: 2 + child directories, or the names of a file.
 */
function number(root: TreeNode): Tree {
  const nodes: TreeNode[] = [root];
  const groups = new Map<TreeNode, TreeNode[]>();
  root.index = 1;
  const pending: [node: TreeNode, depth: number][] = [[root, 0]];
  for (let item = pending.pop(); item !== undefined; item = pending.pop()) {
    const [dir, depth] = item;
    const children = (dir.children ?? []).sort(byName);
    if (depth > DEPTH_MAX)
      throw imageError('SOURCE_LIMIT', { path: shown(dir.path), rule: `deeper than ${DEPTH_MAX}` });
    dir.nlink = 2;
    for (const child of children) {
      child.index = nodes.push(child);
      if (child.isDirectory) dir.nlink++;
      else if (child.first !== null) members(groups, child.first).push(child);
    }
    for (let i = children.length - 1; i >= 0; i--) {
      if (children[i].isDirectory) pending.push([children[i], depth + 1]);
    }
  }
  for (const [seed, others] of groups) settle([seed, ...others]);
  return { root, nodes };
}

function members(groups: Map<TreeNode, TreeNode[]>, seed: TreeNode): TreeNode[] {
  let list = groups.get(seed);
  if (list === undefined) groups.set(seed, (list = []));
  return list;
}

/** The name with the lowest number owns the inode; every name carries the count. */
function settle(group: TreeNode[]): void {
  group.sort((a, b) => a.index - b.index);
  for (const node of group) {
    node.first = node === group[0] ? null : group[0];
    node.nlink = group.length;
  }
}

/** Unsigned bytes, shorter prefix first: exactly how JS compares strings of chars below 256. */
function byName(a: TreeNode, b: TreeNode): number {
  return a.name < b.name ? -1 : a.name > b.name ? 1 : 0;
}
