/**
 * File systems that do not answer: a dead NFS server, the FUSE mount of a stopped process. Whoever touches one waits for
 * ever, and takes a thread of the pool with him when he asks from there. So each is asked one question at a time, all
 * together hold some threads only, and one that owes an answer is not asked again until it has given it.
 */
import { lstat, open, opendir, readlink, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { codeOf, defineErrors } from './app-error.ts';
import { mountPointOf, mountPoints } from './mount-points.ts';

/** A disk under load answers within this; the client of a mount waits 30 s. */
const ANSWER_MS_MAX = 10_000;

/** Of the pool's four threads one is left, which fetches data. */
const ASKED_MAX = 3;

/** As many as the kernel follows. */
const LINKS_MAX = 40;

/** The first page of an image. */
const PAGE_BYTES = 4096;

const hangs = defineErrors<{
  SOURCE_HANGS: { path: string; waitedMs: number; mountPoints: readonly string[] };
}>({
  SOURCE_HANGS: {
    retryable: true,
    say: ({ path, waitedMs, mountPoints: at }) =>
      waitedMs === 0
        ? `${path} is not looked at while what is mounted at ${at.join(', ')} does not answer; unmount or revive that first`
        : `${path} does not answer within ${waitedMs / 1000} s; is what is mounted at ${at.join(', ')} alive?`,
  },
});

/** Mount point → settles when its file system has answered. */
const asked = new Map<string, Promise<void>>();
/** Those of `asked` that somebody has waited for in vain. */
const hanging = new Set<string>();

/**
 * What `ask` says of `path`, below the mount point `at`. The time counts anew with each sign of life.
 * @throws AppError SOURCE_HANGS after `limitMs`, or at once while its file system hangs, or too many others do; and what
 *   `ask` throws
 */
export async function askInTime<T>(
  at: string,
  path: string,
  ask: () => Promise<T>,
  limitMs = ANSWER_MS_MAX,
): Promise<T> {
  const hangsAt = (mountPoints: Iterable<string>, waitedMs: number) =>
    hangs('SOURCE_HANGS', { path, waitedMs, mountPoints: [...mountPoints] });
  while (asked.has(at) || asked.size >= ASKED_MAX) {
    if (hanging.has(at)) throw hangsAt([at], 0);
    if (hanging.size >= ASKED_MAX) throw hangsAt(hanging, 0);
    const late = () => hangsAt(asked.has(at) ? [at] : asked.keys(), limitMs);
    await within(limitMs, late, Promise.race(asked.values()));
  }
  const answer = ask();
  const settled = () => {
    asked.delete(at);
    hanging.delete(at);
  };
  asked.set(at, answer.then(settled, settled));
  const late = () => {
    hanging.add(at);
    return hangsAt([at], limitMs);
  };
  return within(limitMs, late, answer);
}

/** `answer`, or a rejection with `late()` when it has not settled after `limitMs`. */
export async function within<T>(limitMs: number, late: () => Error, answer: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const end = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(late()), limitMs);
  });
  try {
    return await Promise.race([answer, end]);
  } finally {
    clearTimeout(timer);
  }
}

/** Returns when `path` can be looked at without waiting, or will fail at once. @throws AppError SOURCE_HANGS */
export async function demandAnswer(path: string): Promise<void> {
  const points = mountPoints();
  const ask = <T>(where: string, question: () => Promise<T>) => askInTime(mountPointOf(where, points), path, question);
  try {
    const real = await withoutLinks(path, ask);
    await ask(real, () => look(real));
  } catch (error) {
    // What else is wrong with it says whoever opens it in earnest.
    if (codeOf(error) === 'SOURCE_HANGS') throw error;
  }
}

/**
 * As realpath, step by step: of each it is known which file system is asked.
 * @throws Node's errors, and what `ask` throws
 */
async function withoutLinks(
  path: string,
  ask: <T>(where: string, question: () => Promise<T>) => Promise<T>,
): Promise<string> {
  let real = '/';
  let links = 0;
  const rest = names(resolve(path));
  for (let name = rest.shift(); name !== undefined; name = rest.shift()) {
    const next = join(real, name);
    const isLink = (await ask(next, () => lstat(next))).isSymbolicLink();
    if (!isLink) {
      real = next;
      continue;
    }
    if (++links > LINKS_MAX) return next;
    const target = await ask(next, () => readlink(next));
    if (target.startsWith('/')) real = '/';
    rest.unshift(...names(target));
  }
  return real;
}

const names = (path: string): string[] => path.split('/').filter((name) => name !== '');

/** Possibly everything but the last comes from the kernel's memory. */
async function look(path: string): Promise<void> {
  const found = await stat(path);
  if (found.isDirectory()) {
    const directory = await opendir(path, { bufferSize: 1 });
    await directory.read().finally(() => directory.close());
  } else if (found.isFile()) {
    const file = await open(path);
    await file.read(Buffer.allocUnsafe(PAGE_BYTES), 0, PAGE_BYTES, 0).finally(() => file.close());
  }
}
