/** What a takeover keeps, what it refuses, and what becomes of requests that were under way (kata-contract 4.6). */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { basename, join } from 'node:path';
import { after, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { FailoverRig, HANG_MS_MAX, inState, isMounted, kernelCanResend, put } from './failover-rig.ts';
import { FaultServer } from './fault-server.ts';

const run = promisify(execFile);
const needsResend = { skip: kernelCanResend() ? false : 'the kernel has no FUSE_NOTIFY_RESEND' };

/** Hashes a file in a process of its own, past the page cache: the kernel would try a failed read-ahead again. */
async function hash(path: string): Promise<string> {
  const script = `dd if=${path} iflag=direct bs=64k status=none | sha256sum`;
  return (await run('bash', ['-o', 'pipefail', '-c', script])).stdout.split(' ')[0]!;
}

describe('requests that a dead daemon had not answered', needsResend, () => {
  for (const policy of ['resend', 'flush'] as const) {
    for (const end of ['kill -9', 'live upgrade'] as const) {
      test(`${policy}, ${end}`, async () => {
        const rig = new FailoverRig('shared', policy);
        const registry = await FaultServer.start(rig.image.blobs);
        try {
          rig.configure('registry', { scheme: 'http', host: registry.host, repo: 'r' });
          await rig.start();
          await rig.mount('/5');
          await registry.mode('hang');
          const file = join(rig.mountpoint, '5/data/3');
          const reading = hash(file).catch((error: Error) => error);
          const waits = async () => (await registry.mode('hang')).requests > 0;
          while (!(await waits())) await sleep(20);
          await registry.mode('ok'); // what it has taken it never answers
          await (end === 'kill -9' ? rig.crash() : rig.upgrade());
          const read = await Promise.race([reading, sleep(HANG_MS_MAX, 'hangs')]);
          if (policy === 'resend') assert.equal(read, rig.image.sums['data/3']);
          else assert.match(String(read), /Input\/output error/);
          assert.equal(await hash(file), rig.image.sums['data/3']);
          const lost = /--failover-policy flush: requests not answered .* fail with EIO/;
          assert.equal(lost.test(rig.daemon!.output), policy === 'flush');
        } finally {
          registry.stop();
          await rig.stop();
        }
      });
    }
  }
});

describe("the order of upstream's own test: exit, then takeover, state saved again before start", needsResend, () => {
  const rig = new FailoverRig('shared');
  after(() => rig.stop());
  test('the mount goes on', async () => {
    const old = await rig.start();
    await rig.mount('/');
    await put(old, '/api/v1/daemon/exit');
    assert.equal((await old.ended).code, 0);
    assert.ok(isMounted(rig.mountpoint), 'exit leaves the mount to the successor');
    rig.supervisor.sendStates();
    rig.daemon = rig.launch(join(rig.dir, 'next.sock'), true);
    await inState(rig.daemon, 'INIT');
    await put(rig.daemon, '/api/v1/daemon/fuse/takeover');
    await rig.save();
    await put(rig.daemon, '/api/v1/daemon/start');
    await rig.check(rig.mountpoint, 0);
    const { backend_collection: mounts } = await rig.daemon.info();
    assert.deepEqual(Object.keys(mounts), ['/']);
  });
});

/** A registry with credentials, an image of it mounted, and who asked it with which. */
class GuardedRegistry {
  /** Credentials that are let in. */
  accepted = 'first:1';
  private readonly server = createServer((call, reply) => this.answer(call, reply));

  constructor(private readonly dir: string) {}

  async listen(): Promise<string> {
    await new Promise<void>((resolve) => this.server.listen(0, '127.0.0.1', resolve));
    return `127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  close(): void {
    this.server.closeAllConnections();
    this.server.close();
  }

  private answer(call: IncomingMessage, reply: ServerResponse): void {
    if (call.headers.authorization !== `Basic ${base64(this.accepted)}`) {
      return void reply.writeHead(401, { 'www-authenticate': 'Basic realm="r"' }).end();
    }
    const bytes = readFileSync(join(this.dir, basename(call.url ?? '').replace('sha256:', '')));
    const [, from = '0', to = `${bytes.length - 1}`] = /^bytes=(\d+)-(\d+)$/.exec(call.headers.range ?? '') ?? [];
    const body = bytes.subarray(Number(from), Number(to) + 1);
    const range = `bytes ${from}-${Number(from) + body.length - 1}/${bytes.length}`;
    reply.writeHead(206, { 'content-length': `${body.length}`, 'content-range': range }).end(body);
  }
}

const base64 = (text: string) => Buffer.from(text).toString('base64');

describe('credentials', needsResend, () => {
  for (const mode of ['dedicated', 'shared'] as const) {
    test(`${mode}: those changed by the API, or in the configuration file since, are the successor's; no log has them`, async () => {
      const rig = new FailoverRig(mode);
      const registry = new GuardedRegistry(rig.image.blobs);
      const configure = (host: string, auth: string) =>
        rig.configure('registry', { scheme: 'http', host, repo: 'r', auth: base64(auth) });
      try {
        const host = await registry.listen();
        configure(host, 'first:1');
        await rig.start();
        if (mode === 'shared') await rig.mount('/5');
        const root = join(rig.mountpoint, mode === 'shared' ? '5' : '');
        assert.equal(await hash(join(root, 'data/0')), rig.image.sums['data/0']);
        registry.accepted = 'second:2';
        const id = mode === 'shared' ? '%2F5' : '%2F';
        const change = await rig.daemon!.request(
          'PUT',
          `/api/v1/config?id=${id}`,
          JSON.stringify({ registry_auth: base64('second:2') }),
        );
        assert.equal(change.status, 204, change.text);
        await rig.save();
        assert.ok(rig.supervisor.data.includes(base64('second:2')), 'the successor needs them');
        let said = rig.daemon!.output;
        await rig.crash();
        assert.equal(await hash(join(root, 'data/5')), rig.image.sums['data/5']);
        said += rig.daemon!.output;
        if (mode === 'dedicated') {
          registry.accepted = 'third:3';
          configure(host, 'third:3');
          await rig.crash();
          assert.equal(await hash(join(root, 'data/11')), rig.image.sums['data/11']);
          said += rig.daemon!.output;
        }
        for (const secret of ['first:1', 'second:2', 'third:3']) assert.ok(!said.includes(base64(secret)), said);
      } finally {
        registry.close();
        await rig.stop();
      }
    });
  }

  test('those of the environment count for a configuration file that was written anew, too', async () => {
    const rig = new FailoverRig('dedicated');
    const registry = new GuardedRegistry(rig.image.blobs);
    registry.accepted = 'environment:1';
    try {
      process.env['IMAGE_PULL_AUTH'] = base64(registry.accepted);
      const host = await registry.listen();
      for (const [auth, file] of [
        ['file:1', 'data/0'],
        ['file:2', 'data/5'],
      ] as const) {
        rig.configure('registry', { scheme: 'http', host, repo: 'r', auth: base64(auth) });
        await (rig.daemon === null ? rig.start() : rig.crash());
        assert.equal(await hash(join(rig.mountpoint, file)), rig.image.sums[file]);
      }
    } finally {
      delete process.env['IMAGE_PULL_AUTH'];
      registry.close();
      await rig.stop();
    }
  });
});

test('the successor finds the bootstrap for what is read and fetched ahead', needsResend, async () => {
  const rig = new FailoverRig('dedicated');
  try {
    await rig.start();
    await rig.crash();
    await hash(join(rig.mountpoint, 'data/5'));
    const trace = await rig.daemon!.get('/api/v1/trace?mountpoint=/');
    assert.match(trace.text, /"\/data\/5"/);
  } finally {
    await rig.stop();
  }
});
