/** `Type=notify` of our systemd unit: what the daemon sends to NOTIFY_SOCKET, and when. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { NYDUSD, Nydusd } from './nydusd.ts';

/** Node has no Unix datagrams: Python listens, and prints each as a line of JSON. */
const LISTENER = `
import json, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
name = sys.argv[1]
s.bind('\\0' + name[1:] if name.startswith('@') else name)
print('bound', flush=True)
while True: print(json.dumps(s.recv(4096).decode()), flush=True)
`;

for (const kind of ['a path', 'an abstract name']) {
  test(`READY=1 when RUNNING, STOPPING=1 at the end, to ${kind}`, async (t) => {
    const dir = mkdtempSync(join(tmpdir(), 'notify-'));
    const name = kind === 'a path' ? join(dir, 'notify') : `@nydusd-test-${process.pid}`;
    const listener = spawn('python3', ['-c', LISTENER, name], { stdio: ['ignore', 'pipe', 'inherit'] });
    let heard = '';
    listener.stdout.setEncoding('utf8').on('data', (text: string) => {
      heard += text;
    });
    const failed = await Promise.race([once(listener, 'error'), once(listener.stdout, 'data').then(() => null)]);
    if (failed !== null) return t.skip('python3, which listens, is not installed');
    const daemon = new Nydusd(undefined, dir, ['env', `NOTIFY_SOCKET=${name}`, NYDUSD]);
    try {
      await daemon.running();
      while (!heard.includes('READY')) await once(listener.stdout, 'data');
      assert.equal(heard, `bound\n${JSON.stringify('READY=1\nSTATUS=RUNNING as virtiofs')}\n`);
      daemon.child.kill('SIGTERM');
      await daemon.ended;
      while (!heard.includes('STOPPING')) await once(listener.stdout, 'data');
      assert.ok(heard.endsWith(`\n${JSON.stringify('STOPPING=1')}\n`), heard);
    } finally {
      daemon.kill();
      listener.kill();
      rmSync(dir, { recursive: true, force: true });
    }
  });
}

test('a manager that is gone is a warning', async () => {
  const daemon = new Nydusd(undefined, undefined, ['env', 'NOTIFY_SOCKET=/nonexistent/notify', NYDUSD]);
  try {
    await daemon.running();
    await daemon.printed(/WARN cannot tell the service manager on \/nonexistent\/notify "READY=1.*ENOENT/);
  } finally {
    daemon.kill();
  }
});
