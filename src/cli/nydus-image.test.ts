/** The command as users start it: another process, its exit codes, what it prints and what it leaves behind. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { ImageWalker } from '../rafs/walk.ts';

const ENTRY = new URL('./nydus-image.ts', import.meta.url).href;
const RUN = `import(${JSON.stringify(ENTRY)}).then(m => m.main(process.argv.slice(1))).then(c => { process.exitCode = c; })`;

/** What the project promises for such a file. */
const SPARSE_RSS_BYTES_MAX = 256 << 20;

function run(args: string[], input = '') {
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--import', 'tsx', '-e', RUN, '--', ...args], {
    encoding: 'utf8',
    input,
    timeout: 60_000,
  });
  return { status, stdout, stderr };
}

let dir = '';
let source = '';
before(() => {
  dir = mkdtempSync(join(tmpdir(), 'nydus-image-'));
  source = join(dir, 'source');
  mkdirSync(join(source, 'etc'), { recursive: true });
  writeFileSync(join(source, 'etc/hosts'), 'localhost\n'.repeat(1000));
  writeFileSync(join(source, 'second'), 'other');
  writeFileSync(join(source, '.wh.gone'), '');
});
after(() => rmSync(dir, { recursive: true, force: true }));

function output(): string {
  return mkdtempSync(join(dir, 'out-'));
}

describe('create', () => {
  test('blob and bootstrap by name, report, log', () => {
    const out = output();
    const args = ['create', '-t', 'directory', '-D', out, '-B', join(out, 'boot'), '-J', join(out, 'json'), source];
    const { status, stdout, stderr } = run(args);
    assert.equal(status, 0, stderr);
    assert.equal(stdout, '');
    assert.match(stderr, /INFO successfully built RAFS filesystem/);
    const report = JSON.parse(readFileSync(join(out, 'json'), 'utf8'));
    assert.equal(report.bootstrap, join(out, 'boot'));
    assert.equal(report.fs_version, '6');
    assert.equal(report.compressor, 'zstd');
    assert.deepEqual([report.external_bootstrap, report.external_blobs], ['', []]);
    assert.deepEqual(readdirSync(out).sort(), [report.blobs[0], 'boot', 'json'].sort());
    const image = new ImageWalker(join(out, 'boot'));
    const paths = [...image.walk()].map((entry) => entry.path.toString());
    image.close();
    assert.deepEqual(paths, ['/', '/etc', '/etc/hosts', '/second']);
    assert.equal(image.blobs[0].id, report.blobs[0]);
  });

  test('options reach the image', () => {
    const out = output();
    const args = ['--compressor=none', '--digester', 'sha256', '--chunk-size', '4096', '--repeatable', '--features'];
    const more = ['blob-toc', '--whiteout-spec', 'none', '--blob-id', 'given', '-l', 'error'];
    const { status, stderr } = run(['create', ...args, ...more, '-b', join(out, 'b'), '-B', join(out, 'boot'), source]);
    assert.deepEqual([status, stderr], [0, '']);
    assert.ok(existsSync(join(out, 'b')));
    const image = new ImageWalker(join(out, 'boot'));
    const names = [...image.walk()].map((entry) => entry.path.toString());
    image.close();
    assert.ok(names.includes('/.wh.gone'));
    const [blob] = image.blobs;
    assert.deepEqual([blob.id, blob.compressor, blob.digester, blob.chunkSize], ['given', 'none', 'sha256', 4096]);
    assert.equal(blob.features, 0x7000_0021);
    assert.equal(image.metadata.explicitIds, false);
  });

  test('prefetch patterns come from standard input', () => {
    const out = output();
    const args = [
      'create',
      '--compressor',
      'none',
      '--prefetch-policy',
      'fs',
      '-D',
      out,
      '-B',
      join(out, 'boot'),
      source,
    ];
    const { status, stderr } = run(args, '/second\nrelative\n');
    assert.equal(status, 0, stderr);
    assert.match(stderr, /WARN prefetch pattern relative is ignored/);
    const [blob] = new ImageWalker(join(out, 'boot')).blobs;
    assert.equal(readFileSync(join(out, blob.id), 'latin1').slice(0, 5), 'other');
    assert.equal(readFileSync(join(out, 'boot')).readUInt32LE(1152 + 48), 4);
  });

  test('everything in one file', () => {
    const out = output();
    const { status } = run(['create', '--blob-inline-meta', '--features', 'blob-toc', '-D', out, source]);
    assert.equal(status, 0);
    assert.equal(readdirSync(out).length, 1);
  });

  test('log lines can go to a file', () => {
    const out = output();
    const { stderr } = run(['create', '-L', join(out, 'log'), '-D', out, source]);
    assert.equal(stderr, '');
    assert.match(readFileSync(join(out, 'log'), 'utf8'), /INFO data blobs: \["[0-9a-f]{64}"\]/);
  });
});

test('a 5 GiB sparse file builds in little memory', () => {
  const out = output();
  const sparse = join(dir, 'sparse');
  mkdirSync(sparse);
  const fd = openSync(join(sparse, 'file'), 'w');
  ftruncateSync(fd, 5 * 2 ** 30);
  for (let at = 0; at < 5; at++) writeSync(fd, Buffer.alloc(3 << 20, String(at)), 0, 3 << 20, at * 2 ** 30 + 7);
  closeSync(fd);
  const code = `${RUN}.then(() => process.stdout.write(String(process.resourceUsage().maxRSS)))`;
  const args = ['create', '-D', out, '-B', join(out, 'boot'), sparse];
  const { stdout, stderr } = spawnSync(process.execPath, ['--import', 'tsx', '-e', code, '--', ...args], {
    encoding: 'utf8',
  });
  const maxRssBytes = Number(stdout) * 1024;
  assert.ok(maxRssBytes > 0 && maxRssBytes < SPARSE_RSS_BYTES_MAX, `${stdout} KiB\n${stderr}`);
  const image = new ImageWalker(join(out, 'boot'));
  const file = [...image.walk()].find((entry) => entry.path.toString() === '/file');
  image.close();
  assert.equal(file?.inode.size, 5 * 2 ** 30);
  assert.ok(image.blobs[0].chunkCount < 30);
});

describe('create, refused', () => {
  const cases: [args: string[], status: number, says: RegExp][] = [
    [[], 2, /Not enough/],
    [['SRC', '--unknown'], 2, /[Uu]nknown argument: unknown/],
    [['SRC', '--compressor', 'gzip', '-D', 'OUT'], 2, /compressor/],
    [['SRC'], 1, /--blob-dir/],
    [['SRC', '-b', 'OUT/b'], 1, /--bootstrap/],
    [['SRC', '-D', 'OUT', '--chunk-size', '5000'], 1, /--chunk-size.*5000.*power of two/],
    [['SRC', '-D', 'OUT', '--blob-id', '../x'], 1, /--blob-id/],
    [['SRC', '-D', 'OUT', '--blob-inline-meta', '-B', 'OUT/boot'], 1, /--blob-inline-meta/],
    [['SRC', '-D', 'OUT', '--blob-inline-meta', '--blob-id', 'x'], 1, /--blob-inline-meta/],
    [['SRC', '-D', 'OUT', '-t', 'tar-rafs'], 1, /source type tar-rafs is not built yet/],
    [['SRC', '-D', 'OUT', '-v', '5'], 1, /RAFS v5 is not built yet/],
    [['SRC', '-D', 'OUT', '--batch-size', '0x1000'], 1, /--batch-size is not built yet/],
    [['SRC', '-D', 'OUT', '--encrypt'], 1, /--encrypt is not built yet/],
    [['SRC', '-D', 'OUT', '--chunk-dict', 'x'], 1, /--chunk-dict is not built yet/],
    [['SRC', '-D', 'OUT', '--parent-bootstrap', 'x'], 1, /--parent-bootstrap is not built yet/],
    [['', '-D', 'OUT'], 1, /SOURCE: is empty/],
    [['SRC/none', '-D', 'OUT'], 1, /source.*none.*ENOENT/],
    [['SRC', '-D', 'OUT/none'], 1, /cannot write .*ENOENT/],
    [['SRC', '-D', 'OUT', '-B', 'OUT/none/boot'], 1, /cannot write .*none.boot: ENOENT/],
  ];
  for (const [args, status, says] of cases) {
    test(args.join(' ') || 'nothing', () => {
      const out = output();
      const real = args.map((word) => word.replace('SRC', source).replace('OUT', out));
      const result = run(['create', ...real]);
      assert.match(result.stderr, says);
      if (status === 1) assert.match(result.stderr, /^Error: /);
      assert.equal(result.status, status);
      assert.deepEqual(readdirSync(out), []);
    });
  }
});

describe('check', () => {
  test('says what a valid image refers to', () => {
    const out = output();
    run(['create', '-D', out, '-B', join(out, 'boot'), source]);
    const { status, stdout } = run(['check', '-v', '-J', join(out, 'json'), join(out, 'boot')]);
    assert.equal(status, 0);
    assert.match(stdout, /^\/etc\/hosts$/m);
    assert.match(
      stdout,
      /^RAFS filesystem metadata is valid.*\n\t 0: [0-9a-f]{64}, compressed size 0x[0-9a-f]+, uncompressed size 0x4000, chunk size: 0x100000, chunk count: 0x2, features: aligned cap_toc$/m,
    );
    const report = JSON.parse(readFileSync(join(out, 'json'), 'utf8'));
    assert.equal(report.blobs.length, 1);
    assert.equal(run(['check', '-B', join(out, 'boot')]).status, 0);
  });

  test('prints all of it, however slowly it is read', () => {
    const out = output();
    const wide = join(out, 'wide');
    mkdirSync(wide);
    for (let i = 0; i < 1000; i++) writeFileSync(join(wide, String(i).padStart(200, '0')), '');
    assert.equal(run(['create', '-D', out, '-B', join(out, 'boot'), wide]).status, 0);
    const command = `"$0" --import tsx -e "$1" -- check -v "$2" | (sleep 2; cat)`;
    const script = ['-c', command, process.execPath, RUN, join(out, 'boot')];
    const { stdout } = spawnSync('sh', script, { encoding: 'utf8', timeout: 60_000 });
    const lines = stdout.split('\n');
    assert.equal(lines.filter((line) => line.startsWith('/0')).length, 1000);
    assert.match(stdout, /^RAFS filesystem metadata is valid/m);
  });

  test('fails on anything else', () => {
    const { status, stdout, stderr } = run(['check', join(source, 'second')]);
    assert.deepEqual([status, stdout], [1, '']);
    assert.match(stderr, /^Error: NOT_AN_IMAGE/);
  });
});

describe('the command itself', () => {
  test('without a word prints usage', () => {
    const { status, stdout } = run([]);
    assert.equal(status, 0);
    assert.match(stdout, /create <SOURCE>/);
  });
  test('--version and --help', () => {
    assert.match(run(['--version']).stdout, /Git Commit/);
    assert.match(run(['create', '--help']).stdout, /--whiteout-spec/);
  });
  test('other commands are named, unknown ones are not', () => {
    const merge = run(['merge', 'a', '--bootstrap', 'b']);
    assert.equal(merge.status, 1);
    assert.match(merge.stderr, /command merge is not built yet/);
    assert.equal(run(['bogus']).status, 2);
  });
});
