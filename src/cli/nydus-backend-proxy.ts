/**
 * `nydus-backend-proxy`: a read-only registry for the blobs of one directory (kata-contract 6.2), for tests, demos and
 * hosts without a registry.
 *
 *   HEAD|GET /<ns>/<repo>/blobs/sha256:<hex>   blob `<hex>` of the directory, with ranges
 *   HEAD|GET /<file>                           any file of the directory by its name
 *
 * Attack surface: only plain names directly in the directory are opened, and with O_NOFOLLOW, so that neither `..`
 * (encoded or not) nor a symbolic link leads out of it.
 */
import { createReadStream } from 'node:fs';
import { constants, type FileHandle, open, stat } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { join } from 'node:path';
import { type CommandSpec, type OptionTable, parseArgs, renderHelp } from './command.ts';
import { complain, EXIT_FAILED, EXIT_OK, print, report, usageError } from './fail.ts';

const NAME = 'nydus-backend-proxy';
const ADDRESS_DEFAULT = '127.0.0.1';
const PORT_DEFAULT = 8000;

/** Names that say what the file holds. */
const DIGEST = /^[0-9a-f]{64}$/;
const DIGEST_PREFIX = 'sha256:';

const SPEC = {
  name: NAME,
  summary: 'Serves the blobs of a directory over HTTP, as a registry would.',
  usage: [`${NAME} --blobsdir DIR`, 'environment: ROCKET_ADDRESS (default 127.0.0.1), ROCKET_PORT (default 8000)'],
  options: {
    blobsdir: { short: 'b', value: 'DIR', help: 'directory with the blobs, each named by its hex digest' },
    version: { short: 'V', help: 'print the version' },
    help: { short: 'h', help: 'print this text' },
  },
  unknown: 'refuse',
} as const satisfies CommandSpec<OptionTable>;

/** Runs until SIGTERM or SIGINT. Exit code as in `fail.ts`. */
export async function main(argv: string[]): Promise<number> {
  try {
    const { values } = parseArgs(SPEC, argv);
    if (values.help) {
      print(renderHelp(SPEC));
      return EXIT_OK;
    }
    if (values.version) {
      const { versionText } = await import('../daemon/build-info.ts');
      print(versionText());
      return EXIT_OK;
    }
    if (values.blobsdir === undefined) throw usageError('USAGE', { command: NAME, text: '--blobsdir is required' });
    if (!(await stat(values.blobsdir)).isDirectory()) throw new Error(`${values.blobsdir} is not a directory`);
    return await serve(values.blobsdir);
  } catch (error) {
    return report(NAME, error);
  }
}

async function serve(blobsDir: string): Promise<number> {
  const address = process.env['ROCKET_ADDRESS'] ?? ADDRESS_DEFAULT;
  const port = Number(process.env['ROCKET_PORT'] ?? PORT_DEFAULT);
  const server = createBlobServer(blobsDir);
  return new Promise((resolve) => {
    const stop = (): void => {
      server.close(() => resolve(EXIT_OK));
      server.closeAllConnections();
    };
    process.once('SIGTERM', stop);
    process.once('SIGINT', stop);
    server.on('error', (error) => {
      complain(NAME, `cannot listen on ${address}:${port}: ${error.message}`);
      resolve(EXIT_FAILED);
    });
    server.listen(port, address, () =>
      print(`${NAME}: serving ${blobsDir} on http://${address}:${boundPort(server)}\n`),
    );
  });
}

function boundPort(server: Server): number {
  const bound = server.address();
  return typeof bound === 'object' && bound !== null ? bound.port : 0;
}

/** The server alone, not listening yet; for `main` and for tests. */
export function createBlobServer(blobsDir: string): Server {
  return createServer((request, response) => {
    answer(blobsDir, request, response).catch((error: unknown) => {
      complain(NAME, `${request.method} ${request.url}: ${error instanceof Error ? error.message : String(error)}`);
      if (response.headersSent) response.destroy();
      else fail(response, 500, 'internal error');
    });
  });
}

async function answer(blobsDir: string, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const isHead = request.method === 'HEAD';
  if (!isHead && request.method !== 'GET') return fail(response, 405, 'only GET and HEAD');
  const name = fileNameOf(request.url ?? '');
  if (name === null) return fail(response, 400, 'not a blob of the form sha256:<hex>');
  const file = name === '' ? null : await openPlainFile(join(blobsDir, name));
  if (file === null) return fail(response, 404, 'no such blob');
  try {
    const { size } = await file.stat();
    // Ranges are for GET alone (RFC 9110, 14.2): HEAD tells the length of the blob.
    const asked = isHead ? undefined : request.headers.range;
    const range = parseRange(asked, size);
    if (range === null) {
      response.setHeader('content-range', `bytes */${size}`);
      return fail(response, 416, 'range outside the blob');
    }
    const isPart = asked !== undefined;
    if (isPart) response.setHeader('content-range', `bytes ${range.first}-${range.last}/${size}`);
    response.writeHead(isPart ? 206 : 200, {
      'content-type': 'application/octet-stream',
      'content-length': range.last - range.first + 1,
      'accept-ranges': 'bytes',
      ...(DIGEST.test(name) ? { 'docker-content-digest': `sha256:${name}` } : {}),
    });
    if (isHead || size === 0) return void response.end();
    await send(file, range, response);
  } finally {
    await file.close();
  }
}

/** Name of the file a path asks for: '' for none, null for a blob path without `sha256:`. */
function fileNameOf(url: string): string | null {
  let path: string;
  try {
    path = decodeURIComponent(url.split('?', 1)[0] ?? '');
  } catch {
    return '';
  }
  const parts = path.split('/').slice(1);
  const isBlob = parts.length >= 3 && parts.at(-2) === 'blobs';
  const last = parts.at(-1) ?? '';
  if (isBlob && !last.startsWith(DIGEST_PREFIX)) return null;
  const name = isBlob ? last.slice(DIGEST_PREFIX.length) : last;
  // decodeURIComponent ran before the split: an encoded slash cannot hide in a name.
  return (isBlob || parts.length === 1) && name !== '.' && name !== '..' && !name.includes('\0') ? name : '';
}

/** null for what is missing, a link, or no regular file. */
async function openPlainFile(path: string): Promise<FileHandle | null> {
  let file: FileHandle;
  try {
    // O_NONBLOCK: a fifo in the directory must not hold the request.
    file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? '';
    if (['ENOENT', 'ELOOP', 'ENAMETOOLONG', 'ENOTDIR', 'ENXIO', 'EACCES'].includes(code)) return null;
    throw error;
  }
  if ((await file.stat()).isFile()) return file;
  await file.close();
  return null;
}

/** First range of a Range header, cut to the file; the whole file without one; null when it lies outside. */
function parseRange(header: string | undefined, size: number): { first: number; last: number } | null {
  if (header === undefined) return { first: 0, last: size - 1 };
  const match = /^bytes=(\d{0,20})-(\d{0,20})(?:,|$)/i.exec(header.trim());
  if (match === null || (match[1] === '' && match[2] === '')) return null;
  const suffix = match[1] === '' ? Number(match[2]) : null;
  const first = suffix === null ? Number(match[1]) : Math.max(0, size - suffix);
  const last = suffix === null && match[2] !== '' ? Math.min(Number(match[2]), size - 1) : size - 1;
  return first <= last && suffix !== 0 ? { first, last } : null;
}

function send(file: FileHandle, range: { first: number; last: number }, response: ServerResponse): Promise<void> {
  return new Promise((resolve, reject) => {
    const stream = createReadStream('', { fd: file, start: range.first, end: range.last, autoClose: false });
    stream.on('error', reject);
    response.on('close', () => {
      stream.destroy();
      resolve();
    });
    stream.pipe(response);
  });
}

function fail(response: ServerResponse, status: number, text: string): void {
  response.writeHead(status, { 'content-type': 'text/plain' }).end(`${text}\n`);
}
