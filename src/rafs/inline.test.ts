/** Bootstraps inside their blobs: what comes out, under which names, and ends of files that lie. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { closeSync, fstatSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { codeOf, explain } from '../common/app-error.ts';
import { fdCount } from '../common/descriptors.testing.ts';
import { CODECS } from '../storage/codecs/codecs.ts';
import { encodeTarHeader, encodeToc, PART, TOC_FLAG } from '../storage/tables/blob-toc.ts';
import { fileNameStem, objectId } from './blob-id.ts';
import { bootPath } from './fixture-blobs.testing.ts';
import { openImage } from './open-image.ts';

const dir = mkdtempSync(join(tmpdir(), 'inline-'));
after(() => rmSync(dir, { recursive: true }));

const V6 = readFileSync(bootPath('v6-zstd-blake3'));

function verdict(blob: Buffer): string {
  const path = join(dir, 'abc.def.blob');
  writeFileSync(path, blob);
  try {
    const image = openImage(path);
    const answer = `opened ${fstatSync(image.fd).size} ${image.blobs.map(({ id }) => id).join()}`;
    image.close();
    closeSync(image.fd);
    return answer;
  } catch (error) {
    return `${codeOf(error)} ${explain(error)}`;
  }
}

interface Toc {
  flags?: number;
  stored?: Buffer;
  bytes?: number;
  digest?: Buffer;
  name?: string;
}

/** A blob of some data, a bootstrap and a TOC. */
function blobWith({
  flags = TOC_FLAG.RAW,
  stored = V6,
  bytes = V6.length,
  digest,
  name = PART.BOOTSTRAP,
}: Toc): Buffer {
  const data = Buffer.alloc(1000, 0xda);
  const entry = {
    flags,
    name,
    digest: digest ?? createHash('sha256').update(V6).digest(),
    offset: data.length,
    storedSize: stored.length,
    uncompressedSize: bytes,
  };
  return Buffer.concat([data, stored, encodeTarHeader(PART.BOOTSTRAP, stored.length), encodeToc([entry])]);
}

const OPENED = new RegExp(`^opened ${V6.length} `);
const zstd = CODECS.zstd.compress(V6);

const CASES: readonly (readonly [what: string, blob: Buffer, answer: RegExp])[] = [
  ['raw, by TOC', blobWith({}), OPENED],
  ['zstd, by TOC', blobWith({ flags: TOC_FLAG.ZSTD, stored: zstd }), OPENED],
  ['raw and no data, by its tar header', Buffer.concat([V6, encodeTarHeader(PART.BOOTSTRAP, V6.length)]), OPENED],
  ['9.34 wrong digest', blobWith({ digest: Buffer.alloc(32, 1) }), /^BROKEN .*digest/],
  ['9.34 wrong digest of zstd', blobWith({ flags: TOC_FLAG.ZSTD, stored: zstd, digest: Buffer.alloc(32) }), /^BROKEN/],
  ['9.34 raw of two sizes', blobWith({ bytes: V6.length + 1 }), /^BROKEN .*sizes/],
  ['9.34 lz4', blobWith({ flags: TOC_FLAG.LZ4 }), /^BROKEN .*flags 4/],
  [
    '9.34 zstd shorter than said',
    blobWith({ flags: TOC_FLAG.ZSTD, stored: zstd, bytes: V6.length + 1 }),
    /^BROKEN .*byte \d+: .*zstd/,
  ],
  [
    '9.34 zstd longer than said',
    blobWith({ flags: TOC_FLAG.ZSTD, stored: zstd, bytes: V6.length - 1 }),
    /^BROKEN .*byte \d+: .*zstd/,
  ],
  ['9.34 bomb', blobWith({ flags: TOC_FLAG.ZSTD, stored: zstd, bytes: 2 ** 30 }), /^BROKEN .*1073741824/],
  ['9.34 larger than any', blobWith({ flags: TOC_FLAG.ZSTD, stored: zstd, bytes: 2 ** 40 }), /^BROKEN/],
  ['9.34 no bootstrap', blobWith({ name: PART.META }), /^NOT_AN_IMAGE .*without a bootstrap/],
  [
    '9.34 a blob in a blob',
    Buffer.concat([blobWith({}), encodeTarHeader(PART.BOOTSTRAP, blobWith({}).length)]),
    /^NOT_AN_IMAGE .*whose bootstrap is none/,
  ],
  ['9.34 TOC larger than the file', encodeTarHeader(PART.TOC, 1024), /^BROKEN .*TOC of/],
  ['9.35 part larger than the file', encodeTarHeader(PART.BOOTSTRAP, 8192), /^BROKEN .*smaller blob/],
  [
    '9.35 a part that is no bootstrap',
    Buffer.concat([V6, encodeTarHeader(PART.DATA, 10)]).subarray(1),
    /^NOT_AN_IMAGE/,
  ],
  ['9.35 an empty bootstrap', encodeTarHeader(PART.BOOTSTRAP, 0), /^NOT_AN_IMAGE .*an empty file/],
];

describe('a blob with', () => {
  for (const [what, blob, answer] of CASES) test(what, () => assert.match(verdict(blob), answer));
});

test('no descriptor stays open, whatever the blob says', () => {
  const before = fdCount();
  for (const [, blob] of CASES) verdict(blob);
  assert.equal(fdCount(), before);
});

test('which object is meant (3.11)', () => {
  const CAP = 0x4000_0000;
  const id = (features: number, extracted: boolean) => objectId('stored', features, '/x/stem.a.b', extracted);
  assert.equal(fileNameStem('/x/stem.a.b'), 'stem');
  for (const [features, extracted, wanted] of [
    [CAP, false, 'stored'],
    [0, false, 'stored'],
    [CAP | 2, false, 'stem'],
    [CAP | 2 | 0x10, false, 'stored'],
    [CAP | 2 | 0x800, false, 'stored'],
    [CAP, true, 'stored'],
    [0, true, 'stem'],
    [CAP | 2, true, 'stem'],
  ] as const) {
    assert.equal(id(features, extracted), wanted, `0x${features.toString(16)} ${extracted}`);
  }
});
