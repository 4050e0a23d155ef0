/** Debian packages as a source of test parts: fetched with apt, unpacked into the cache, never installed. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { vmError } from './errors.ts';

const COMMAND_TIMEOUT_MS = 120_000;

/** Runs a program and returns its stdout. @throws VM_COMMAND when it fails or needs more than two minutes. */
export function run(program: string, args: readonly string[], cwd?: string): string {
  const done = spawnSync(program, args, {
    ...(cwd === undefined ? {} : { cwd }),
    encoding: 'utf8',
    timeout: COMMAND_TIMEOUT_MS,
    maxBuffer: 256 * 1024 ** 2,
    env: { ...process.env, LC_ALL: 'C', DEBIAN_FRONTEND: 'noninteractive' },
  });
  if (done.error === undefined && done.status === 0) return done.stdout;
  const output = done.error === undefined ? done.stderr : done.error.message;
  throw vmError('VM_COMMAND', { command: [program, ...args].join(' '), status: done.status, output });
}

/** Runs `ask`; when apt cannot answer because its lists are missing or old, and we may, renews them and asks again. */
export function withPackageLists<T>(ask: () => T): T {
  try {
    return ask();
  } catch (error) {
    if (process.getuid?.() !== 0) throw error;
    run('apt-get', ['update', '-q']);
    return ask();
  }
}

/** Packages `name` depends on, alternatives and virtual packages left out. */
export function dependencies(name: string): string[] {
  return [...run('apt-cache', ['depends', '--important', name]).matchAll(/^ {2}(?:Pre)?Depends: ([^<\s]+)$/gm)].map(
    (match) => match[1]!,
  );
}

/**
 * Unpacks Debian package `name` below `cacheDir/<name>` unless that was done before, and returns the folder.
 * @throws VM_COMMAND when apt can neither find nor fetch it.
 */
export function unpackedPackage(name: string, cacheDir: string): string {
  const folder = join(cacheDir, name);
  if (existsSync(folder)) return folder;
  mkdirSync(cacheDir, { recursive: true });
  const scratch = mkdtempSync(join(tmpdir(), 'nydus-deb-'));
  try {
    withPackageLists(() => run('apt-get', ['download', '-q', '-o', 'APT::Sandbox::User=root', name], scratch));
    const archive = readdirSync(scratch).find((entry) => entry.endsWith('.deb'));
    if (archive === undefined) throw vmError('VM_PART_MISSING', { part: name, hint: 'apt-get download left no file' });
    const partial = `${folder}.${process.pid}.partial`;
    run('dpkg-deb', ['-x', join(scratch, archive), partial]);
    if (existsSync(folder)) rmSync(partial, { recursive: true });
    else renameSync(partial, folder);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
  return folder;
}
