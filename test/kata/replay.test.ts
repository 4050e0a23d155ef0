/** Kata's call sequences (contract 1.6–1.9, 11), replayed against the built daemon by `hack/kata/replay`. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { describe, test } from 'node:test';
import { requestBytes } from '../../hack/kata/requests.ts';
import { NYDUSD, REPOSITORY } from '../daemon/nydusd.ts';

const BIN = dirname(NYDUSD);

function replay(...args: string[]): Promise<{ status: number | null; stdout: string; stderr: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(join(REPOSITORY, 'hack/kata/replay'), args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: 120_000,
    });
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    child.on('error', reject);
    child.on('close', (status) => resolve({ status, stdout, stderr }));
  });
}

for (const [runtime, signal] of [
  ['go', 'SIGTERM'],
  ['rs', 'SIGKILL'],
]) {
  test(`start, containers, stop as ${runtime} does it`, async () => {
    const { status, stdout, stderr } = await replay('--bin', BIN, '--runtime', runtime!);
    assert.equal(status, 0, `${stdout}${stderr}`);
    for (const step of [
      'RUNNING after',
      'POST /containers: 204',
      'guest reads etc/file of container c0ffee02, and writes to its snapshot',
      'nothing of it is busy',
    ])
      assert.ok(stdout.includes(step), `no step "${step}" in\n${stdout}`);
    assert.match(stdout, new RegExp(`ended by ${signal} within \\d+ ms\\n$`));
  });
}

test('a daemon that does not start fails the replay', async () => {
  const bin = mkdtempSync(join(tmpdir(), 'replay-bin-'));
  symlinkSync(join(BIN, 'nydus-image'), join(bin, 'nydus-image'));
  writeFileSync(join(bin, 'nydusd'), '#!/bin/sh\necho no luck; exit 1\n');
  chmodSync(join(bin, 'nydusd'), 0o755);
  const { status, stderr } = await replay('--bin', bin, '--runtime', 'go');
  rmSync(bin, { recursive: true });
  assert.deepEqual([status, /FAILED: not RUNNING: no luck/.test(stderr)], [1, true], stderr);
});

describe('requests byte for byte', () => {
  const bytes = (...args: Parameters<typeof requestBytes>) => requestBytes(...args).toString();
  test('Go', () => {
    assert.equal(
      bytes('go', 'GET', '/s', null, null),
      'GET /api/v1/daemon HTTP/1.1\r\nHost: unix\r\nUser-Agent: Go-http-client/1.1\r\nAccept-Encoding: gzip\r\n\r\n',
    );
    assert.equal(
      bytes('go', 'POST', '/s', '/rafs/a/lowerdir', '{}'),
      'POST /api/v1/mount?mountpoint=/rafs/a/lowerdir HTTP/1.1\r\nHost: unix\r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: 2\r\nContent-Type: application/json\r\nAccept-Encoding: gzip\r\n\r\n{}',
    );
    assert.doesNotMatch(bytes('go', 'DELETE', '/s', '/rafs/a/lowerdir', null), /Content-/);
  });
  test('runtime-rs', () => {
    assert.equal(
      bytes('rs', 'POST', '/s', '/rafs/a b/lowerdir', '{}'),
      'POST /api/v1/mount?mountpoint=%2Frafs%2Fa%20b%2Flowerdir HTTP/1.1\r\ncontent-type: application/json\r\nhost: 2f73\r\ncontent-length: 2\r\n\r\n{}',
    );
    assert.match(bytes('rs', 'DELETE', '/s', '/rafs/a/lowerdir', null), /content-length: 0\r\n\r\n$/);
  });
});
