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

/** Its queue is full, and it takes nothing before its stdin ends. */
const BUSY = `
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
c = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
c.setblocking(False)
c.connect(sys.argv[1])
try:
    while True: c.send(b'x')
except BlockingIOError: print('full', flush=True)
sys.stdin.read()
while True: print(s.recv(4096).decode(), flush=True)
`;

test('a manager that takes nothing holds up neither start nor end; READY=1 comes when it does', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'notify-'));
  const name = join(dir, 'notify');
  const manager = spawn('python3', ['-c', BUSY, name], { stdio: ['pipe', 'pipe', 'inherit'] });
  let heard = '';
  manager.stdout.setEncoding('utf8').on('data', (text: string) => {
    heard += text;
  });
  const failed = await Promise.race([once(manager, 'error'), once(manager.stdout, 'data').then(() => null)]);
  if (failed !== null) return t.skip('python3, which listens, is not installed');
  const start = () => new Nydusd(undefined, mkdtempSync(join(dir, 'run-')), ['env', `NOTIFY_SOCKET=${name}`, NYDUSD]);
  const [ending, staying] = [start(), start()];
  try {
    await ending.running();
    assert.equal((await ending.stop()).code, 0);
    await staying.running();
    assert.doesNotMatch(heard, /READY/);
    manager.stdin.end();
    while (!heard.includes('READY')) await once(manager.stdout, 'data');
  } finally {
    ending.kill();
    staying.kill();
    manager.kill();
    rmSync(dir, { recursive: true, force: true });
  }
});
