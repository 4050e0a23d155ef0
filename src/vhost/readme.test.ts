import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { DriverRing } from './driver-ring.ts';
import { ALL_PROTOCOL, ALL_VIRTIO, MIB } from './echo-fixture.ts';
import { Frontend } from './frontend.ts';
import { GuestRam } from './guest-ram.ts';

const CONNECTS_MAX = 500;
const here = fileURLToPath(new URL('.', import.meta.url));

/** The example of README.md, importing from this folder. */
function example(): string {
  const code = /```ts\n([\s\S]*?)```/.exec(readFileSync(join(here, 'README.md'), 'utf8'))?.[1];
  assert.ok(code !== undefined);
  assert.ok(code.trimEnd().split('\n').length <= 50, 'the example is as short as it says');
  return code.replaceAll("'nydusd-ts/vhost'", JSON.stringify(join(here, 'index.ts')));
}

/** Tries until somebody listens, which is a moment after the path is there. */
async function connected(path: string): Promise<Frontend> {
  for (let tries = 1; ; tries++) {
    try {
      return Frontend.connect(path);
    } catch (error) {
      if (tries === CONNECTS_MAX) throw error;
      await delay(20);
    }
  }
}

test('the example of README.md serves one frontend after the other, in a process of its own', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'vhost-example-'));
  const script = join(directory, 'inverter.mts');
  const path = join(directory, 'sock');
  writeFileSync(script, example());
  const child = spawn(process.execPath, ['--import', 'tsx', script, path], {
    cwd: join(here, '../..'),
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  try {
    for (let session = 0; session < 3; session++) {
      const frontend = await connected(path);
      frontend.negotiate(ALL_VIRTIO, ALL_PROTOCOL);
      const ram = new GuestRam([{ gpa: 0, bytes: 4 * MIB }]);
      frontend.shareMemory(ram);
      const ring = new DriverRing(ram, 64);
      frontend.startRing(0, ring);
      const data = ram.alloc(128);
      for (let i = 0; i < 1000; i++) {
        const at = data + (i % 8) * 16;
        ram.write(at, Uint8Array.of(i & 0xff, 0));
        const head = ring.addIndirect([
          { gpa: at, bytes: 1, writable: false },
          { gpa: at + 1, bytes: 1, writable: true },
        ]);
        ring.submit();
        assert.equal(ring.waitUsed(5000), head);
        assert.deepEqual([...ram.read(at, 2)], [i & 0xff, ~i & 0xff]);
      }
      assert.equal(frontend.stopRing(0), 1000);
      frontend.close();
      ring.close();
      ram.free();
    }
  } finally {
    child.kill('SIGKILL');
    await once(child, 'exit');
    rmSync(directory, { recursive: true });
  }
});
