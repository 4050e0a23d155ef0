/** `nydus-image check` (rafs-format 7.5): options and output. */
import type { ArgumentsCamelCase, Argv } from 'yargs';
import { LOG_LEVELS, type LogLevel } from '../common/log.ts';
import { BUILD_INFO } from '../daemon/build-info.ts';
import { checkImage } from '../image/check.ts';
import { imageError } from '../image/errors.ts';
import { saveReport } from '../image/report.ts';
import { shown } from '../image/source.ts';
import { FEATURE } from '../storage/tables/blob-layout.ts';
import type { BlobInfo } from '../storage/types.ts';
import { CommandLog } from './command-log.ts';
import { EXIT_OK, print } from './fail.ts';

/** Names in the order the reference tool prints them. */
const FEATURE_NAMES: readonly (readonly [bit: number, name: string])[] = [
  [FEATURE.ALIGNED, 'aligned'],
  [FEATURE.BATCH, 'batch'],
  [FEATURE.CAP_TAR_TOC, 'cap_toc'],
  [FEATURE.INLINED_CHUNK_DIGEST, 'chunk-digest'],
  [FEATURE.CHUNK_INFO_V2, 'chunk-v2'],
  [FEATURE.INLINED_FS_META, 'fs-meta'],
  [FEATURE.SEPARATE, 'separate'],
  [FEATURE.HAS_TAR_HEADER, 'tar-header'],
  [FEATURE.HAS_TOC, 'toc'],
  [FEATURE.ZRAN, 'zran'],
  [FEATURE.ENCRYPTED, 'encrypted'],
  [FEATURE.IS_CHUNKDICT_GENERATED, 'is-chunkdict-generated'],
];

/** Declares the options. */
export function checkOptions(args: Argv) {
  return args
    .usage('Reads a whole image and says whether it is valid.\n\nUsage: $0 check [OPTIONS] [BOOTSTRAP]')
    .positional('BOOTSTRAP', { type: 'string', describe: 'Bootstrap to check' })
    .options({
      bootstrap: { alias: 'B', type: 'string', describe: 'The same as BOOTSTRAP (deprecated)' },
      'blob-dir': { alias: 'D', type: 'string', describe: 'Accepted; the check needs no blob' },
      config: { alias: 'C', type: 'string', describe: 'Accepted; the check needs no blob' },
      verbose: { alias: 'v', type: 'boolean', describe: 'Print every path too' },
      'output-json': { alias: 'J', type: 'string', describe: 'Write a report of the image' },
      'log-file': { alias: 'L', type: 'string', describe: 'Append log lines to this file instead of stderr' },
      'log-level': { alias: 'l', choices: LOG_LEVELS, default: 'info' as const, describe: 'Least important lines' },
    })
    .conflicts('blob-dir', 'config');
}

type Args = ReturnType<typeof checkOptions> extends Argv<infer T> ? ArgumentsCamelCase<T> : never;

/** Runs the command. @returns exit code. @throws AppError when the image is invalid */
export function runCheck(args: Args): number {
  const path = args.BOOTSTRAP ?? args.bootstrap;
  if (path === undefined) throw imageError('OPTION', { option: 'BOOTSTRAP', why: 'no bootstrap given' });
  const log = new CommandLog(args['log-level'] as LogLevel, args['log-file'] ?? null);
  const { blobs, names, fsVersion, compressor } = checkImage(path, (entry) => {
    if (args.verbose === true) print(`${shown(entry.path.toString('latin1'))}\n`);
  });
  log.info(`${names} names in ${path}`);
  print('RAFS filesystem metadata is valid, referenced data blobs: \n');
  for (const blob of blobs) print(`\t ${blobLine(blob)}\n`);
  const json = args['output-json'];
  if (json !== undefined) {
    const version = `${BUILD_INFO.package_ver}-${BUILD_INFO.git_commit}`;
    const trace = { registered_events: { inodes: names } };
    const ids = blobs.map((blob) => blob.id);
    saveReport(json, { version, bootstrap: path, blobs: ids, compressor, fsVersion, trace }, false);
  }
  return EXIT_OK;
}

function blobLine(blob: BlobInfo): string {
  const hex = (value: number) => `0x${value.toString(16)}`;
  const features = FEATURE_NAMES.filter(([bit]) => (blob.features & bit) !== 0).map(([, name]) => name);
  return [
    `${blob.index}: ${blob.id}`,
    `compressed size ${hex(blob.compressedSize)}`,
    `uncompressed size ${hex(blob.uncompressedSize)}`,
    `chunk size: ${hex(blob.chunkSize)}`,
    `chunk count: ${hex(blob.chunkCount)}`,
    `features: ${features.join(' ')}`,
  ].join(', ');
}
