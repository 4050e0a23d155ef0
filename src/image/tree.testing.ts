/** A tree out of entries that are all at hand. */
import type { SourceEntry } from './source.ts';
import { type Tree, TreeBuilder, type TreeRules } from './tree.ts';

export function buildTree(entries: Iterable<SourceEntry>, rules: TreeRules): Tree {
  const builder = new TreeBuilder(rules);
  for (const entry of entries) builder.add(entry);
  return builder.finish();
}
