/** Small things that tests of faults and of life and death need: bodies of mounts, and a daemon that must end well. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { type ApiAnswer, FIXTURES, Nydusd } from './nydusd.ts';

export const BLOBS = join(FIXTURES, 'images/blobs');
export const BOOTSTRAP = join(FIXTURES, 'images/boot/v6-zstd-blake3.boot');

export const rafs = (settings: object, source = BOOTSTRAP) => ({
  fs_type: 'rafs',
  source,
  config: JSON.stringify(settings),
});
export const share = (source: string) => ({ fs_type: 'passthrough_fs', source, config: '' });
export const umount = (daemon: Nydusd, where: string) => daemon.request('DELETE', `/api/v1/mount?mountpoint=${where}`);

export function registry(host: string, workDir: string): object {
  mkdirSync(workDir, { recursive: true });
  return {
    device: {
      backend: { type: 'registry', config: { scheme: 'http', host, repo: 'r' } },
      cache: { type: 'blobcache', config: { work_dir: workDir } },
    },
    mode: 'direct',
  };
}

/** The message of an error's JSON body. */
export function failure(answer: ApiAnswer): string {
  const { code, message } = JSON.parse(answer.text) as { code: unknown; message: string };
  assert.equal(code, 'UNDEFINED');
  return message;
}

export async function withDaemon(body: (daemon: Nydusd) => Promise<void>): Promise<void> {
  const daemon = await Nydusd.start();
  try {
    await body(daemon);
  } finally {
    daemon.kill();
  }
}

/** SIGTERM: exit 0 within 1 s, no socket left. */
export async function endsWell(daemon: Nydusd): Promise<void> {
  const { ms, code, signal } = await daemon.stop();
  assert.deepEqual([code, signal], [0, null], daemon.output);
  assert.ok(ms < 1000, `${ms} ms`);
  assert.deepEqual([existsSync(daemon.sock), existsSync(daemon.apisock)], [false, false]);
}
