/** What a cold read costs, counted at the server: one file of a 500 MB image, then the same through a second daemon. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { promisify } from 'node:util';
import { skipUnless } from './assets.ts';
import { Daemon, rafsConfig } from './daemon.ts';
import { BlobServer, buildImage, REPO } from './image.ts';

const FILE_BYTES = 2_000_000;
const FILES = 250;
const MEBIBYTE = 1024 ** 2;
const NAME = 'a cold read of a 500 MB image fetches that file, a second daemon on the same cache nothing';

const scratch = mkdtempSync(join(tmpdir(), 'nydus-cold-'));
after(() => rmSync(scratch, { recursive: true, force: true }));

/** SHA-256 of a file read by another process: our event loop serves the blobs meanwhile. */
async function sumOf(path: string): Promise<string> {
  return (await promisify(execFile)('sha256sum', [path])).stdout.slice(0, 64);
}

test(`host: ${NAME}`, { skip: skipUnless('host', NAME) }, async (context) => {
  const source = join(scratch, 'source');
  mkdirSync(source);
  for (let index = 0; index < FILES; index++) writeFileSync(join(source, `file-${index}`), randomBytes(FILE_BYTES));
  const wanted = `file-${FILES / 2}`;
  const content = await sumOf(join(source, wanted));
  const image = buildImage(source, join(scratch, 'image'), 'zstd');
  rmSync(source, { recursive: true });
  const blobs = await BlobServer.start(image.blobDir);
  const config = rafsConfig({ type: 'registry', host: blobs.host, repo: REPO }, join(scratch, 'cache'), true);
  const daemons: Daemon[] = [];
  /** Starts one more daemon on the cache and reads the file through it. */
  const readThrough = async (folder: string): Promise<string> => {
    mkdirSync(join(scratch, folder));
    const daemon = await Daemon.start({ mountpoint: join(scratch, folder) });
    daemons.push(daemon);
    await daemon.mountImage('/image', image.bootstrap, config);
    return await sumOf(join(scratch, folder, 'image', wanted));
  };
  try {
    assert.equal(await readThrough('first'), content);
    const { sentBytes, requests } = blobs;
    context.diagnostic(`${sentBytes} bytes in ${requests} requests for a file of ${FILE_BYTES}`);
    assert.ok(sentBytes >= FILE_BYTES, 'random bytes do not compress: the file itself was fetched');
    assert.ok(sentBytes < FILE_BYTES + MEBIBYTE, `${sentBytes} bytes fetched for ${FILE_BYTES}`);
    blobs.reset();
    assert.equal(await readThrough('second'), content);
    assert.deepEqual([blobs.requests, blobs.sentBytes], [0, 0], 'the second daemon found everything in the cache');
    for (const daemon of daemons) await daemon.stop();
  } finally {
    for (const daemon of daemons) daemon.kill();
    blobs.stop();
  }
});
