/** The real way of a cold read: image, handlers and BlobStore together, blobs in a directory, digests verified. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { SILENT } from '../common/log.ts';
import { parseConfig } from '../storage/config.ts';
import { BLOBS_DIR } from '../storage/fixtures.testing.ts';
import { BlobStore } from '../storage/store.ts';
import { Rafs } from './file-system.ts';
import { bootPath, expectedTree, V6_CASES } from './fixture-blobs.testing.ts';
import { Guest } from './guest.testing.ts';
import { ROOT_LOCAL } from './nodes.ts';
import { openImage } from './open-image.ts';

const dir = mkdtempSync(join(tmpdir(), 'rafs-store-'));
after(() => rmSync(dir, { recursive: true }));

const STEP_BYTES = 128 * 1024;

for (const [name, tree] of V6_CASES) {
  test(`${name}: every file has its bytes, fetched through the store`, async (t) => {
    const config = parseConfig(
      JSON.stringify({
        device: {
          backend: { type: 'localfs', config: { dir: BLOBS_DIR } },
          cache: { type: 'blobcache', config: { work_dir: join(dir, name) } },
        },
        mode: 'direct',
        digest_validate: true,
      }),
    );
    const store = new BlobStore(SILENT);
    const image = openImage(bootPath(name));
    const blobs = image.blobs.map((blob) => store.openBlob(blob, image.digests(blob.index), config));
    const guest = new Guest(() => rafs);
    const rafs = new Rafs({ bootstrapFd: image.fd, label: name, blobs, fetch: guest.fetch, log: SILENT });
    t.after(async () => {
      rafs.destroy();
      await store.close();
      image.close();
    });
    for (const [path, expected] of expectedTree(tree)) {
      if (expected.sha256 === undefined) continue;
      let node = ROOT_LOCAL;
      let size = 0;
      for (const part of path.split('/').slice(1)) {
        const entry = guest.lookup(node, Buffer.from(part, 'latin1'));
        assert.ok(typeof entry !== 'number' && entry.node !== 0, path);
        node = entry.node;
        size = entry.attributes.size;
      }
      const hash = createHash('sha256');
      for (let offset = 0; offset < size; offset += STEP_BYTES) {
        const data = await guest.readLazily(node, offset, STEP_BYTES, ({ handle, chunks }) =>
          store.fetch(handle, chunks),
        );
        assert.ok(typeof data !== 'number', `${path} at ${offset}: ${data}`);
        hash.update(data);
      }
      assert.equal(hash.digest('hex'), expected.sha256, path);
    }
  });
}
