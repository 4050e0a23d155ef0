/**
 * One build, from a source to a blob and a bootstrap. Files are read and written synchronously, because nothing else runs
 * in this process meanwhile; the event loop only turns to let native memory be freed.
 */
import { type BlobSettings, BlobWriter } from './blob-writer.ts';
import { writeBootstrap } from './bootstrap-writer.ts';
import { Chunker } from './chunker.ts';
import { CompressPipe } from './compress-pipe.ts';
import { OutputFile, type Place } from './output.ts';
import { dataOrder, namedNodes, type PrefetchPolicy } from './prefetch.ts';
import type { ByteText, ImageSource } from './source.ts';
import { buildTree, type Tree, type TreeRules } from './tree.ts';

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
  const tree = buildTree(source.entries(), options);
  for (const node of tree.nodes) if (node.isFile) node.chunkCount = Math.ceil(node.sizeBytes / options.chunkSize);
  const out = new OutputFile(options.blob);
  const writer = new BlobWriter(out, options);
  const pipe = new CompressPipe(
    options.compressor,
    options.chunkSize,
    (chunk, bytes) => {
      chunker.store.compressedOffset[chunk] = writer.chunk(bytes);
      chunker.store.compressedSize[chunk] = bytes.length;
    },
    options.helperEntry,
  );
  const chunker = new Chunker(options.chunkSize, options.digester, pipe);
  try {
    const patterns = options.prefetchPolicy === 'none' ? [] : options.patterns;
    await addContents(tree, source, patterns, chunker);
    pipe.finish();
    writer.finishData(chunker.store, chunker.uncompressedBytes);
    return finish(tree, options, patterns, out, writer, chunker);
  } finally {
    await pipe.close();
    out.abandon();
  }
}

async function addContents(
  tree: Tree,
  source: ImageSource,
  patterns: readonly ByteText[],
  chunker: Chunker,
): Promise<void> {
  const done = new Set<object>();
  for (const name of dataOrder(tree, patterns)) {
    const node = name.first ?? name;
    if (node.nlink > 1) {
      if (done.has(node)) continue;
      done.add(node);
    }
    const content = source.open(node.path, node.sizeBytes);
    try {
      await chunker.addFile(node, content);
    } finally {
      content.close();
    }
  }
}

function finish(
  tree: Tree,
  options: BuildOptions,
  patterns: readonly ByteText[],
  out: OutputFile,
  writer: BlobWriter,
  chunker: Chunker,
): BuildResult {
  const hasData = chunker.store.count > 0;
  const bootstrap = () =>
    writeBootstrap({
      tree,
      store: chunker.store,
      refs: chunker.refs,
      blob: hasData ? writer.info : null,
      chunkSize: options.chunkSize,
      compressor: options.compressor,
      digester: options.digester,
      explicitIds: options.explicitIds,
      prefetch: options.prefetchPolicy === 'fs' ? namedNodes(tree, patterns) : [],
    });
  if (options.inlineMeta) writer.bootstrap(bootstrap());
  writer.tableOfContents();
  const needed = hasData || options.inlineMeta;
  const blobId = needed ? (options.blobId ?? out.digest().toString('hex')) : null;
  const blobPath = blobId === null ? null : out.finish(blobId);
  let bootstrapPath = '';
  if (!options.inlineMeta) {
    if (blobId !== null) writer.info.id = blobId;
    bootstrapPath = save(bootstrap(), options.bootstrap);
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
