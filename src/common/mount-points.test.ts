import assert from 'node:assert/strict';
import { test } from 'node:test';
import { mountPointOf, mountPoints } from './mount-points.ts';

const points = ['/', '/mnt', '/mnt/data', '/mnt/data-2'].map((path) => ({ path, type: 'ext4' }));

for (const [path, point] of [
  ['/', '/'],
  ['/etc/passwd', '/'],
  ['/mnt', '/mnt'],
  ['/mntx', '/'],
  ['/mnt/data', '/mnt/data'],
  ['/mnt/data/a/b', '/mnt/data'],
  ['/mnt/data-3', '/mnt'],
] as const) {
  test(`${path} lies on what is mounted at ${point}`, () => assert.equal(mountPointOf(path, points), point));
}

test('the mounts of this process are its own', () => {
  const found = mountPoints();
  assert.equal(found.find(({ path }) => path === '/proc')?.type, 'proc');
  assert.ok(found.every(({ path, type }) => path.startsWith('/') && type !== ''));
});
