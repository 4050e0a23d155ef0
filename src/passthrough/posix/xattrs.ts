/** Extended attributes. */
import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { XATTR_CREATE, XATTR_REPLACE } from '../../sys/xattr.ts';
import type { PosixCase } from './case.ts';
import { attributeSize, attributes, fails, getAttribute, removeAttribute, setAttribute } from './tools.ts';

export const XATTR_CASES: readonly PosixCase[] = [
  {
    id: 'values are bytes, on files and directories',
    needs: ['xattr'],
    run: (dir) => {
      fs.writeFileSync(join(dir, 'f'), '');
      for (const path of [join(dir, 'f'), dir]) {
        const value = Buffer.from([0, 255, 10, 0, 128]);
        setAttribute(path, 'user.bytes', value);
        setAttribute(path, 'user.empty', '');
        assert.ok(getAttribute(path, 'user.bytes').equals(value));
        assert.equal(getAttribute(path, 'user.empty').length, 0);
        assert.equal(attributeSize(path, 'user.bytes'), 5);
        assert.deepEqual(attributes(path), ['user.bytes', 'user.empty']);
        setAttribute(path, 'user.bytes', 'other');
        assert.equal(getAttribute(path, 'user.bytes').toString(), 'other');
        removeAttribute(path, 'user.bytes');
        assert.deepEqual(attributes(path), ['user.empty']);
      }
    },
  },
  {
    id: 'absent, present, too small, unknown',
    needs: ['xattr'],
    run: (dir) => {
      const path = join(dir, 'f');
      fs.writeFileSync(path, '');
      fails('ENODATA', () => getAttribute(path, 'user.none'));
      fails('ENODATA', () => removeAttribute(path, 'user.none'));
      fails('ENODATA', () => setAttribute(path, 'user.none', 'x', XATTR_REPLACE));
      setAttribute(path, 'user.a', 'value', XATTR_CREATE);
      fails('EEXIST', () => setAttribute(path, 'user.a', 'value', XATTR_CREATE));
      fails('ERANGE', () => getAttribute(path, 'user.a', 3));
      fails('EOPNOTSUPP', () => setAttribute(path, 'nonsense.a', 'x'));
      fails('ENOENT', () => getAttribute(join(dir, 'none'), 'user.a'));
    },
  },
  {
    id: 'they follow a file through rename and hard links, not through a copy of its bytes',
    needs: ['xattr'],
    run: (dir) => {
      const [a, b, c] = ['a', 'b', 'c'].map((n) => join(dir, n));
      fs.writeFileSync(a, 'x');
      setAttribute(a, 'user.tag', 'mine');
      fs.linkSync(a, b);
      fs.renameSync(a, c);
      assert.equal(getAttribute(b, 'user.tag').toString(), 'mine');
      assert.equal(getAttribute(c, 'user.tag').toString(), 'mine');
      fs.writeFileSync(a, fs.readFileSync(c));
      fails('ENODATA', () => getAttribute(a, 'user.tag'));
    },
  },
  {
    id: 'forty attributes and names of 255 bytes',
    needs: ['xattr'],
    run: (dir) => {
      const path = join(dir, 'f');
      fs.writeFileSync(path, '');
      const names = Array.from({ length: 40 }, (_, i) => `user.n${String(i).padStart(2, '0')}`);
      for (const name of names) setAttribute(path, name, name);
      assert.deepEqual(attributes(path), names);
      const long = `user.${'l'.repeat(250)}`;
      setAttribute(path, long, 'x');
      assert.equal(getAttribute(path, long).toString(), 'x');
      fails('ERANGE', () => setAttribute(path, `${long}l`, 'x'));
    },
  },
  {
    id: 'trusted attributes, as overlayfs uses them',
    needs: ['xattr', 'root'],
    run: (dir) => {
      setAttribute(dir, 'trusted.overlay.opaque', 'y');
      assert.equal(getAttribute(dir, 'trusted.overlay.opaque').toString(), 'y');
      fails('ENODATA', () => getAttribute(dir, 'trusted.overlay.redirect'));
      removeAttribute(dir, 'trusted.overlay.opaque');
      fails('ENODATA', () => getAttribute(dir, 'trusted.overlay.opaque'));
    },
  },
];
