import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { AppError } from '../common/app-error.ts';
import { FIXTURES } from '../storage/fixtures.testing.ts';
import { checkImage } from './check.ts';

const boot = (name: string) => join(FIXTURES, 'images/boot', name);
let dir = '';
before(() => {
  dir = mkdtempSync(join(tmpdir(), 'image-check-'));
});
after(() => rmSync(dir, { recursive: true, force: true }));

describe("upstream's images are valid", () => {
  const cases = {
    'v6-zstd-blake3': 528,
    'v6-toc': 228,
    'v6-dict': 0,
    'merged-v6': 0,
    'v6-2.2': 3,
    'tar-v6': 0,
    'tarfs-v6': 0,
    'v5-lz4-blake3': 528,
    'v5-aligned': 228,
    'v5-zstd-sha256-4k': 0,
    'targz-v5': 0,
    'merged-v5': 158,
    'v5-parent': 0,
  };
  for (const [name, names] of Object.entries(cases)) {
    test(name, () => {
      const paths: string[] = [];
      const result = checkImage(boot(`${name}.boot`), (entry) => paths.push(entry.path.toString('latin1')));
      assert.equal(result.names, paths.length);
      assert.equal(new Set(paths).size, paths.length);
      if (names > 0) assert.equal(result.names, names);
    });
  }
});

test('says what the superblock says of version and compressor', () => {
  const facts = ['v5-lz4-blake3', 'v6-zstd-blake3', 'zran-v6'].map((name) => {
    const { fsVersion, compressor } = checkImage(boot(`${name}.boot`));
    return [fsVersion, compressor];
  });
  assert.deepEqual(facts, [
    [5, 'lz4_block'],
    [6, 'zstd'],
    [6, 'gzip'],
  ]);
});

test('other files are told apart', () => {
  assert.throws(() => checkImage(boot('v6-toc.boot').replace('boot/v6-toc.boot', 'src/tree.tar.gz')), {
    code: 'NOT_AN_IMAGE',
  });
  assert.throws(() => checkImage(import.meta.filename), { code: 'NOT_AN_IMAGE' });
});

describe('damage', () => {
  function verdict(damage: (bytes: Buffer) => void): unknown {
    const bytes = readFileSync(boot('v6-toc.boot'));
    damage(bytes);
    const path = join(dir, 'damaged.boot');
    writeFileSync(path, bytes);
    try {
      return checkImage(path).names;
    } catch (error) {
      return error;
    }
  }

  test('of single bytes is found or harmless, never a crash', () => {
    let found = 0;
    for (let at = 1024; at < 48 * 1024; at += 37) {
      const result = verdict((bytes) => {
        bytes[at] ^= 0xff;
      });
      if (typeof result === 'number') continue;
      found++;
      assert.ok(result instanceof AppError, `byte ${at}: ${result}`);
    }
    assert.ok(found > 100, `only ${found} of the damages were found`);
  });

  test('a wrong count of names', () => {
    const error = verdict((bytes) => bytes.writeUInt32LE(229, 1024 + 16));
    assert.match(String(error), /counts 229 names, the tree has 228/);
  });

  test('truncation', () => {
    const bytes = readFileSync(boot('v6-toc.boot'));
    for (const length of [0, 100, 1024, 4096, 12288, 40960]) {
      writeFileSync(join(dir, 'short.boot'), bytes.subarray(0, length));
      assert.throws(() => checkImage(join(dir, 'short.boot')), AppError);
    }
  });
});
