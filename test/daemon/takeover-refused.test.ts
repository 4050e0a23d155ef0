/** What is no state to go on with is refused whole: the daemon stays INIT, says why, and can still take over later. */
import assert from 'node:assert/strict';
import { copyFileSync, mkdtempSync, readdirSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { decodeState, encodeState, type SavedDaemon } from '../../src/daemon/failover/state.ts';
import { close } from '../../src/sys/io.ts';
import { O, openPath } from '../../src/sys/path.ts';
import { FailoverRig, inState, isMounted, kernelCanResend, mountsOn, put } from './failover-rig.ts';
import { type ApiAnswer, Nydusd } from './nydusd.ts';

const TAKEOVER = '/api/v1/daemon/fuse/takeover';
const SENDFD = '/api/v1/daemon/fuse/sendfd';
const START = '/api/v1/daemon/start';

const openFds = (daemon: Nydusd): number => readdirSync(`/proc/${daemon.pid}/fd`).length;

describe('a state that cannot be used', () => {
  const rig = new FailoverRig('shared');
  let next: Nydusd;
  let saved: Buffer<ArrayBuffer>;
  /** Open in the daemon after each refusal. */
  const fdsAfter: number[] = [];
  before(async () => {
    await rig.start();
    await rig.mount('/5');
    ({ data: saved } = rig.supervisor);
    await rig.daemon!.stop('SIGKILL');
    next = rig.launch();
    rig.daemon = next;
    await inState(next, 'INIT');
  });
  after(() => rig.stop());

  const patched = (at: number, value: number): Buffer<ArrayBuffer> => {
    const bytes = Buffer.from(saved);
    bytes[at] = value;
    return bytes;
  };
  const edited = (edit: (state: SavedDaemon) => void): Buffer<ArrayBuffer> => {
    const state = decodeState(saved);
    edit(state);
    return encodeState(state);
  };
  const CASES: readonly [name: string, bytes: () => Buffer<ArrayBuffer>, says: RegExp][] = [
    ['nothing', () => Buffer.alloc(0), /the supervisor has none/],
    ["upstream's", () => Buffer.from(`\x11\x00FusedevBackendState${'.'.repeat(200)}`), /not saved by this nydusd/],
    ['cut off in its head', () => saved.subarray(0, 20), /cut off after 20 bytes/],
    ['cut off in its body', () => saved.subarray(0, -10), /should have \d+ bytes and has \d+/],
    ['of a newer version', () => patched(8, 2), /version 2, this nydusd reads 1/],
    ['with another bit', () => patched(saved.length - 40, saved.at(-40)! ^ 1), /checksum is wrong/],
    ['of another mount point', () => edited((s) => Object.assign(s, { mountpoint: '/other' })), /daemon on \/other/],
    ['without its mounts', () => edited((s) => Object.assign(s, { mounts: [] })), /do not add up/],
    ['with another mount', () => edited((s) => Object.assign(s.mounts[0]!, { path: '/6' })), /what is mounted on \/5/],
    [
      'with broken tables',
      () => edited((s) => Object.assign(s.device, { arena: Buffer.from('no') })),
      /a dump of 2 bytes/,
    ],
    ['of no session', () => edited((s) => Object.assign(s.device.session, { version: 9 })), /version 9/],
    [
      'with a bad configuration',
      () => edited((s) => Object.assign(s.mounts[0]!.request, { config: '{}' })),
      /MOUNT_FAILED|CONFIG/,
    ],
  ];
  for (const [name, bytes, says] of CASES) {
    test(name, async () => {
      rig.supervisor.data = bytes();
      await refused(says);
    });
  }

  test('with no descriptor, or another file than /dev/fuse', async () => {
    rig.supervisor.data = saved;
    const fuse = rig.supervisor.fd;
    rig.supervisor.fd = -1;
    await refused(/0 descriptors came with it/);
    rig.supervisor.fd = openPath('/dev/null', O.RDWR);
    await refused(/is \/dev\/null, not \/dev\/fuse/);
    close(rig.supervisor.fd);
    rig.supervisor.fd = fuse;
  });

  test('an image that was written or is gone', async () => {
    const { bootstrap } = rig.image;
    const kept = `${bootstrap}.kept`;
    rig.supervisor.data = saved;
    renameSync(bootstrap, kept);
    await refused(/image\.boot.*ENOENT/);
    copyFileSync(kept, bootstrap);
    await refused(/replaced or written since it was mounted/);
    renameSync(kept, bootstrap);
  });

  test('nobody on the supervisor socket', async () => {
    const { status, text } = await next.request('PUT', TAKEOVER);
    assert.equal(status, 500);
    assert.match(text, /^{"code":"UNDEFINED","message":"Upgrade\(.*SUPERVISOR: .*connect: ENOENT/);
  });

  test('events of other states', async () => {
    const answers: [ApiAnswer, number, RegExp][] = [
      [await next.request('PUT', START), 400, /Configure\(DaemonAbnormal\(UnexpectedEvent\(\\"Start\\"\)\)\)/],
      [await next.request('PUT', SENDFD), 503, /Upgrade\(DaemonAbnormal\(NotReady\)\)/],
      [await next.mount('/x', { source: '/', fs_type: 'passthrough_fs', config: '' }), 503, /NotReady/],
    ];
    for (const [{ status, text }, expected, message] of answers) {
      assert.equal(status, expected);
      assert.match(text, message);
    }
  });

  test('after all of these the good one is taken, and no descriptor is left of the others', {
    skip: !kernelCanResend(),
  }, async () => {
    rig.supervisor.data = saved;
    rig.supervisor.sendStates();
    // Whole images were opened and given back in between; what is open beyond the first time are connections that end.
    assert.ok(fdsAfter.at(-1)! <= fdsAfter[0]! + 4, `descriptors: ${fdsAfter.join(' ')}`);
    await put(next, TAKEOVER);
    assert.equal((await next.request('PUT', TAKEOVER)).status, 400);
    await put(next, START);
    await rig.check(join(rig.mountpoint, '5'), 1);
    for (const path of [TAKEOVER, START]) assert.equal((await next.request('PUT', path)).status, 400, path);
  });

  /** A takeover that must fail, leave INIT and all descriptors as they were, and say why. */
  async function refused(says: RegExp): Promise<void> {
    const { given } = rig.supervisor.sendStates();
    const { status, text } = await next.request('PUT', TAKEOVER);
    await given.catch(() => {});
    assert.equal(status, 500, text);
    assert.match(text, says);
    await next.printed(/ERROR.* cannot take over /);
    assert.equal((await next.info()).state, 'INIT');
    assert.deepEqual((await next.info()).backend_collection, {});
    fdsAfter.push(openFds(next));
  }
});

describe('ends', () => {
  test('SIGTERM in INIT and in READY leaves the mount, in RUNNING it unmounts', {
    skip: !kernelCanResend(),
  }, async () => {
    const rig = new FailoverRig('shared');
    try {
      await rig.start();
      await rig.daemon!.stop('SIGKILL');
      for (const [state, steps] of [
        ['INIT', []],
        ['READY', [TAKEOVER]],
        ['RUNNING', [TAKEOVER, START]],
      ] as const) {
        rig.supervisor.sendStates();
        const next = rig.launch(join(rig.dir, `${state}.sock`), true);
        await inState(next, 'INIT');
        for (const step of steps) await put(next, step);
        const { ms, code } = await next.stop();
        assert.equal(code, 0, next.output);
        assert.ok(ms < 1000, `${state}: ${ms} ms`);
        assert.equal(isMounted(rig.mountpoint), state !== 'RUNNING', state);
      }
    } finally {
      await rig.stop();
    }
  });
});

describe('without what it takes', () => {
  let dir: string;
  before(() => {
    dir = mkdtempSync(join(tmpdir(), 'unsupervised-'));
  });
  after(() => rmSync(dir, { recursive: true, force: true }));

  test('a host directory cannot be handed over: sendfd says so, and the supervisor does not wait', async () => {
    const rig = new FailoverRig('shared');
    try {
      await rig.start();
      const kept = rig.supervisor.data;
      const body = { source: dir, fs_type: 'passthrough_fs', config: '' };
      assert.equal((await rig.daemon!.mount('/share', body)).status, 204);
      let answer: ApiAnswer | null = null;
      const fetched = rig.supervisor.fetchStates(async () => {
        answer = await rig.daemon!.request('PUT', SENDFD);
      });
      await assert.rejects(fetched, /received 0/);
      assert.equal(answer!.status, 500);
      assert.match(answer!.text, /\/share is a host directory/);
      assert.equal(rig.supervisor.data, kept);
    } finally {
      await rig.stop();
    }
  });

  test('no supervisor: nothing is kept, and a dead mount point is mounted anew', async () => {
    const mountpoint = mkdtempSync(join(dir, 'a mount point '));
    // mountinfo has the directory, wherever links to it were given.
    symlinkSync(basename(mountpoint), join(dir, 'link'));
    symlinkSync('link', join(dir, 'link to it'));
    const start = async (...argv: string[]): Promise<Nydusd> => {
      const daemon = new Nydusd(
        (_, apisock) => [...argv, 'fuse', '--apisock', apisock, '--mountpoint', join(dir, 'link to it')],
        dir,
      );
      await inState(daemon, argv.length > 0 ? 'INIT' : 'RUNNING');
      return daemon;
    };
    const first = await start();
    const missing = /Upgrade\(DaemonAbnormal\(UpgradeManager\(MissingSupervisorPath\)\)\)/;
    assert.match((await first.request('PUT', SENDFD)).text, missing);
    await first.stop('SIGKILL');
    const waiting = await start('--upgrade');
    assert.match((await waiting.request('PUT', TAKEOVER)).text, missing);
    assert.equal((await waiting.stop()).code, 0);
    const second = await start();
    await second.printed(/the file system of a dead daemon was detached/);
    assert.deepEqual(readdirSync(mountpoint), []);
    assert.equal(mountsOn(mountpoint), 1);
    // Without anybody to go on, exit unmounts too.
    await put(second, '/api/v1/daemon/exit');
    assert.equal((await second.ended).code, 0);
    assert.equal(isMounted(mountpoint), false);
  });
});
