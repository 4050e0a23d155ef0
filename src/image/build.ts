/**
 * One build, from a source to a blob and a bootstrap. Files are read and written synchronously, because nothing else runs
 * in this process meanwhile; the event loop only turns to let native memory be freed.
 */
import { type BlobSettings, BlobWriter } from './blob-writer.ts';
import { BootstrapWriter } from './bootstrap-writer.ts';
import { Chunker } from './chunker.ts';
import { CompressPipe } from './compress-pipe.ts';
import { checkPlace, OutputFile, type Place } from './output.ts';
import { dataOrder, namedNodes, type PrefetchPolicy } from './prefetch.ts';
import type { ByteText, ImageSource } from './source.ts';
import { type Tree, TreeBuilder, type TreeNode, type TreeRules } from './tree.ts';

export interface BuildOptions extends TreeRules, BlobSettings {
  /** Null: SHA-256 of the blob. */
  blobId: string | null;
  blob: Place;
  /** Ignored with `inlineMeta`. */
  bootstrap: Place;
  prefetchPolicy: PrefetchPolicy;
  patterns: readonly ByteText[];
  /** Script for compression threads (`compress-worker.ts` or the bundle); null: everything on the caller's thread. */
  helperEntry: string | URL | null;
}

export interface BuildResult {
  /** Empty when the bootstrap is inside the blob. */
  bootstrapPath: string;
  /** Null when the image has no data and needs no blob. */
  blobId: string | null;
  blobPath: string | null;
  inodes: number;
  chunks: number;
  blobBytes: number;
  uncompressedBytes: number;
}

/** @throws AppError of `errors.ts`; nothing is left behind then except a given output path */
export async function buildImage(source: ImageSource, options: BuildOptions): Promise<BuildResult> {
  if (!options.inlineMeta) checkPlace(options.bootstrap);
  const out = new OutputFile(options.blob);
  const writer = new BlobWriter(out, options);
  const pipe = new CompressPipe(
    options.compressor,
    options.chunkSize,
    (chunks, sizes, bytes) => chunker.store.stored(chunks, sizes, writer.chunks(bytes)),
    options.helperEntry,
  );
  const chunker = new Chunker(options.chunkSize, options.digester, pipe);
  try {
    const patterns = options.prefetchPolicy === 'none' ? [] : options.patterns;
    const tree = await addEverything(source, options, patterns, chunker);
    const bootstrap = new BootstrapWriter({
      tree,
      store: chunker.store,
      refs: chunker.refs,
      chunkSize: options.chunkSize,
      compressor: options.compressor,
      digester: options.digester,
      explicitIds: options.explicitIds,
      prefetch: options.prefetchPolicy === 'fs' ? namedNodes(tree, patterns) : [],
    });
    pipe.finish();
    writer.finishData(chunker.store, chunker.uncompressedBytes);
    return finish(tree, options, bootstrap, out, writer, chunker);
  } finally {
    await pipe.close();
    out.abandon();
  }
}

/**
 * Walks the source and stores the contents of its files, in the order of their numbers but for those that patterns put
 * first. Where that is the order in which they are found, helpers compress while the walk goes on.
 */
async function addEverything(
  source: ImageSource,
  rules: TreeRules,
  patterns: readonly ByteText[],
  chunker: Chunker,
): Promise<Tree> {
  const builder = new TreeBuilder(rules);
  const atOnce = source.inOrder && patterns.length === 0;
  for (const entry of source.entries()) {
    const node = builder.add(entry);
    if (atOnce && node?.isFile && node.first === null) await addContent(node, source, chunker);
  }
  const tree = builder.finish();
  if (atOnce) return tree;
  const done = new Set<TreeNode>();
  for (const name of dataOrder(tree, patterns)) {
    const node = name.first ?? name;
    if (node.nlink > 1) {
      if (done.has(node)) continue;
      done.add(node);
    }
    await addContent(node, source, chunker);
  }
  return tree;
}

async function addContent(node: TreeNode, source: ImageSource, chunker: Chunker): Promise<void> {
  if (node.sizeBytes === 0) return;
  const content = source.open(node.path, node.sizeBytes);
  try {
    await chunker.addFile(node, content);
  } finally {
    content.close();
  }
}

function finish(
  tree: Tree,
  options: BuildOptions,
  bootstrap: BootstrapWriter,
  out: OutputFile,
  writer: BlobWriter,
  chunker: Chunker,
): BuildResult {
  const hasData = chunker.store.count > 0;
  const metadata = () => bootstrap.finish(hasData ? writer.info : null);
  if (options.inlineMeta) writer.bootstrap(metadata());
  writer.tableOfContents();
  const needed = hasData || options.inlineMeta;
  const blobId = needed ? (options.blobId ?? out.digest().toString('hex')) : null;
  const blobPath = blobId === null ? null : out.finish(blobId);
  let bootstrapPath = '';
  if (!options.inlineMeta) {
    if (blobId !== null) writer.info.id = blobId;
    bootstrapPath = save(metadata(), options.bootstrap);
  }
  return {
    bootstrapPath,
    blobId,
    blobPath,
    inodes: tree.nodes.length,
    chunks: chunker.store.count,
    blobBytes: needed ? out.position : 0,
    uncompressedBytes: chunker.uncompressedBytes,
  };
}

function save(bootstrap: Buffer, place: Place): string {
  const out = new OutputFile(place);
  try {
    out.write(bootstrap);
    return out.finish(out.digest().toString('hex'));
  } finally {
    out.abandon();
  }
}
