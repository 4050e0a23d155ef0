/**
 * The floor: a loop of a row's host calls alone, on the same files and offsets, into the pages a guest has for as many
 * requests: at depth 32 and 1 MiB those do not fit into a core's cache, and one buffer used again and again would.
 * Started as `floor.cjs SHARE ROW DEPTH FILE`, where READ reads FILE; for each line on stdin, which says how many
 * milliseconds, it measures a slice and prints the CPU microseconds per request. So it takes its turn between the slices of the daemons. A row without
 * host calls has no floor.
 */
import { S } from '../src/fuse/flags.ts';
import { close, lseek, preadv2, pwritev2, SEEK } from '../src/sys/io.ts';
import { populateWrite } from '../src/sys/memory.ts';
import { NativeMemory } from '../src/sys/native-memory.ts';
import { AT, EMPTY_NAME, O, openat, openPath, unlinkat } from '../src/sys/path.ts';
import { DIRENT, fstatfs, getdents64, STATX_BYTES, STATX_MASK, statx } from '../src/sys/stat.ts';
import { GuestRam } from '../src/vhost/guest-ram.ts';
import { DATA_BYTES } from './client.ts';
import { BIG_BYTES, fileName, HOT_FILES, LARGE_SHARE_FILES, largeDir, WRITE_BYTES } from './tree.ts';
import { ownCpuUs } from './usage.ts';

const PAGE_BYTES = 4096;
const IOVEC_BYTES = 16;
const PATH = 0o10000000;
const [share = '', row = '', depth = '1', file = ''] = process.argv.slice(2);

const stat = new NativeMemory(STATX_BYTES);
const text = new NativeMemory(128 * 1024);
let textAt = 0;
/** Address of a C string that stays. */
function name(value: string): number {
  const at = text.putText(textAt, value);
  textAt += value.length + 1;
  return at;
}

function dir(path: string): number {
  return openPath(`${share}/${path}`, O.RDONLY);
}

/**
 * iovecs of single pages, from the last to the first, of `depth` buffers that lie in shared memory as the frontend's do;
 * the next one's address with each call.
 */
function buffers(bytes: number): { next: () => number; count: number } {
  const slots = Number(depth);
  const ram = new GuestRam([{ gpa: 0, bytes: slots * DATA_BYTES }]);
  const count = bytes / PAGE_BYTES;
  const iovecs = new NativeMemory(slots * count * IOVEC_BYTES);
  for (let slot = 0; slot < slots; slot++) {
    const end = ram.address(slot * DATA_BYTES) + DATA_BYTES;
    populateWrite(end - bytes, bytes);
    for (let i = 0; i < count; i++) {
      const at = (slot * count + i) * IOVEC_BYTES;
      iovecs.view.setBigUint64(at, BigInt(end - (i + 1) * PAGE_BYTES), true);
      iovecs.u32[at / 4 + 2] = PAGE_BYTES;
    }
  }
  let slot = 0;
  const next = (): number => {
    slot = (slot + 1) % slots;
    return iovecs.address + slot * count * IOVEC_BYTES;
  };
  return { next, count };
}

let seed = 0x1234567;
function random(count: number): number {
  seed = (Math.imul(seed, 1103515245) + 12345) & 0x3fffffff;
  return (seed >>> 4) % count;
}

const LIST_BYTES = 64 * 1024;

/** A whole listing, with the attributes of each name: names are found as a directory's records give them. */
function listing(): () => void {
  const fd = dir('list');
  const records = new NativeMemory(LIST_BYTES);
  return () => {
    lseek(fd, 0, SEEK.SET);
    for (let bytes = -1; bytes !== 0; ) {
      bytes = getdents64(fd, records.address, LIST_BYTES);
      if (bytes < 0) throw new Error(`getdents64 answered ${bytes}`);
      for (let at = 0; at < bytes; at += records.u32[(at + DIRENT.RECLEN) / 4] & 0xffff) {
        const entry = records.address + at + DIRENT.NAME;
        statx(fd, entry, AT.SYMLINK_NOFOLLOW, STATX_MASK.BASIC_STATS, stat.address);
      }
    }
  };
}

/** Where BIG_BYTES of data begin: in a cache file only what was read is there. @throws Error when there are not so many */
function bigRun(fd: number): number {
  for (let hole = 0; ; ) {
    const data = lseek(fd, hole, SEEK.DATA);
    if (data < 0) throw new Error(`${file} has no ${BIG_BYTES} bytes of data in one piece`);
    hole = lseek(fd, data, SEEK.HOLE);
    if (hole - data >= BIG_BYTES) return data;
  }
}

/** One request's calls. @throws Error for a row without host calls */
function body(): () => void {
  const [op, size = '0', unit] = row.split(' ');
  const bytes = Number(size) * (unit === 'MiB' ? 2 ** 20 : 1024);
  const sequential = row.endsWith('sequential');
  let position = 0;
  const names = Array.from({ length: HOT_FILES }, (_, i) => name(fileName(i)));
  const statFd = (fd: number): number => statx(fd, EMPTY_NAME, AT.EMPTY_PATH, STATX_MASK.BASIC_STATS, stat.address);
  if (op === 'GETATTR') {
    const { dirs, at } = objects(names);
    const fds = at.map((name, i) => openat(dirs[i], name, PATH, 0));
    return () => void statFd(fds[random(fds.length)]);
  }
  if (op === 'LOOKUP+FORGET') {
    const { dirs, at } = objects(names);
    return () => {
      const i = random(at.length);
      const fd = openat(dirs[i], at[i], PATH | O.NOFOLLOW, 0);
      statFd(fd);
      close(fd);
    };
  }
  if (row === 'LOOKUP absent') {
    const hot = dir('hot');
    const absent = name('f000777');
    return () => void openat(hot, absent, PATH | O.NOFOLLOW, 0);
  }
  if (row === 'OPEN+RELEASE') {
    const hot = dir('hot');
    // Two requests: half of the pair each time would be another thing, so every second call does nothing.
    let open = -1;
    return () => {
      if (open < 0) open = openat(hot, names[random(HOT_FILES)], O.RDONLY, 0);
      else open = Math.min(close(open), 0) - 1;
    };
  }
  if (op === 'READ') {
    const fd = openPath(file, O.RDONLY);
    const { next, count } = buffers(bytes);
    const blocks = BIG_BYTES / bytes;
    const from = bigRun(fd);
    return () => void preadv2(fd, next(), count, from + (sequential ? position++ % blocks : random(blocks)) * bytes, 0);
  }
  if (op === 'WRITE') {
    const fd = openPath(`${share}/write.bin`, O.WRONLY);
    const { next, count } = buffers(bytes);
    return () => void pwritev2(fd, next(), count, random(WRITE_BYTES / bytes) * bytes, 0);
  }
  if (row === 'CREATE+UNLINK') {
    const tmp = dir('tmp');
    const made = name('floor');
    let step = 0;
    let fd = -1;
    return () => {
      if (step === 0) {
        fd = openat(tmp, made, O.RDWR | O.CREAT | O.EXCL, S.IFREG | 0o644);
        statFd(fd);
      } else if (step === 1) close(fd);
      else unlinkat(tmp, made, 0);
      step = (step + 1) % 3;
    };
  }
  if (row === 'STATFS') {
    const root = dir('.');
    return () => void fstatfs(root, stat.address);
  }
  if (op === 'READDIRPLUS') return listing();
  throw new Error(`${row}: no host calls`);
}

/** Directory and name of each object of the row's set. */
function objects(hotNames: readonly number[]): { dirs: readonly number[]; at: readonly number[] } {
  if (!row.endsWith(' large')) {
    const hot = dir('hot');
    return { dirs: hotNames.map(() => hot), at: hotNames };
  }
  const opened = new Map<string, number>();
  const dirs = Array.from({ length: LARGE_SHARE_FILES }, (_, i) => {
    const path = largeDir(i);
    const fd = opened.get(path) ?? dir(path);
    opened.set(path, fd);
    return fd;
  });
  return { dirs, at: dirs.map((_, i) => name(fileName(i))) };
}

/** A multiple of 2 and 3: rows whose requests come in pairs or threes are counted evenly. */
const REQUESTS_PER_CLOCK = 12;
const request = body();

function slice(ms: number): number {
  const from = ownCpuUs();
  const until = performance.now() + ms;
  let done = 0;
  while (performance.now() < until) {
    for (let k = 0; k < REQUESTS_PER_CLOCK; k++) request();
    done += REQUESTS_PER_CLOCK;
  }
  return (ownCpuUs() - from) / done;
}

process.stdin.setEncoding('utf8').on('data', (text: string) => process.stdout.write(`${slice(Number(text))}\n`));
