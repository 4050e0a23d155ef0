/** A9: nothing of ten minutes' silence closes a connection. `npm test` runs this file beside all others. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Nydusd } from './nydusd.ts';

const IDLE_MS = 10 * 60_000;
const GET = 'GET /api/v1/daemon HTTP/1.1\r\nHost: unix\r\n\r\n';

async function answer(socket: Socket, rest: string): Promise<string> {
  socket.write(rest);
  let text = '';
  while (!text.endsWith('}')) text += String((await once(socket, 'data'))[0]);
  return text;
}

test('A9: idle connections are open after ten minutes', { timeout: IDLE_MS + 120_000 }, async () => {
  const daemon = await Nydusd.start();
  try {
    const never = await daemon.connectApi();
    const used = await daemon.connectApi();
    assert.match(await answer(used, GET), /RUNNING/);
    const half = await daemon.connectApi();
    half.write(GET.slice(0, 20));
    const vmm = await daemon.connectVmm();
    const closed: string[] = [];
    for (const [name, socket] of Object.entries({ never, used, half, vmm })) {
      for (const event of ['end', 'close', 'error']) socket.on(event, () => closed.push(`${name}: ${event}`));
    }
    await sleep(IDLE_MS);
    assert.deepEqual(closed, []);
    for (const [socket, rest] of [
      [never, GET],
      [used, GET],
      [half, GET.slice(20)],
    ] as const) {
      assert.match(await answer(socket, rest), /^HTTP\/1\.1 200 [\s\S]*RUNNING/);
    }
    // GET_FEATURES, version 1: the reply has 20 bytes.
    vmm.write(Buffer.from('010000000100000000000000', 'hex'));
    assert.equal(((await once(vmm, 'data'))[0] as Buffer).length, 20);
  } finally {
    daemon.kill();
  }
});
