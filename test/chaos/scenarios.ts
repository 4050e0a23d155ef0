/** What goes wrong, and what may be seen of it: `errors` says whether a reader may get EIO while the fault lasts. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Mode } from '../daemon/fault-server.ts';
import { BLOB, type ChaosRig, type Counts, FILES, noCounts, Reader } from './rig.ts';

export interface Scenario {
  name: string;
  /** Errors are allowed while the fault lasts. */
  mayFail: boolean;
  /** Slow ones are left out of the short run. */
  isSlow?: boolean;
  run(rig: ChaosRig, counts: Counts): Promise<void>;
}

/** The registry misbehaves while everything is read, then no more. */
function registry(
  name: string,
  mode: Mode,
  mayFail: boolean,
  options: { isSlow?: boolean; files?: number } = {},
): Scenario {
  const files = FILES.slice(0, options.files ?? FILES.length);
  return {
    name,
    mayFail,
    isSlow: options.isSlow ?? false,
    async run(rig, counts) {
      await rig.server.mode(mode);
      const daemon = await rig.daemon(rig.freshCache());
      const reader = new Reader(daemon);
      try {
        reader.readAll(counts, files);
        await rig.server.mode('ok');
        reader.recover(counts);
      } finally {
        await rig.server.mode('ok');
        reader.close();
        daemon.kill();
      }
    },
  };
}

const dataFile = (cache: string): string => path.join(cache, `${BLOB.id}.blob.data`);
const mapFile = (cache: string): string => `${dataFile(cache)}.chunk_map`;
const HALF = FILES.length >> 1;
const SETTLE_MS = 300;

/** Half of the files are read, `harm` comes over the cache, and everything is read: under the daemon, or by the next one. */
function cache(name: string, harm: (cache: string) => void, when: 'under' | 'between', mayFail = false): Scenario {
  return {
    name: `${name}, ${when === 'under' ? 'under a daemon' : 'between runs'}`,
    mayFail,
    async run(rig, counts) {
      const dir = rig.freshCache();
      let daemon = await rig.daemon(dir);
      let reader = new Reader(daemon);
      try {
        reader.readAll(counts, FILES.slice(0, HALF));
        if (when === 'between') {
          reader.close();
          daemon.kill();
        }
        // What is read ahead is written: a write that meets the cut itself could not be told from a whole file.
        await sleep(SETTLE_MS);
        harm(dir);
        if (when === 'between') {
          daemon = await rig.daemon(dir);
          reader = new Reader(daemon);
        }
        reader.readAll(counts);
        reader.recover(counts);
      } finally {
        reader.close();
        daemon.kill();
      }
    },
  };
}

/** A cache directory on a file system that takes nothing, or not enough: reads go on uncached; then it does. */
function disk(name: string, options: string, lift: string): Scenario {
  return {
    name,
    mayFail: false,
    async run(rig, counts) {
      const dir = rig.freshCache();
      execFileSync('mount', ['-t', 'tmpfs', '-o', options, 'chaos', dir]);
      try {
        const daemon = await rig.daemon(dir);
        const reader = new Reader(daemon);
        try {
          reader.readAll(counts, FILES.slice(0, 5));
          execFileSync('mount', ['-o', `remount,${lift}`, dir]);
          reader.recover(counts);
        } finally {
          reader.close();
          daemon.kill();
        }
      } finally {
        execFileSync('umount', ['-l', dir]);
      }
    },
  };
}

/** The harness's own canary: wrong bytes must show where nothing checks them. Their number is not counted. */
const canary: Scenario = {
  name: 'canary: shifted bytes of raw chunks, validation off',
  mayFail: true,
  async run(rig) {
    await rig.server.mode('garbage');
    const daemon = await rig.daemon(rig.freshCache(), false);
    const reader = new Reader(daemon);
    const seen = noCounts();
    try {
      reader.readAll(seen, FILES.slice(0, 3));
    } finally {
      await rig.server.mode('ok');
      reader.close();
      daemon.kill();
    }
    if (seen.errors + seen.wrongBytes === 0) throw new Error('garbage from the registry went unnoticed by the harness');
  },
};

const truncate = (file: (cache: string) => string, bytes: number) => (dir: string) => fs.truncateSync(file(dir), bytes);
const remove = (dir: string): void => fs.rmSync(dir, { recursive: true });

export const SCENARIOS: readonly Scenario[] = [
  registry('slow registry', 'slow', false),
  registry('404 every other request', 'every-other-404', false),
  registry('503 every other request', 'every-other-503', false),
  registry('429 with Retry-After every other request', 'every-other-429', false),
  registry('401 once, then a token', 'every-other-401', false),
  registry('connections reset', 'every-other-reset', false),
  registry('bodies shorter than their Content-Length', 'every-other-short', false),
  registry('bodies shorter, with a true Content-Length', 'every-other-short-true', false),
  registry('stalled bodies', 'every-other-stall', false, { isSlow: true, files: 3 }),
  registry('half-closed connections', 'every-other-half-closed', false),
  registry('Range ignored', 'ignore-range', false),
  registry('flipped bits every other request', 'every-other-garbage', true),
  registry('shifted ranges every other request', 'every-other-shifted', true),
  registry('flipped bits in every answer', 'garbage', true, { files: 4 }),
  registry('shifted ranges in every answer', 'shifted', true, { files: 4 }),
  registry('503 storm past the deadline', '503', true, { files: 2 }),
  registry('no answers past the deadline', 'hang', true, { isSlow: true, files: 1 }),
  canary,
  cache('cache directory deleted', remove, 'under'),
  cache('cache directory deleted', remove, 'between'),
  cache('data truncated to 0', truncate(dataFile, 0), 'between'),
  cache('data truncated to a page', truncate(dataFile, 4096), 'between'),
  cache('data truncated to 0', truncate(dataFile, 0), 'under', true),
  cache('chunk map truncated to 0', truncate(mapFile, 0), 'under'),
  cache('chunk map truncated to 0', truncate(mapFile, 0), 'between'),
  cache('chunk map truncated to 4097', truncate(mapFile, 4097), 'between'),
  disk('cache directory full, then with room', 'size=64k', 'size=64m'),
  disk('cache directory read-only, then writable', 'ro', 'rw'),
];
