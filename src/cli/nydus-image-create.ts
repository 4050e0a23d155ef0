/** `nydus-image create` (rafs-format 7.5): options, their rules, and the call of the builder. */
import { readFileSync } from 'node:fs';
import { isAbsolute } from 'node:path';
import type { ArgumentsCamelCase, Argv } from 'yargs';
import { explain } from '../common/app-error.ts';
import { LOG_LEVELS, type LogLevel } from '../common/log.ts';
import { BUILD_INFO } from '../daemon/build-info.ts';
import { type BuildOptions, type BuildResult, buildImage } from '../image/build.ts';
import { DirectorySource } from '../image/directory.ts';
import { imageError } from '../image/errors.ts';
import type { Place } from '../image/output.ts';
import { parsePatterns } from '../image/prefetch.ts';
import { saveReport } from '../image/report.ts';
import { shown } from '../image/source.ts';
import { blobIdLegal } from '../rafs/blob-id.ts';
import { CHUNK_SIZE_DEFAULT, CHUNK_SIZE_MAX, CHUNK_SIZE_MIN, chunkSizeLegal } from '../rafs/flags.ts';
import { BLOB_ID_BYTES } from '../rafs/v6/blob-table-layout.ts';
import { CommandLog } from './command-log.ts';
import { EXIT_OK } from './fail.ts';

const DIRECTORY_TYPES = ['dir-rafs', 'directory'];
const OTHER_TYPES = [
  'tar-rafs',
  'targz-rafs',
  'estargz-rafs',
  'targz-ref',
  'estargz-ref',
  'estargztoc-ref',
  'stargz_index',
  'tar-tarfs',
];

/** Options of the reference tool that are refused until they are built: name → what they would do. */
const NOT_BUILT = {
  'external-blob': { type: 'string', describe: 'Output of external data' },
  'blob-data-size': { type: 'string', describe: 'Size of the data of estargztoc-ref' },
  'blob-offset': { type: 'string', describe: 'Initial offset in the blob' },
  'batch-size': { type: 'string', describe: 'Compress small chunks together' },
  config: { alias: 'C', type: 'string', describe: 'Backend of a parent or dictionary' },
  'chunk-dict': { type: 'string', describe: 'Reuse the chunks of another image' },
  'parent-bootstrap': { type: 'string', describe: 'Build a layer on top of another image' },
  encrypt: { alias: 'E', type: 'boolean', describe: 'Encrypt chunks' },
  'blob-cache-dir': { type: 'string', describe: 'Write cache files instead of a blob' },
  attributes: { type: 'string', describe: 'Attributes of external files' },
} as const;

/** Declares the options. */
export function createOptions(args: Argv) {
  const grouped = args
    .usage('Builds a RAFS v6 image from a directory.\n\nUsage: $0 create [OPTIONS] <SOURCE>')
    .positional('SOURCE', { type: 'string', demandOption: true, describe: 'Directory to build from' })
    .options({
      type: {
        alias: ['t', 'source-type'],
        choices: [...DIRECTORY_TYPES, ...OTHER_TYPES],
        default: 'dir-rafs',
        describe: 'What SOURCE is; only directories are built yet',
      },
      bootstrap: { alias: 'B', type: 'string', describe: 'Output bootstrap; in --blob-dir it is named by its SHA-256' },
      'blob-dir': { alias: 'D', type: 'string', describe: 'Directory for the blob, named by its id' },
      blob: { alias: 'b', type: 'string', describe: 'Output blob; may be a fifo' },
      'blob-inline-meta': {
        alias: 'inline-bootstrap',
        type: 'boolean',
        describe: 'Put the bootstrap into the blob instead of --bootstrap',
      },
      'blob-id': { type: 'string', describe: 'Id of the blob instead of its SHA-256' },
      'chunk-size': { type: 'string', default: '0x100000', describe: 'Power of two, 0x1000 to 0x1000000' },
      compressor: { choices: ['none', 'lz4_block', 'zstd'] as const, default: 'zstd' as const, describe: 'Of chunks' },
      digester: { choices: ['blake3', 'sha256'] as const, default: 'blake3' as const, describe: 'Of chunks' },
      'fs-version': { alias: 'v', choices: ['5', '6'], default: '6', describe: 'Only 6 is built yet' },
      features: { choices: ['blob-toc'], describe: 'blob-toc: end the blob with a table of contents' },
      'aligned-chunk': { type: 'boolean', describe: 'Always so in RAFS v6' },
      repeatable: { type: 'boolean', describe: 'Do not store uid and gid' },
      'disable-check': { type: 'boolean', hidden: true },
      'whiteout-spec': {
        choices: ['oci', 'overlayfs', 'none'] as const,
        default: 'oci' as const,
        describe: 'Markers that are dropped; none keeps them as files',
      },
      'prefetch-policy': {
        choices: ['fs', 'blob', 'none'] as const,
        default: 'none' as const,
        describe: 'Put files first that standard input lists, one absolute path a line',
      },
      'output-json': { alias: 'J', type: 'string', describe: 'Write a report of the build' },
      'log-file': { alias: 'L', type: 'string', describe: 'Append log lines to this file instead of stderr' },
      'log-level': { alias: 'l', choices: LOG_LEVELS, default: 'info' as const, describe: 'Least important lines' },
    })
    .options(NOT_BUILT)
    .group(Object.keys(NOT_BUILT), 'Not built yet:');
  return grouped;
}

type Args = ReturnType<typeof createOptions> extends Argv<infer T> ? ArgumentsCamelCase<T> : never;

/** Runs the command. @returns exit code. @throws AppError */
export async function runCreate(args: Args): Promise<number> {
  refuseNotBuilt(args);
  // An unset variable of a script: it would be read as the root of the host.
  if (args.SOURCE === '') throw wrong('SOURCE', 'is empty');
  const log = new CommandLog(args['log-level'] as LogLevel, args['log-file'] ?? null);
  const options = buildOptions(args, log);
  const startedMs = performance.now();
  const result = await buildImage(new DirectorySource(args.SOURCE), options);
  const seconds = (performance.now() - startedMs) / 1000;
  const blobs = result.blobId === null ? [] : [result.blobId];
  log.info('successfully built RAFS filesystem:');
  log.info(`meta blob path: ${result.bootstrapPath === '' ? '<none>' : result.bootstrapPath}`);
  log.info(`data blob size: 0x${result.blobBytes.toString(16)}`);
  log.info(`data blobs: ${JSON.stringify(blobs)}`);
  const path = args['output-json'];
  if (path !== undefined) {
    const version = `${BUILD_INFO.package_ver}-${BUILD_INFO.git_commit}`;
    const trace = counters(result, seconds);
    const { bootstrapPath: bootstrap } = result;
    saveReport(path, { version, bootstrap, blobs, compressor: options.compressor, fsVersion: 6, trace }, true);
  }
  return EXIT_OK;
}

function counters(result: BuildResult, seconds: number): Record<string, Record<string, number>> {
  return {
    consumed_time: { total_build: seconds },
    registered_events: {
      load_from_directory: result.inodes,
      chunks: result.chunks,
      blob_compressed_size: result.blobBytes,
      blob_uncompressed_size: result.uncompressedBytes,
    },
  };
}

function refuseNotBuilt(args: Args): void {
  const refuse = (what: string) =>
    imageError('NOT_BUILT', { what, instead: 'leave it out, or use the reference nydus-image' });
  for (const name of Object.keys(NOT_BUILT)) if (args[name] !== undefined) throw refuse(`option --${name}`);
  if (!DIRECTORY_TYPES.includes(args.type)) throw refuse(`source type ${args.type}`);
  if (args['fs-version'] !== '6') throw refuse(`RAFS v${args['fs-version']}`);
}

function buildOptions(args: Args, log: CommandLog): BuildOptions {
  const inlineMeta = args['blob-inline-meta'] === true;
  if (inlineMeta && args.bootstrap !== undefined)
    throw wrong('--blob-inline-meta', 'leaves no bootstrap for --bootstrap');
  if (inlineMeta && args['blob-id'] !== undefined)
    throw wrong('--blob-inline-meta', 'needs the real id, not --blob-id');
  return {
    chunkSize: chunkSize(args['chunk-size']),
    compressor: args.compressor,
    digester: args.digester,
    whiteouts: args['whiteout-spec'],
    explicitIds: args.repeatable !== true,
    toc: args.features === 'blob-toc',
    inlineMeta,
    blobId: blobId(args['blob-id']),
    blob: blobPlace(args),
    bootstrap: bootstrapPlace(args, inlineMeta),
    prefetchPolicy: args['prefetch-policy'],
    patterns: args['prefetch-policy'] === 'none' ? [] : readPatterns(log),
    // The bundle is one file that holds the helper's entry; running from sources, there is no such file.
    helperEntry: typeof __filename === 'string' && isAbsolute(__filename) ? __filename : null,
  };
}

function wrong(option: string, why: string) {
  return imageError('OPTION', { option, why });
}

function chunkSize(text: string): number {
  const size = /^(0x[0-9a-f]{1,8}|\d{1,9})$/i.test(text) ? Number(text) : Number.NaN;
  if (!chunkSizeLegal(size)) {
    const [min, max, usual] = [CHUNK_SIZE_MIN, CHUNK_SIZE_MAX, CHUNK_SIZE_DEFAULT].map((n) => `0x${n.toString(16)}`);
    throw wrong('--chunk-size', `${JSON.stringify(text)} is no power of two from ${min} to ${max}; ${usual} is usual`);
  }
  return size;
}

function blobId(id: string | undefined): string | null {
  if (id === undefined) return null;
  if (!blobIdLegal(id) || Buffer.byteLength(id) > BLOB_ID_BYTES) {
    throw wrong('--blob-id', `1 to ${BLOB_ID_BYTES} printable bytes that make a file name`);
  }
  return id;
}

function blobPlace(args: Args): Place {
  if (args.blob !== undefined) return { path: args.blob };
  if (args['blob-dir'] !== undefined) return { dir: args['blob-dir'] };
  throw wrong('--blob-dir', 'give it, or --blob, for the data');
}

function bootstrapPlace(args: Args, inlineMeta: boolean): Place {
  if (args.bootstrap !== undefined) return { path: args.bootstrap };
  if (args['blob-dir'] !== undefined) return { dir: args['blob-dir'] };
  if (inlineMeta) return blobPlace(args);
  throw wrong('--bootstrap', 'give it, or --blob-dir, for the metadata');
}

/** Longest list of patterns that is taken. */
const PATTERNS_BYTES_MAX = 16 << 20;

function readPatterns(log: CommandLog): string[] {
  let text: Buffer;
  try {
    text = readFileSync(0);
  } catch (error) {
    log.warn(`no prefetch patterns: standard input cannot be read: ${explain(error)}`);
    return [];
  }
  if (text.length > PATTERNS_BYTES_MAX)
    throw wrong('--prefetch-policy', `more than ${PATTERNS_BYTES_MAX} bytes of patterns`);
  const { patterns, ignored } = parsePatterns(text);
  for (const path of ignored) log.warn(`prefetch pattern ${shown(path)} is ignored: it is not an absolute path`);
  return patterns;
}
