/** Daemons that share one cache directory: two of ours and ten readers, one of them killed, and upstream's beside ours. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { FuseClient, readArgs } from '../../src/virtiofs/testing/fuse-client.ts';
import { imageOf, readyChunks, refetchedOf } from '../chaos/images.ts';
import { FaultServer } from './fault-server.ts';
import { type Argv, FIXTURES, KATA_ARGV, Nydusd } from './nydusd.ts';

const ROOT = mkdtempSync(join(tmpdir(), 'shared-cache-'));
const IMAGES = join(FIXTURES, 'images');
const BLOBS = join(IMAGES, 'blobs');
const READ_BYTES = 64 << 10;
const WAIT_MS = 30_000;
const INIT_MS = 10_000;

interface Expected {
  path: string;
  path_base64?: boolean;
  type: string;
  size: number;
  sha256: string;
}

interface OpenFile extends Expected {
  nodeid: bigint;
  fh: bigint;
}

const filesOf = (tree: string): Expected[] =>
  (JSON.parse(readFileSync(join(IMAGES, `expect/${tree}.json`), 'utf8')) as Expected[]).filter(
    ({ type, size, path_base64 }) => type === 'file' && size > 0 && path_base64 !== true,
  );

let server: FaultServer;
before(async () => {
  server = await FaultServer.start(BLOBS);
});
after(() => {
  server.stop();
  rmSync(ROOT, { recursive: true, force: true });
});

function freshDir(): string {
  return mkdtempSync(join(ROOT, 'cache-'));
}

function config(workDir: string, more: object = {}, backend?: object): string {
  const registry = { type: 'registry', config: { scheme: 'http', host: server.host, repo: 'r' } };
  const cache = { type: 'blobcache', config: { work_dir: workDir }, ...more };
  return JSON.stringify({ device: { backend: backend ?? registry, cache }, mode: 'direct' });
}

/** A daemon with an image at /i and a client of it. */
class Bed {
  private constructor(
    readonly daemon: Nydusd,
    readonly client: FuseClient,
  ) {}

  static async start(image: string, settings: string, command?: readonly string[], tries = 4): Promise<Bed> {
    // Upstream's raises its limit of files unless told not to, which not every machine lets it.
    const argv: Argv = (...socks) => [...KATA_ARGV(...socks), '--rlimit-nofile', '0'];
    const daemon = new Nydusd(argv, undefined, command);
    await daemon.running();
    const body = { fs_type: 'rafs', source: join(IMAGES, `boot/${image}.boot`), config: settings };
    const answer = await daemon.mount('/i', body);
    assert.equal(answer.status, 204, answer.text);
    const isTheirs = command !== undefined;
    const client = new FuseClient(daemon.sock, { timeoutMs: INIT_MS, queueSize: 256, ignoresUsedLength: isTheirs });
    const bed = new Bed(daemon, client);
    try {
      client.init();
    } catch (error) {
      bed.end();
      // Upstream's 2.2 now and then misses the first kick.
      if (!isTheirs || tries === 0) throw error;
      return Bed.start(image, settings, command, tries - 1);
    }
    client.timeoutMs = WAIT_MS;
    return bed;
  }

  readAll(files: readonly Expected[]): void {
    for (const file of files) {
      const content = this.client.readFile(`/i/${file.path}`);
      assert.equal(createHash('sha256').update(content).digest('hex'), file.sha256, file.path);
    }
  }

  end(): void {
    this.client.close();
    this.daemon.kill();
  }
}

/** Reads all files one after the other, from another start than the others, with one READ under way at a time. */
class Reader {
  private position = 0;
  private offset = 0;
  private hash = createHash('sha256');

  constructor(
    private readonly client: FuseClient,
    private readonly files: readonly OpenFile[],
    private readonly start: number,
  ) {}

  private get file(): OpenFile {
    return this.files[(this.start + this.position) % this.files.length]!;
  }

  /** Head of the next READ, null when all are read. */
  next(): number | null {
    if (this.position === this.files.length) return null;
    const { nodeid, fh } = this.file;
    return this.client.submit('READ', readArgs(fh, this.offset, READ_BYTES), { nodeid, replyBytes: READ_BYTES });
  }

  take(reply: { error: number; body: Buffer }): void {
    assert.equal(reply.error, 0, this.file.path);
    this.hash.update(reply.body);
    this.offset += reply.body.length;
    if (this.offset < this.file.size) return;
    assert.equal(this.hash.digest('hex'), this.file.sha256, this.file.path);
    this.hash = createHash('sha256');
    this.offset = 0;
    this.position++;
  }
}

/** Lets readers of several clients run side by side. @param until ends early when it answers true */
function race(clients: readonly FuseClient[], files: readonly Expected[], until: (reads: number) => boolean): void {
  const running = clients.map((client, c) => {
    // A call waits for its own reply, so these come before any READ is under way.
    const opened = files.map((file) => {
      const nodeid = client.walk(`/i/${file.path}`);
      return { ...file, nodeid, fh: client.open(nodeid) as bigint };
    });
    const readers = Array.from({ length: 5 }, (_, i) => {
      const start = Math.floor(((c * 5 + i) * files.length) / (5 * clients.length));
      return new Reader(client, opened, start);
    });
    return { client, idle: readers, heads: new Map<number, Reader>() };
  });
  const deadline = performance.now() + WAIT_MS;
  for (let reads = 0; running.some(({ idle, heads }) => idle.length + heads.size > 0); ) {
    assert.ok(performance.now() < deadline, 'the readers hang');
    for (const one of running) {
      for (const reader of one.idle.splice(0)) {
        const head = reader.next();
        if (head !== null) one.heads.set(head, reader);
      }
      for (let got = one.client.wait(1, 1); got !== null; got = one.client.wait(1, 0)) {
        const reader = one.heads.get(got.head);
        assert.ok(reader !== undefined);
        one.heads.delete(got.head);
        reader.take(got.reply);
        one.idle.push(reader);
        if (until(++reads)) return;
      }
    }
  }
}

/** Bytes of ranges, and how many of them went out more than once. */
function repeated(ranges: readonly [number, number][]): { bytes: number; again: number } {
  const sorted = [...ranges].sort((a, b) => a[0] - b[0]);
  let end = 0;
  let bytes = 0;
  let again = 0;
  for (const [first, last] of sorted) {
    bytes += last - first + 1;
    again += Math.max(0, Math.min(end, last + 1) - first);
    end = Math.max(end, last + 1);
  }
  return { bytes, again };
}

describe('two daemons of ours, ten readers, one cold blob', () => {
  const files = filesOf('full');
  for (const image of ['v6-zstd-blake3', 'v5-lz4-blake3']) {
    test(`${image}: every byte is asked for once`, async () => {
      await server.mode('ok');
      const workDir = freshDir();
      const beds = [await Bed.start(image, config(workDir)), await Bed.start(image, config(workDir))];
      try {
        race(
          beds.map(({ client }) => client),
          files,
          () => false,
        );
        const { ranges } = await server.mode('ok');
        assert.equal(repeated(ranges).again, 0);
        const late = await Bed.start(image, config(workDir));
        late.readAll(files.slice(0, 50));
        late.end();
        assert.equal((await server.mode('ok')).requests, 0);
      } finally {
        for (const bed of beds) bed.end();
      }
    });
  }

  test('one is killed in the middle: only what it had under way is asked for again', async () => {
    const image = imageOf('v6');
    const workDir = freshDir();
    const [victim, other] = [
      await Bed.start('v6-zstd-blake3', config(workDir)),
      await Bed.start('v6-zstd-blake3', config(workDir)),
    ];
    try {
      race([victim.client, other.client], files, (reads) => reads === 60);
      victim.daemon.child.kill('SIGKILL');
      await victim.daemon.ended;
      const ready = readyChunks(image, workDir);
      assert.ok(ready.size > 0);
      await server.mode('ok');
      const survivor = await Bed.start('v6-zstd-blake3', config(workDir));
      race([survivor.client], files, () => false);
      survivor.end();
      assert.equal(refetchedOf(image, ready, (await server.mode('ok')).ranges), 0);
    } finally {
      victim.end();
      other.end();
    }
  });
});

test('nobody but its owner may write to a cache directory that the daemon has made', async () => {
  await server.mode('ok');
  const workDir = join(freshDir(), 'made', 'by it');
  const bed = await Bed.start('v6-zstd-blake3', config(workDir));
  try {
    bed.readAll(filesOf('full').slice(0, 5));
    const made = readdirSync(dirname(dirname(workDir)), { recursive: true, encoding: 'utf8' });
    assert.ok(made.includes('made/by it/nydusd-ts') && made.length > 6, made.join());
    for (const path of made) {
      const { mode } = statSync(join(dirname(dirname(workDir)), path));
      assert.equal(mode & 0o022, 0, `${path}: ${mode.toString(8)}`);
    }
  } finally {
    bed.end();
  }
});

/** Named, on PATH, or where cargo installs it. */
function upstream(): string | null {
  const onPath = (process.env['PATH'] ?? '').split(':').map((dir) => join(dir, 'nydusd'));
  const candidates = [process.env['UPSTREAM_NYDUSD'] ?? '', ...onPath, join(homedir(), '.cargo/bin/nydusd')];
  return candidates.find((path) => path !== '' && existsSync(path)) ?? null;
}

describe('beside nydusd', { skip: upstream() === null ? 'upstream nydusd is not installed' : false }, () => {
  const theirs = [upstream() ?? ''];

  test('both read one cold blob at once: no wrong byte', async () => {
    await server.mode('ok');
    const workDir = freshDir();
    const beds = [
      await Bed.start('v6-zstd-blake3', config(workDir)),
      await Bed.start('v6-zstd-blake3', config(workDir), theirs),
    ];
    try {
      race(
        beds.map(({ client }) => client),
        filesOf('full'),
        () => false,
      );
    } finally {
      for (const bed of beds) bed.end();
    }
  });

  for (const [image, tree] of [
    ['v6-zstd-blake3', 'full'],
    ['v5-lz4-blake3', 'full'],
  ] as const) {
    for (const compressed of [false, true]) {
      const form = compressed ? 'compressed' : 'plain';
      test(`${image}, ${form}: each reads what the other has filled, no wrong byte`, async () => {
        const files = filesOf(tree).slice(0, 60);
        for (const [first, second] of [
          [undefined, theirs],
          [theirs, undefined],
        ]) {
          const workDir = freshDir();
          const filling = await Bed.start(image, config(workDir, { compressed }), first);
          filling.readAll(files);
          filling.end();
          assert.equal(
            readdirSync(workDir).some((name) => name.endsWith('.blob.raw')),
            compressed,
          );
          const reading = await Bed.start(image, config(workDir, { compressed }), second);
          reading.readAll(files);
          reading.end();
        }
      });
    }
  }
});
