/**
 * What nydus-snapshotter sends (kata-contract 11), byte for byte in the form of Go's net/http, on the connections it
 * uses: one that is opened and never used, whose end means death; one that asks; one for each change.
 */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { FailoverRig, isMounted } from '../daemon/failover-rig.ts';
import type { Nydusd } from '../daemon/nydusd.ts';

const GO = 'User-Agent: Go-http-client/1.1\r\n';
const get = (target: string): string => `GET ${target} HTTP/1.1\r\nHost: unix\r\n${GO}Accept-Encoding: gzip\r\n\r\n`;
const put = (target: string): string =>
  `PUT ${target} HTTP/1.1\r\nHost: unix\r\n${GO}Content-Length: 0\r\nAccept-Encoding: gzip\r\n\r\n`;
const post = (target: string, body: string): string =>
  `POST ${target} HTTP/1.1\r\nHost: unix\r\n${GO}Content-Length: ${Buffer.byteLength(body)}\r\n` +
  `Content-Type: application/json\r\nAccept-Encoding: gzip\r\n\r\n${body}`;
const remove = (target: string): string =>
  `DELETE ${target} HTTP/1.1\r\nHost: unix\r\n${GO}Accept-Encoding: gzip\r\n\r\n`;

const SENDFD = '/api/v1/daemon/fuse/sendfd';
const DONE = /^HTTP\/1\.1 204 No Content\r\n(?!.*content-length|.*transfer-encoding).*\r\n\r\n$/is;

class Connection {
  private text = '';
  private waiting: (() => void) | null = null;
  ends = 0;

  private constructor(private readonly socket: Socket) {
    socket.on('data', (part) => {
      this.text += part.toString('latin1');
      this.waiting?.();
    });
    socket.on('end', () => this.ends++);
    socket.on('error', () => {});
  }

  static async open(daemon: Nydusd): Promise<Connection> {
    const socket = connect({ path: daemon.apisock, allowHalfOpen: true });
    await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject));
    return new Connection(socket);
  }

  /** Sends these bytes; the whole answer. */
  async exchange(request: string): Promise<string> {
    this.text = '';
    this.socket.write(request);
    while (!isWhole(this.text)) {
      await new Promise<void>((resolve) => {
        this.waiting = resolve;
      });
    }
    return this.text;
  }

  close(): void {
    this.socket.destroy();
  }
}

function isWhole(text: string): boolean {
  const end = text.indexOf('\r\n\r\n');
  if (end < 0) return false;
  const length = Number(/^content-length: (\d+)/im.exec(text.slice(0, end))?.[1] ?? 0);
  return text.length >= end + 4 + length;
}

const bodyOf = (answer: string): unknown => JSON.parse(answer.slice(answer.indexOf('\r\n\r\n') + 4));

for (const mode of ['dedicated', 'shared'] as const) {
  describe(`a ${mode} daemon`, { skip: existsSync('/dev/fuse') ? false : 'no /dev/fuse' }, () => {
    const rig = new FailoverRig(mode);
    let daemon: Nydusd;
    let liveness: Connection;
    let asking: Connection;
    before(async () => {
      daemon = rig.launch();
      rig.daemon = daemon;
      await daemon.running();
      liveness = await Connection.open(daemon);
      asking = await Connection.open(daemon);
    });
    after(() => rig.stop());

    /** A change of the mounts on a connection of its own, then the state to the supervisor. */
    const change = async (request: string): Promise<void> => {
      const connection = await Connection.open(daemon);
      assert.match(await connection.exchange(request), DONE);
      await saved();
      connection.close();
    };
    const saved = () => rig.supervisor.fetchStates(async () => assert.match(await asking.exchange(put(SENDFD)), DONE));

    test('RUNNING, its commit, its cache files; state saved', async () => {
      const third = await Connection.open(daemon);
      for (const connection of [asking, third]) {
        const answer = await connection.exchange(get('/api/v1/daemon'));
        assert.match(answer, /^HTTP\/1\.1 200 OK\r\n/);
        const info = bodyOf(answer) as { state: string; id: string; version: { git_commit: string } };
        assert.deepEqual([info.state, info.id], ['RUNNING', 'd1']);
        assert.notEqual(info.version.git_commit, '');
      }
      third.close();
      if (mode === 'dedicated') {
        for (let i = 0; i < 3; i++) {
          const cache = bodyOf(await asking.exchange(get('/api/v1/metrics/blobcache'))) as {
            underlying_files: string[];
          };
          assert.match(cache.underlying_files[0]!, /^[0-9a-f]{64}\.blob\.data$/);
        }
      }
      await saved();
      assert.ok(rig.supervisor.data.length > 0);
    });

    if (mode === 'shared') {
      test('mount, cache files by id, umount; state saved after each', async () => {
        const config = readFileSync(rig.configFile, 'utf8');
        const body = JSON.stringify({ fs_type: 'rafs', source: rig.image.bootstrap, config });
        await change(post('/api/v1/mount?mountpoint=%2F5', body));
        assert.ok(existsSync(join(rig.mountpoint, '5/data/0')));
        const cache = bodyOf(await asking.exchange(get('/api/v1/metrics/blobcache?id=%2F5'))) as {
          underlying_files: string[];
        };
        assert.equal(cache.underlying_files.length, 1);
        await change(remove('/api/v1/mount?mountpoint=%2F5'));
        // The kernel trusts names of mount points for a second.
        await sleep(1100);
        assert.ok(!existsSync(join(rig.mountpoint, '5')));
      });
    }

    test('kill -9, the same words again: INIT, takeover, start, RUNNING; one hang-up on the unused connection', async () => {
      assert.equal(liveness.ends, 0, 'a hang-up while the daemon lives');
      await daemon.stop('SIGKILL');
      for (let i = 0; i < 100 && liveness.ends === 0; i++) await sleep(10);
      assert.equal(liveness.ends, 1);
      const { given } = rig.supervisor.sendStates();
      daemon = rig.launch(daemon.apisock);
      rig.daemon = daemon;
      while (!existsSync(daemon.apisock) || !(await stateOf(daemon).catch(() => null))) {
        assert.equal(daemon.child.exitCode, null, daemon.output);
        await sleep(10);
      }
      assert.equal(await stateOf(daemon), 'INIT');
      asking = await Connection.open(daemon);
      assert.match(await asking.exchange(put('/api/v1/daemon/fuse/takeover')), DONE);
      await given;
      assert.match(await asking.exchange(put('/api/v1/daemon/start')), DONE);
      assert.equal(await stateOf(daemon), 'RUNNING');
      await saved();
      assert.ok(isMounted(rig.mountpoint));
      if (mode === 'dedicated') {
        // A name nobody has asked for: what the kernel knows already comes to no daemon.
        assert.ok(!existsSync(join(rig.mountpoint, 'not there')));
        // Requests are charged after their replies are out.
        const hits = async (): Promise<number> => {
          const { fop_hits } = bodyOf(await asking.exchange(get('/api/v1/metrics'))) as { fop_hits: number[] };
          return fop_hits.reduce((sum, n) => sum + n, 0);
        };
        for (let i = 0; i < 100 && (await hits()) === 0; i++) await sleep(10);
        assert.ok((await hits()) > 0, 'a mount that was taken over is not counted');
      }
    });
  });
}

async function stateOf(daemon: Nydusd): Promise<string> {
  const connection = await Connection.open(daemon);
  const { state } = bodyOf(await connection.exchange(get('/api/v1/daemon'))) as { state: string };
  connection.close();
  return state;
}
