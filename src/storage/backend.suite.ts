/** What every backend must do, run over each of them by `backend.test.ts`. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import { describe, test } from 'node:test';
import type { Backend } from './backend.ts';

/** Not a multiple of anything, larger than a socket buffer. */
export const BLOB = Buffer.from(Array.from({ length: 3_000_017 }, (_, i) => (i * 31 + (i >> 8)) & 0xff));
export const BLOB_ID = createHash('sha256').update(BLOB).digest('hex');
const MISSING_ID = 'f'.repeat(64);
/** Never fires. */
export const NEVER = new AbortController().signal;
setMaxListeners(0, NEVER);

const RANGES = [
  { id: 'first byte', offset: 0, bytes: 1 },
  { id: 'last byte', offset: BLOB.length - 1, bytes: 1 },
  { id: 'middle', offset: 1_234_567, bytes: 65_536 },
  { id: 'everything', offset: 0, bytes: BLOB.length },
];

/** @param sizeBytes where the blob ends: a partition is longer than what was put into it */
export function backendSuite(
  name: string,
  skip: string | null,
  open: () => Promise<Backend>,
  sizeBytes = BLOB.length,
): void {
  const outside = [
    { id: 'over the end', offset: sizeBytes - 1, bytes: 4 },
    { id: 'at the end', offset: sizeBytes, bytes: 1 },
    { id: 'far behind the end', offset: sizeBytes * 1000, bytes: 100 },
  ];
  describe(`backend ${name}`, { skip: skip ?? false }, () => {
    const withBackend = async (run: (backend: Backend) => Promise<void>) => {
      const backend = await open();
      try {
        await run(backend);
      } finally {
        backend.close();
      }
    };
    for (const { id, offset, bytes } of RANGES) {
      test(id, () =>
        withBackend(async (backend) => {
          const got = await backend.read(BLOB_ID, offset, bytes, NEVER);
          assert.ok(got.equals(BLOB.subarray(offset, offset + bytes)));
        }),
      );
    }
    for (const { id, offset, bytes } of outside) {
      test(`${id} is an error, never short data`, () =>
        withBackend(async (backend) => {
          await assert.rejects(backend.read(BLOB_ID, offset, bytes, NEVER), { name: 'AppError' });
        }));
    }
    test('many at once', () =>
      withBackend(async (backend) => {
        const starts = Array.from({ length: 40 }, (_, i) => i * 70_001);
        const got = await Promise.all(starts.map((start) => backend.read(BLOB_ID, start, 1000, NEVER)));
        for (const [i, bytes] of got.entries()) assert.ok(bytes.equals(BLOB.subarray(starts[i], starts[i] + 1000)));
      }));
    test('size', () =>
      withBackend(async (backend) => {
        assert.equal(await backend.size(BLOB_ID, NEVER), sizeBytes);
      }));
    test('a missing blob is said to be missing; only servers are asked again', () =>
      withBackend(async (backend) => {
        const isLocal = backend.kind.startsWith('local');
        const missing = { code: isLocal ? 'BLOB_NOT_FOUND' : 'HTTP_NOT_FOUND', retryable: !isLocal };
        await assert.rejects(backend.read(MISSING_ID, 0, 1, NEVER), missing);
        await assert.rejects(backend.size(MISSING_ID, NEVER), missing);
      }));
    test('an aborted read throws the reason', () =>
      withBackend(async (backend) => {
        const reason = new Error('closed');
        await assert.rejects(backend.read(BLOB_ID, 0, 1, AbortSignal.abort(reason)), reason);
        const controller = new AbortController();
        const reading = backend.read(BLOB_ID, 0, BLOB.length, controller.signal);
        controller.abort(reason);
        await assert.rejects(reading, reason);
        assert.equal((await backend.read(BLOB_ID, 7, 1, NEVER))[0], BLOB[7]);
      }));
  });
}
