/** `Type=notify` of our systemd unit: what the daemon sends to NOTIFY_SOCKET, and when. */
import assert from 'node:assert/strict';
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
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

const NO_PYTHON = 'python3, which listens, is not installed';

/** A script in the place of the service manager; its first output says that it is there. */
class Manager {
  heard = '';

  private constructor(readonly child: ChildProcessByStdio<Writable, Readable, null>) {
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      this.heard += text;
    });
  }

  /** @returns null without Python */
  static async start(script: string, name: string): Promise<Manager | null> {
    const child = spawn('python3', ['-c', script, name], { stdio: ['pipe', 'pipe', 'inherit'] });
    const manager = new Manager(child);
    const failed = await Promise.race([once(child, 'error'), once(child.stdout, 'data').then(() => null)]);
    return failed === null ? manager : null;
  }

  async hears(text: string): Promise<void> {
    while (!this.heard.includes(text)) await once(this.child.stdout, 'data');
  }
}

for (const kind of ['a path', 'an abstract name']) {
  test(`READY=1 when RUNNING, STOPPING=1 at the end, to ${kind}`, async (t) => {
    const dir = mkdtempSync(join(tmpdir(), 'notify-'));
    const name = kind === 'a path' ? join(dir, 'notify') : `@nydusd-test-${process.pid}`;
    const manager = await Manager.start(LISTENER, name);
    if (manager === null) return t.skip(NO_PYTHON);
    const daemon = new Nydusd(undefined, dir, ['env', `NOTIFY_SOCKET=${name}`, NYDUSD]);
    try {
      await daemon.running();
      await manager.hears('READY');
      assert.equal(manager.heard, `bound\n${JSON.stringify('READY=1\nSTATUS=RUNNING as virtiofs')}\n`);
      daemon.child.kill('SIGTERM');
      await daemon.ended;
      await manager.hears('STOPPING');
      assert.ok(manager.heard.endsWith(`\n${JSON.stringify('STOPPING=1')}\n`), manager.heard);
    } finally {
      daemon.kill();
      manager.child.kill();
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
  const manager = await Manager.start(BUSY, name);
  if (manager === null) return t.skip(NO_PYTHON);
  const start = () => new Nydusd(undefined, mkdtempSync(join(dir, 'run-')), ['env', `NOTIFY_SOCKET=${name}`, NYDUSD]);
  const [ending, staying] = [start(), start()];
  try {
    await ending.running();
    assert.equal((await ending.stop()).code, 0);
    await staying.running();
    assert.doesNotMatch(manager.heard, /READY/);
    manager.child.stdin.end();
    await manager.hears('READY');
  } finally {
    ending.kill();
    staying.kill();
    manager.child.kill();
    rmSync(dir, { recursive: true, force: true });
  }
});
