/** Blobs in partitions, of tables that sfdisk made. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, copyFileSync, mkdtempSync, openSync, readSync, rmSync, truncateSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { crc32 } from 'node:zlib';
import { SILENT } from '../../common/log.ts';
import { BLOB, BLOB_ID, backendSuite, NEVER } from '../backend.suite.ts';
import { type Backend, openBackend } from '../backend.ts';
import { parseConfig } from '../config/config.ts';

const MIB = 1 << 20;
const LINUX = '0FC63DAF-8483-4772-8E79-3D69D8477DE4';
const BASIC = 'EBD0A0A2-B9E5-4433-87C0-68B6B72699C7';
/** BLOB and what is left of its last sector. */
const PARTITION_BYTES = Math.ceil(BLOB.length / 512) * 512;
/** An id in the older kind, and bytes that tell it from BLOB. */
const OLD_ID = '50ad3c8243e0a08ecdebde0ef8afcc6f2abca44498ad15491acbe58c83acb66f';
const OLD = Buffer.from('an older kind of partition');

const sfdisk = spawnSync('sfdisk', ['--version']).status === 0 ? null : 'sfdisk is not installed (apt package fdisk)';
const root = mkdtempSync(join(tmpdir(), 'localdisk-'));
after(() => rmSync(root, { recursive: true }));

/** The two halves of a blob id: the name of its partition and the GUID behind it. */
function halves(id: string): string {
  const guid = id.slice(32).replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
  return `type=${LINUX}, name=${id.slice(0, 32)}, uuid=${guid}`;
}

/** A disk of 16 MiB: BLOB in its second partition from 2 MiB on, OLD in its third from 8 MiB on. */
function makeDisk(name: string): string {
  const path = join(root, name);
  closeSync(openSync(path, 'w'));
  truncateSync(path, 16 * MIB);
  const script = `label: gpt
start=2048, size=2048, type=${LINUX}, name="something else"
start=4096, size=${PARTITION_BYTES / 512}, ${halves(BLOB_ID)}
start=16384, size=1, type=${BASIC}, name=${OLD_ID.slice(0, 32)}
`;
  execFileSync('sfdisk', ['--quiet', path], { input: script, stdio: ['pipe', 'ignore', 'inherit'] });
  poke(path, 2 * MIB, BLOB);
  poke(path, 8 * MIB, OLD);
  return path;
}

function poke(path: string, offset: number, bytes: Uint8Array): void {
  const fd = openSync(path, 'r+');
  writeSync(fd, bytes, 0, bytes.length, offset);
  closeSync(fd);
}

function open(path: string): Promise<Backend> {
  const backend = { type: 'localdisk', config: { device_path: path } };
  return openBackend(parseConfig(JSON.stringify({ device: { backend }, mode: 'direct' })).backend, SILENT);
}

/** The first bytes of BLOB, or the error's sentence. */
async function outcome(path: string): Promise<string> {
  const backend = await open(path);
  const text = await backend.read(BLOB_ID, 0, 8, NEVER).then(
    (got) => (got.equals(BLOB.subarray(0, 8)) ? 'found' : 'other bytes'),
    (error: Error) => error.message,
  );
  backend.close();
  return text;
}

describe('localdisk', { skip: sfdisk ?? false }, () => {
  const disk = sfdisk === null ? makeDisk('disk') : '';

  test('a blob by the first half of its id, of the older kind', async () => {
    const backend = await open(disk);
    assert.deepEqual(await backend.read(OLD_ID, 3, 5, NEVER), OLD.subarray(3, 8));
    assert.equal(await backend.size(OLD_ID, NEVER), 512);
    backend.close();
  });
  test('a blob ends with its partition', async () => {
    const backend = await open(disk);
    await assert.rejects(backend.read(OLD_ID, 500, 13, NEVER), { code: 'BLOB_SHORT' });
    await assert.rejects(backend.read(OLD_ID, 10_000, 1, NEVER), { code: 'BLOB_SHORT' });
    backend.close();
  });

  const damages: [string, (path: string) => void, RegExp][] = [
    ['the first table is overwritten', (path) => poke(path, 512, Buffer.alloc(512, 7)), /^found$/],
    ['the first entries are overwritten', (path) => poke(path, 1024 + 60, Buffer.alloc(9, 7)), /^found$/],
    ['the second table is overwritten', (path) => poke(path, 16 * MIB - 512, Buffer.alloc(512)), /^found$/],
    [
      'both are',
      (path) => {
        poke(path, 512, Buffer.alloc(512));
        poke(path, 16 * MIB - 512, Buffer.alloc(512));
      },
      /^DISK: .*no partition table: no signature at sector 1 of 512 bytes/,
    ],
    ['the disk is cut off', (path) => truncateSync(path, 4 * MIB), /^DISK: .*partition 2 lies outside the disk/],
    ['the disk is empty', (path) => truncateSync(path, 0), /^DISK: .*no partition table/],
    ['it is another kind of table', dosTable, /^DISK: .*no partition table/],
  ];
  for (const [i, [id, damage, expected]] of damages.entries()) {
    test(`${id}: ${expected.source}`, async () => {
      const path = join(root, `damaged-${i}`);
      copyFileSync(disk, path);
      damage(path);
      assert.match(await outcome(path), expected);
    });
  }
  test('sectors of 4 KiB', async () => {
    const path = join(root, 'large-sectors');
    copyFileSync(disk, path);
    toLargeSectors(path);
    assert.equal(await outcome(path), 'found');
  });
  test('a table that is mended is read again', async () => {
    const path = join(root, 'mended');
    closeSync(openSync(path, 'w'));
    const backend = await open(path);
    await assert.rejects(backend.read(BLOB_ID, 0, 8, NEVER), { code: 'DISK' });
    copyFileSync(disk, path);
    assert.deepEqual(await backend.read(BLOB_ID, 0, 8, NEVER), BLOB.subarray(0, 8));
    backend.close();
  });
});
backendSuite('localdisk', sfdisk, () => open(makeDisk('suite')), PARTITION_BYTES);

/** The same partitions as a table of 4 KiB sectors, which sfdisk makes only for disks that have them. */
function toLargeSectors(path: string): void {
  const fd = openSync(path, 'r+');
  const head = Buffer.alloc(512 * 34);
  readSync(fd, head, 0, head.length, 0);
  const header = Buffer.from(head.subarray(512, 512 + 92));
  const entries = Buffer.from(head.subarray(1024));
  for (let at = 0; at < 3 * 128; at += 128) {
    for (const field of [at + 32, at + 40]) entries.writeBigUInt64LE(entries.readBigUInt64LE(field) / 8n, field);
  }
  header.writeUInt32LE(crc32(entries), 88);
  header.writeUInt32LE(0, 16);
  header.writeUInt32LE(crc32(header), 16);
  writeSync(fd, Buffer.alloc(4096), 0, 4096, 0);
  writeSync(fd, header, 0, header.length, 4096);
  writeSync(fd, entries, 0, entries.length, 2 * 4096);
  writeSync(fd, Buffer.alloc(512), 0, 512, 16 * MIB - 512);
  closeSync(fd);
}

function dosTable(path: string): void {
  truncateSync(path, 0);
  truncateSync(path, 16 * MIB);
  execFileSync('sfdisk', ['--quiet', path], {
    input: 'label: dos\nstart=2048, size=2048\n',
    stdio: ['pipe', 'ignore', 'inherit'],
  });
}
