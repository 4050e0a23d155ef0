import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, statfsSync, statSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { INIT } from '../fuse/flags.ts';
import { type AsyncIo, PARKED, type Parking, RESUME } from '../fuse/request.ts';
import { errno } from '../sys/errno.ts';
import { O } from '../sys/path.ts';
import type { Guest } from './guest.testing.ts';
import type { Handle } from './guest-names.testing.ts';
import { needsRoot, ok, withShare } from './harness.testing.ts';
import { ROOT_ID } from './inodes.ts';

test('open: devices, fifos, sockets, links and directories are never opened', needsRoot, () => {
  withShare({}, ({ dir, guest }) => {
    execFileSync('mkfifo', [join(dir, 'fifo')]);
    ok(guest.mknod(ROOT_ID, 'null', 0o020666, 1, 3));
    ok(guest.mknod(ROOT_ID, 'socket', 0o140666));
    symlinkSync('/etc/passwd', join(dir, 'link'));
    mkdirSync(join(dir, 'd'));
    for (const name of ['fifo', 'null', 'socket', 'link'])
      assert.equal(guest.open(guest.walk(name).node, O.RDWR), -errno.EACCES, name);
    assert.equal(guest.open(guest.walk('d').node, O.RDONLY), -errno.EISDIR);
    assert.equal(guest.opendir(guest.walk('link').node), -errno.ENOTDIR);
    assert.equal(guest.open(4711, O.RDONLY), -errno.ESTALE);
    writeFileSync(join(dir, 'f'), '');
    const { node } = guest.walk('f');
    assert.equal(guest.open(node, 3), -errno.EINVAL);
    // What a guest adds (O_CREAT, O_EXCL, O_DIRECTORY, O_NOFOLLOW, O_PATH, O_TMPFILE) never reaches the host's open.
    const handle = ok(guest.open(node, 0o37777777 & ~3));
    assert.equal(ok(guest.read(node, handle, 0, 10)).length, 0);
  });
});

test('write: holes, append by flag, written-back pages stay where they are', () => {
  withShare({}, ({ dir, guest }) => {
    writeFileSync(join(dir, 'f'), 'abc');
    const { node } = guest.walk('f');
    const handle = ok(guest.open(node, O.WRONLY | O.APPEND));
    assert.equal(guest.write(node, handle, 0, 'DEF', O.WRONLY | O.APPEND), 3);
    assert.equal(readFileSync(join(dir, 'f'), 'utf8'), 'abcDEF');
    assert.equal(guest.write(node, handle, 0, 'X', O.WRONLY | O.APPEND, 1), 1);
    assert.equal(readFileSync(join(dir, 'f'), 'utf8'), 'XbcDEF');
    assert.equal(guest.write(node, handle, 10, 'end'), 3);
    assert.equal(readFileSync(join(dir, 'f'), 'latin1'), 'XbcDEF\0\0\0\0end');
    assert.equal(guest.read(node, handle, 0, 10), -errno.EBADF, 'a write-only handle does not read');
    const reader = ok(guest.open(node, O.RDONLY));
    assert.equal(guest.write(node, reader, 0, 'x'), -errno.EBADF);
  });
});

test('write-only opens read too where the guest has a writeback cache', () => {
  withShare({}, ({ dir, guest }) => {
    writeFileSync(join(dir, 'f'), 'abc');
    guest.request.negotiated.flags |= INIT.WRITEBACK_CACHE;
    const { node } = guest.walk('f');
    const handle = ok(guest.open(node, O.WRONLY));
    assert.equal(ok(guest.read(node, handle, 0, 10)).toString(), 'abc');
  });
});

test('1 MiB each way, scattered', () => {
  withShare({}, ({ guest }) => {
    const { entry, handle } = ok(guest.create(ROOT_ID, 'big', O.RDWR));
    const bytes = Buffer.from(Array.from({ length: 1 << 20 }, (_, i) => (i * 7 + (i >> 11)) & 255));
    assert.equal(guest.write(entry.node, handle, 4097, bytes), bytes.length);
    assert.ok(ok(guest.read(entry.node, handle, 4097, 1 << 20)).equals(bytes));
    assert.equal(ok(guest.read(entry.node, handle, 4097 + (1 << 20) - 5, 4096)).length, 5);
  });
});

test('handles: made up, stale, of the other kind or node, all EBADF', () => {
  withShare({}, ({ dir, guest, fs }) => {
    writeFileSync(join(dir, 'f'), 'x');
    writeFileSync(join(dir, 'g'), 'x');
    const f = guest.walk('f').node;
    const g = guest.walk('g').node;
    const handle = ok(guest.open(f, O.RDWR));
    const directory = ok(guest.opendir(ROOT_ID));
    const wrong: [number, Handle][] = [
      [g, handle],
      [f, { ...handle, high: handle.high + 1 }],
      [f, { ...handle, low: handle.low + 1 }],
      [f, { low: 0xffff_ffff, high: 0xffff_ffff, flags: 0 }],
      [f, { low: 0, high: 0, flags: 0 }],
      [f, directory],
      [ROOT_ID, directory],
    ];
    for (const [node, h] of wrong) {
      assert.equal(guest.read(node, h, 0, 10), -errno.EBADF);
      assert.equal(guest.write(node, h, 0, 'y'), -errno.EBADF);
      assert.equal(guest.flush(node, h), -errno.EBADF);
      assert.equal(guest.fsync(node, h), -errno.EBADF);
      assert.equal(guest.lseek(node, h, 0, 3), -errno.EBADF);
      assert.equal(guest.fallocate(node, h, 0, 0, 10), -errno.EBADF);
      assert.equal(guest.release(node, h), -errno.EBADF);
      assert.equal(guest.copy(node, h, 0, { node: f, handle }, 0, 1), -errno.EBADF);
      assert.equal(guest.copy(f, handle, 0, { node, handle: h }, 0, 1), -errno.EBADF);
    }
    assert.equal(guest.readdir(f, handle, 0, 0, 4096), -errno.EBADF);
    assert.equal(guest.releasedir(f, handle), -errno.EBADF);
    assert.equal(guest.release(f, handle), 0);
    const next = ok(guest.open(f, O.RDONLY));
    assert.equal(next.low, handle.low, 'the slot comes again');
    assert.equal(guest.read(f, handle, 0, 1), -errno.EBADF, 'the generation does not');
    assert.equal(fs.handleCount, 2);
  });
});

class FakeIo implements AsyncIo, Parking {
  log: string[] = [];
  refuse = false;
  full = false;
  park(resume: number, pins: boolean): number {
    if (this.full) return 0;
    assert.equal(resume, RESUME.FINISH);
    this.log.push(`park ${pins}`);
    return 55;
  }
  unpark(ticket: number): void {
    this.log.push(`unpark ${ticket}`);
  }
  fsync(fd: number, dataOnly: boolean, ticket: number): number {
    return this.#start(`fsync ${fd >= 0} ${dataOnly} ${ticket}`);
  }
  syncfs(fd: number, ticket: number): number {
    return this.#start(`syncfs ${fd >= 0} ${ticket}`);
  }
  read(_fd: number, _data: unknown, bytes: number, offset: number, ticket: number): number {
    return this.#start(`read ${bytes} at ${offset} ${ticket}`);
  }
  #start(what: string): number {
    this.log.push(what);
    return this.refuse ? -errno.EOPNOTSUPP : 0;
  }
  take(): string[] {
    return this.log.splice(0);
  }
}

function withIo(guest: Guest): FakeIo {
  const io = new FakeIo();
  guest.request.io = io;
  guest.request.parking = io;
  return io;
}

test('fsync, fsyncdir and syncfs park; refused or without room they block instead', () => {
  withShare(
    {},
    ({ guest }) => {
      const io = withIo(guest);
      const { entry, handle } = ok(guest.create(ROOT_ID, 'f', O.RDWR));
      const directory = ok(guest.opendir(ROOT_ID));
      assert.equal(guest.fsync(entry.node, handle), PARKED);
      assert.equal(guest.fsync(ROOT_ID, directory, true), PARKED);
      assert.equal(guest.syncfs(ROOT_ID), PARKED);
      assert.equal(guest.syncfs(entry.node), PARKED);
      const expected = ['park false', 'fsync true false 55', 'park false', 'fsync true false 55'];
      assert.deepEqual(io.take(), [...expected, 'park false', 'syncfs true 55', 'park false', 'syncfs true 55']);
      io.refuse = true;
      assert.equal(guest.fsync(entry.node, handle), 0);
      assert.equal(guest.syncfs(ROOT_ID), 0);
      assert.deepEqual(io.take(), [
        'park false',
        'fsync true false 55',
        'unpark 55',
        'park false',
        'syncfs true 55',
        'unpark 55',
      ]);
      io.full = true;
      assert.equal(guest.fsync(entry.node, handle), 0);
      assert.deepEqual(io.take(), []);
    },
    '/dev/shm',
  ); // a syncfs of the machine's disk may take a minute
});

const TMPFS_MAGIC = 0x0102_1994;

/** Writes a file back and drops its pages (dd's documented way; needs no privilege). */
/** Takes all but the first `keptMib` of a file out of the page cache; what something still holds stays a while. */
function dropCache(path: string, keptMib: number): void {
  const until = performance.now() + 10_000;
  do {
    execFileSync('sync', [path]);
    const dropping = [`if=${path}`, 'iflag=nocache', 'of=/dev/null', 'bs=1M', `skip=${keptMib}`, 'count=0'];
    execFileSync('dd', dropping, { stdio: 'ignore' });
    const resident = execFileSync('fincore', ['-n', '-b', '-o', 'RES', path], { encoding: 'utf8' });
    if (Number(resident) <= keptMib << 20) return;
  } while (performance.now() < until);
  throw new Error(`${path} does not leave the page cache`);
}

/**
 * What `read` answers of a file that is not in memory. It starts reading ahead, and the disk may be done within the same
 * call when this thread loses its core: then it is asked again.
 */
function coldRead(path: string, keptMib: number, read: () => number, expected: number): number {
  let answer = Number.NaN;
  for (let attempt = 0; attempt < 5 && answer !== expected; attempt++) {
    dropCache(path, keptMib);
    answer = read();
  }
  return answer;
}

test('read: from the page cache at once; what is not there parks; short reads mean the end of the file only', () => {
  withShare({}, ({ dir, guest }) => {
    const io = withIo(guest);
    const path = join(dir, 'f');
    const bytes = Buffer.alloc(8 << 20, 'z');
    writeFileSync(path, bytes);
    const { node } = guest.walk('f');
    const handle = ok(guest.open(node, O.RDONLY));
    assert.equal(guest.rawRead(node, handle, 0, 65536), 65536);
    assert.deepEqual(io.take(), []);
    assert.equal(guest.rawRead(node, handle, bytes.length, 4096), 0);
    if (statfsSync(path).type === TMPFS_MAGIC) {
      assert.equal(guest.rawRead(node, handle, 1 << 20, 131072), 131072, 'memory never waits');
      return;
    }
    const readOne = () => guest.rawRead(node, handle, 1 << 20, 131072);
    assert.equal(coldRead(path, 0, readOne, PARKED), PARKED);
    assert.deepEqual(io.take(), ['park true', `read 131072 at ${1 << 20} 55`]);
    readFileSync(path);
    const readOver = () => guest.rawRead(node, handle, 3 << 20, 2 << 20);
    assert.equal(coldRead(path, 4, readOver, PARKED), PARKED, 'the first half is there, and is no answer');
    io.take();
    io.refuse = true;
    let calls: string[] = [];
    const readBlocking = () => {
      assert.equal(readOne(), 131072, 'blocks when refused');
      calls = io.take();
      return calls.length;
    };
    assert.equal(coldRead(path, 0, readBlocking, 3), 3);
    assert.deepEqual(calls, ['park true', `read 131072 at ${1 << 20} 55`, 'unpark 55']);
  });
});

test('tmpfs answers reads though it refuses RWF_NOWAIT', () => {
  withShare(
    {},
    ({ dir, guest }) => {
      const io = withIo(guest);
      writeFileSync(join(dir, 'f'), 'in memory');
      const { node } = guest.walk('f');
      const handle = ok(guest.open(node, O.RDONLY));
      assert.equal(ok(guest.read(node, handle, 0, 100)).toString(), 'in memory');
      assert.deepEqual(io.take(), []);
    },
    '/dev/shm',
  );
});

test('lseek, fallocate, copy_file_range, flush', () => {
  withShare({}, ({ dir, guest }) => {
    writeFileSync(join(dir, 'f'), 'data');
    truncateSync(join(dir, 'f'), 1 << 20);
    const { node } = guest.walk('f');
    const handle = ok(guest.open(node, O.RDWR));
    assert.equal(guest.lseek(node, handle, 0, 3), 0);
    assert.ok(guest.lseek(node, handle, 0, 4) <= 1 << 20);
    assert.equal(guest.lseek(node, handle, 2 << 20, 3), -errno.ENXIO);
    assert.equal(guest.lseek(node, handle, 0, 0), -errno.EINVAL);
    assert.equal(guest.fallocate(node, handle, 0, 0, 2 << 20), 0);
    assert.equal(statSync(join(dir, 'f')).size, 2 << 20);
    assert.equal(guest.fallocate(node, handle, 0x40, 0, 10), -errno.EOPNOTSUPP);
    assert.equal(guest.fallocate(node, handle, 3, 0, 4096), 0);
    assert.equal(ok(guest.read(node, handle, 0, 4)).toString('latin1'), '\0\0\0\0');
    guest.write(node, handle, 0, 'copy me');
    const to = ok(guest.create(ROOT_ID, 'g', O.RDWR));
    const target = { node: to.entry.node, handle: to.handle };
    assert.equal(guest.copy(node, handle, 0, target, 3, 7), 7);
    assert.equal(readFileSync(join(dir, 'g'), 'latin1'), '\0\0\0copy me');
    assert.equal(guest.copy(node, handle, 3 << 20, target, 0, 7), 0, 'beyond the end');
    assert.equal(guest.flush(node, handle), 0);
  });
});

test('a read-only share: reads go, every mutation is EROFS', () => {
  withShare({ readOnly: true }, ({ dir, guest }) => {
    writeFileSync(join(dir, 'f'), 'abc');
    const { node } = guest.walk('f');
    const handle = ok(guest.open(node, O.RDONLY));
    assert.equal(ok(guest.read(node, handle, 0, 10)).toString(), 'abc');
    const refused = [
      guest.open(node, O.WRONLY),
      guest.open(node, O.RDONLY | O.TRUNC),
      guest.create(ROOT_ID, 'x', O.RDWR),
      guest.mknod(ROOT_ID, 'x', 0o100644),
      guest.mkdir(ROOT_ID, 'x'),
      guest.symlink(ROOT_ID, 'x', 'y'),
      guest.link(node, ROOT_ID, 'x'),
      guest.unlink(ROOT_ID, 'f'),
      guest.rmdir(ROOT_ID, 'f'),
      guest.rename(ROOT_ID, 'f', ROOT_ID, 'g'),
      guest.setattr(node, 1, { mode: 0 }),
      guest.write(node, handle, 0, 'x'),
      guest.fallocate(node, handle, 0, 0, 10),
      guest.copy(node, handle, 0, { node, handle }, 0, 1),
      guest.setxattr(node, 'user.a', 'b'),
      guest.removexattr(node, 'user.a'),
      guest.access(node, 2),
    ];
    assert.deepEqual(
      refused,
      refused.map(() => -errno.EROFS),
    );
    assert.equal(readFileSync(join(dir, 'f'), 'utf8'), 'abc');
  });
});
