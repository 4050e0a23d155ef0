import assert from 'node:assert/strict';
import { closeSync, readdirSync } from 'node:fs';
import { test } from 'node:test';
import { codeOf } from '../common/app-error.ts';
import { fdCount } from '../common/descriptors.testing.ts';
import { SILENT } from '../common/log.ts';
import { Rafs } from './file-system.ts';
import { bootPath } from './fixture-blobs.testing.ts';
import type { Metadata } from './metadata.ts';
import { Mounted } from './mounted.testing.ts';
import { Nodes, ROOT_LOCAL } from './nodes.ts';
import { openImage } from './open-image.ts';

for (const root of [1, 2, 128, 65535]) {
  test(`node numbers map one to one when the root is ${root}`, () => {
    const nodes = new Nodes({ root } as Metadata, 'x', SILENT);
    assert.equal(nodes.local(root), ROOT_LOCAL);
    const numbers = [0, 1, 2, 3, 127, 128, 129, 65535, 2 ** 26, 2 ** 32 - 1];
    const locals = numbers.map((nid) => nodes.local(nid));
    assert.equal(new Set(locals).size, numbers.length);
    assert.deepEqual(
      locals.map((local) => nodes.local(local)),
      numbers,
    );
  });
}

test('a hundred mounts leave no descriptor behind', () => {
  new Mounted(bootPath('v6-2.2')).close();
  const before = fdCount();
  for (let i = 0; i < 100; i++) {
    const mounted = new Mounted(bootPath('v6-2.2'));
    assert.ok(mounted.node('/lib.rs') > ROOT_LOCAL);
    mounted.close();
  }
  assert.equal(fdCount(), before);
});

test('a mount with other blobs than the image has is refused and leaves the descriptor to its owner', () => {
  const image = openImage(bootPath('v6-dict'));
  const options = { bootstrapFd: image.fd, label: 'x', blobs: [], fetch: () => {}, log: SILENT };
  assert.throws(
    () => new Rafs(options),
    (error) => codeOf(error) === 'BROKEN' && /2 blobs, opened 0/.test(String(error)),
  );
  assert.ok(readdirSync('/proc/self/fd').includes(String(image.fd)));
  image.close();
  closeSync(image.fd);
});
