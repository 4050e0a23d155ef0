/** Ways out of the share. A canary lies beside it; whatever is tried, its bytes never come and it never changes. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { test } from 'node:test';
import { Arena } from '../sys/arena.ts';
import { errno } from '../sys/errno.ts';
import { O } from '../sys/path.ts';
import { DescriptorBudget } from './budget.ts';
import { Guest } from './guest.testing.ts';
import { type Fixture, ok, withShare } from './harness.testing.ts';
import { ROOT_ID } from './inodes.ts';
import { Passthrough } from './passthrough.ts';

const CANARY = 'the canary outside the share';

function withCanary(use: (fixture: Fixture) => void): void {
  withShare({}, (fixture) => {
    writeFileSync(join(fixture.outside, 'canary'), CANARY);
    use(fixture);
    assert.equal(readFileSync(join(fixture.outside, 'canary'), 'utf8'), CANARY);
    assert.deepEqual(readdirSync(fixture.outside), ['canary']);
  });
}

/** Bytes of `name` below `dir`, or -errno of the step that failed. */
function slurp(guest: Guest, dir: number, name: string): string | number {
  const entry = guest.lookup(dir, name);
  if (typeof entry === 'number') return entry;
  try {
    const handle = guest.open(entry.node, O.RDONLY);
    if (typeof handle === 'number') return handle;
    const bytes = guest.read(entry.node, handle, 0, 4096);
    guest.release(entry.node, handle);
    return typeof bytes === 'number' ? bytes : bytes.toString();
  } finally {
    guest.forget(entry.node);
  }
}

test('links out of the share, absolute, relative and through /proc, are links and no more', () => {
  withCanary(({ dir, outside, guest }) => {
    symlinkSync(join(outside, 'canary'), join(dir, 'abs'));
    symlinkSync(`../${basename(outside)}/canary`, join(dir, 'rel'));
    symlinkSync(outside, join(dir, 'dirlink'));
    symlinkSync('/proc/self/root', join(dir, 'magic'));
    for (const name of ['abs', 'rel', 'dirlink', 'magic']) {
      assert.equal(slurp(guest, ROOT_ID, name), -errno.EACCES, name);
      const { node } = guest.walk(name);
      assert.equal(guest.lookup(node, 'canary'), -errno.ENOTDIR, name);
      assert.equal(guest.create(node, 'x', O.RDWR), -errno.ENOTDIR, name);
      assert.equal(guest.mkdir(node, 'x'), -errno.ENOTDIR, name);
      assert.equal(guest.unlink(node, 'canary'), -errno.ENOTDIR, name);
      assert.equal(guest.create(ROOT_ID, name, O.RDWR | O.TRUNC), -errno.ESTALE, name);
      assert.equal(guest.setattr(node, 8, { size: 0 }), -errno.EINVAL, name);
    }
  });
});

test('names the decoder would refuse do not lead out of the share either', () => {
  withCanary(({ outside, guest, fs }) => {
    const out = `../${basename(outside)}/canary`;
    for (const name of ['..', out, join(outside, 'canary'), '/']) {
      assert.ok([-errno.EXDEV, -errno.EAGAIN].includes(guest.lookup(ROOT_ID, name) as number), name);
      const made = guest.create(ROOT_ID, name, O.RDWR);
      assert.ok(typeof made === 'number', name);
    }
    assert.equal(guest.lookup(ROOT_ID, '.'), -errno.EIO);
    assert.equal(guest.lookup(ROOT_ID, ''), -errno.ENOENT);
    assert.equal(fs.inodeCount, 0);
  });
});

test('a directory moved out of the share does not take the share with it', () => {
  withCanary(({ dir, outside, guest }) => {
    mkdirSync(join(dir, 'd'));
    writeFileSync(join(dir, 'd/own'), 'own');
    const { node } = guest.walk('d');
    renameSync(join(dir, 'd'), join(outside, 'moved'));
    assert.equal(slurp(guest, node, 'own'), 'own', 'what the guest holds it may use');
    assert.ok([-errno.EXDEV, -errno.EAGAIN].includes(guest.lookup(node, '..') as number));
    assert.equal(guest.lookup(node, 'canary'), -errno.ENOENT);
    renameSync(join(outside, 'moved'), join(dir, 'd'));
    assert.equal(guest.walk('d').node, node);
  });
});

/** Runs `script` in another process until `use` is through. */
function meanwhile(script: string, args: string[], use: (child: ChildProcess) => void): Promise<void> {
  const child = spawn(process.execPath, ['-e', script, ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
  return (async () => {
    await once(child.stdout, 'data');
    try {
      use(child);
    } finally {
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
  })();
}

const SWAP = `
const fs = require('fs');
const [base, out] = process.argv.slice(1);
fs.mkdirSync(base + '/real', { recursive: true });
fs.writeFileSync(base + '/real/canary', 'inside');
fs.symlinkSync(out, base + '/link');
process.stdout.write('go');
for (;;) {
  fs.renameSync(base + '/real', base + '/d');
  fs.renameSync(base + '/d', base + '/real');
  fs.renameSync(base + '/link', base + '/d');
  fs.renameSync(base + '/d', base + '/link');
}`;

test('a name that is now a directory, now a link to the outside, never leads there', async () => {
  const base = mkdtempSync(join(tmpdir(), 'passthrough-race-'));
  const [dir, outside] = [join(base, 'share'), join(base, 'outside')];
  mkdirSync(dir);
  mkdirSync(outside);
  writeFileSync(join(outside, 'canary'), CANARY);
  const arena = Arena.create('race');
  const fs = new Passthrough({ source: dir }, { arena, tables: 'p', budget: new DescriptorBudget(1000) });
  const guest = new Guest(fs);
  const seen = new Map<string | number, number>();
  const count = (what: string | number): void => void seen.set(what, (seen.get(what) ?? 0) + 1);
  try {
    await meanwhile(SWAP, [dir, outside], () => {
      const end = Date.now() + 1500;
      while (Date.now() < end) {
        const entry = guest.lookup(ROOT_ID, 'd');
        if (typeof entry === 'number') count(entry);
        else {
          count(slurp(guest, entry.node, 'canary'));
          guest.unlink(entry.node, 'canary-not-there');
          const made = guest.create(entry.node, 'made', O.RDWR);
          if (typeof made !== 'number') {
            guest.release(made.entry.node, made.handle);
            guest.forget(made.entry.node);
          }
          guest.forget(entry.node);
        }
      }
    });
    assert.equal(seen.get(CANARY), undefined);
    assert.ok((seen.get('inside') ?? 0) > 0, 'the directory was never seen');
    assert.ok((seen.get(-errno.ENOTDIR) ?? 0) > 0, 'the link was never seen');
    assert.deepEqual(readdirSync(outside), ['canary']);
    assert.equal(readFileSync(join(outside, 'canary'), 'utf8'), CANARY);
    assert.equal(fs.inodeCount, 0);
  } finally {
    fs.destroy();
    arena.close();
    rmSync(base, { recursive: true, force: true });
  }
});

test('whatever numbers a guest sends, handlers answer', () => {
  withCanary(({ guest, fs }) => {
    let random = 1;
    const next = (): number => {
      random = (Math.imul(random, 1_664_525) + 1_013_904_223) >>> 0;
      return random & 1 ? random : random >>> 28;
    };
    const { entry, handle } = ok(guest.create(ROOT_ID, 'f', O.RDWR));
    for (let i = 0; i < 3000; i++) {
      const node = [ROOT_ID, entry.node, next()][next() % 3];
      const h = [handle, { low: next(), high: next(), flags: 0 }][next() % 2];
      const answers = [
        guest.getattr(node, h),
        guest.setattr(node, next() & ~2 & ~4, {
          fhLow: h.low,
          fhHigh: h.high,
          size: next() % 4096,
          mode: next(),
          atimeNsec: next(),
        }),
        guest.rawRead(node, h, next(), next() % 65536),
        guest.write(node, h, next() % 65536, 'x', next(), next()),
        guest.lseek(node, h, next(), next() % 6),
        guest.fallocate(node, h, next() & 0x7f, next() % 65536, (next() % 65536) + 1),
        guest.readdir(node, h, next(), next(), next() % 8192, true),
        guest.open(node, next()),
        guest.readlink(node),
        guest.access(node, next()),
        guest.copy(node, h, next(), { node, handle: h }, next() % 65536, next()),
        guest.getxattr(node, 'user.x', next() % 4096),
        guest.rename(node, 'f', next(), 'g', next()),
      ];
      for (const answer of answers) assert.ok(typeof answer !== 'number' || answer > -512, `${answer}`);
      guest.forget(next(), next());
      if (fs.handleCount > 500) fs.reset();
    }
  });
});
