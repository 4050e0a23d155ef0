/**
 * Prefetch patterns (rafs-format 2.12, 3.2, 7.5): which files' chunks come first in the blob, and what the prefetch
 * table names.
 */
import type { ByteText } from './source.ts';
import type { Tree, TreeNode } from './tree.ts';

export type PrefetchPolicy = 'fs' | 'blob' | 'none';

/** Patterns as given, one absolute path a line; what was wrong with the others is in `ignored`. */
export function parsePatterns(text: Uint8Array): { patterns: ByteText[]; ignored: ByteText[] } {
  const patterns: ByteText[] = [];
  const ignored: ByteText[] = [];
  for (const line of Buffer.from(text).toString('latin1').split('\n')) {
    const path = line
      .trim()
      .replace(/\/+/g, '/')
      .replace(/(.)\/$/, '$1');
    if (path === '') continue;
    if (!path.startsWith('/')) ignored.push(path);
    else if (!patterns.some((earlier) => covers(earlier, path))) patterns.push(path);
  }
  return { patterns, ignored };
}

function covers(pattern: ByteText, path: ByteText): boolean {
  return path === pattern || pattern === '/' || path.startsWith(`${pattern}/`);
}

/** Nodes that patterns name exactly, in pattern order: the prefetch table. */
export function namedNodes(tree: Tree, patterns: readonly ByteText[]): TreeNode[] {
  return patterns.map((pattern) => find(tree.root, pattern)).filter((node) => node !== null);
}

function find(root: TreeNode, path: ByteText): TreeNode | null {
  let node: TreeNode | null = root;
  for (const name of path.split('/').filter((part) => part !== '')) {
    node = node?.children?.find((child) => child.name === name) ?? null;
  }
  return node;
}

/** Regular files with content in the order their chunks are written: matched ones by pattern, then the others. */
export function dataOrder(tree: Tree, patterns: readonly ByteText[]): TreeNode[] {
  const files = tree.nodes.filter((node) => node.isFile && node.sizeBytes > 0);
  if (patterns.length === 0) return files;
  const matched: TreeNode[][] = patterns.map(() => []);
  const others: TreeNode[] = [];
  for (const node of files) {
    const path = node.path;
    const pattern = patterns.findIndex((candidate) => covers(candidate, path));
    (pattern < 0 ? others : matched[pattern]).push(node);
  }
  return [...matched.flat(), ...others];
}
