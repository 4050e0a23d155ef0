/**
 * Prefetch patterns (rafs-format 2.12, 3.2, 7.5): which files' chunks come first in the blob, and what the prefetch
 * table names.
 */
import type { ByteText } from './source.ts';
import type { Tree, TreeNode } from './tree.ts';

export type PrefetchPolicy = 'fs' | 'blob' | 'none';

/** Patterns as given, one absolute path a line; what was wrong with the others is in `ignored`. */
export function parsePatterns(text: Uint8Array): { patterns: ByteText[]; ignored: ByteText[] } {
  const patterns = new Map<ByteText, number>();
  const ignored: ByteText[] = [];
  for (const line of Buffer.from(text).toString('latin1').split('\n')) {
    const path = line
      // ASCII only: the last byte of an `à` is a no-break space in Latin-1.
      .replace(/^[ \t\r]+|[ \t\r]+$/g, '')
      .replace(/\/+/g, '/')
      .replace(/(.)\/$/, '$1');
    if (path === '') continue;
    if (!path.startsWith('/')) ignored.push(path);
    else if (covering(patterns, path) === undefined) patterns.set(path, patterns.size);
  }
  return { patterns: [...patterns.keys()], ignored };
}

/** Number of the pattern that is the path or a directory above it; the one given first, when there are several. */
function covering(patterns: ReadonlyMap<ByteText, number>, path: ByteText): number | undefined {
  let best = patterns.get('/');
  for (let end = path.length; end > 0; end = path.lastIndexOf('/', end - 1)) {
    const index = patterns.get(path.slice(0, end));
    if (index !== undefined && (best === undefined || index < best)) best = index;
  }
  return best;
}

/** Nodes that patterns name exactly, in pattern order: the prefetch table. */
export function namedNodes(tree: Tree, patterns: readonly ByteText[]): TreeNode[] {
  return patterns.map((pattern) => find(tree.root, pattern)).filter((node) => node !== null);
}

function find(root: TreeNode, path: ByteText): TreeNode | null {
  let node: TreeNode | null = root;
  for (const name of path.split('/').filter((part) => part !== '')) {
    node = childNamed(node?.children ?? [], name);
  }
  return node;
}

/** Children of a finished tree are sorted; a list may name 100,000 files of one directory. */
function childNamed(children: readonly TreeNode[], name: ByteText): TreeNode | null {
  let low = 0;
  let high = children.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (children[middle].name < name) low = middle + 1;
    else high = middle;
  }
  return children[low]?.name === name ? children[low] : null;
}

/** Regular files with content in the order their chunks are written: matched ones by pattern, then the others. */
export function dataOrder(tree: Tree, patterns: readonly ByteText[]): TreeNode[] {
  const files = tree.nodes.filter((node) => node.isFile && node.sizeBytes > 0);
  if (patterns.length === 0) return files;
  const numbers = new Map(patterns.map((pattern, index) => [pattern, index]));
  const matched: TreeNode[][] = patterns.map(() => []);
  const others: TreeNode[] = [];
  for (const node of files) {
    const pattern = covering(numbers, node.path);
    (pattern === undefined ? others : matched[pattern]).push(node);
  }
  return [...matched.flat(), ...others];
}
