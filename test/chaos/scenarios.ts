/** What goes wrong, and what may be seen of it: `mayFail` says whether a reader may get an errno while the fault lasts. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Mode } from '../daemon/fault-server.ts';
import { type Counts, noCounts } from './counts.ts';
import { dataFile, type Image, imageOf, mapFile } from './images.ts';
import type { ChaosRig, Column } from './rig.ts';

export interface Scenario {
  name: string;
  /** Errors are allowed while the fault lasts. */
  mayFail: boolean;
  /** Slow ones are left out of the short run. */
  isSlow: boolean;
  /** Only for images with metadata in their blobs. */
  needsMetadata: boolean;
  run(rig: ChaosRig, column: Column, image: Image, counts: Counts): Promise<void>;
}

interface RegistryOptions {
  isSlow?: boolean;
  /** Only so many files are read while the fault lasts. */
  files?: number;
  /** Only requests for the blob's metadata meet the fault. */
  metadata?: boolean;
}

/** The registry misbehaves while everything is read, then no more. */
function registry(name: string, mode: Mode, mayFail: boolean, options: RegistryOptions = {}): Scenario {
  const needsMetadata = options.metadata ?? false;
  return {
    name: needsMetadata ? `metadata: ${name}` : name,
    mayFail,
    isSlow: options.isSlow ?? false,
    needsMetadata,
    async run(rig, column, image, counts) {
      await rig.server.mode(mode, needsMetadata ? image.metadata! : {});
      const served = await rig.serve(column, { image, cache: rig.freshDir() });
      try {
        await served.reader.readAll(counts, image.files.slice(0, options.files));
        await rig.server.mode('ok');
        await served.reader.recover(counts, image.files);
      } finally {
        await rig.server.mode('ok');
        served.reader.close();
        await served.end();
      }
    },
  };
}

const SETTLE_MS = 300;

/** Half of the files are read, `harm` comes over the cache, and everything is read: under the daemon, or by the next one. */
function cache(name: string, harm: (cache: string) => void, when: 'under' | 'between', mayFail = false): Scenario {
  return {
    name: `${name}, ${when === 'under' ? 'under a daemon' : 'between runs'}`,
    mayFail,
    isSlow: false,
    needsMetadata: false,
    async run(rig, column, image, counts) {
      const { files } = image;
      const dir = rig.freshDir();
      let served = await rig.serve(column, { image, cache: dir });
      try {
        await served.reader.readAll(counts, files.slice(0, files.length >> 1));
        if (when === 'between') {
          served.reader.close();
          await served.end();
        }
        // What is read ahead is written: a write that meets the cut itself could not be told from a whole file.
        await sleep(SETTLE_MS);
        harm(dir);
        if (when === 'between') served = await rig.serve(column, { image, cache: dir });
        await served.reader.readAll(counts, files);
        await served.reader.recover(counts, files);
      } finally {
        served.reader.close();
        await served.end();
      }
    },
  };
}

/** A cache directory on a file system that takes nothing, or not enough: reads go on uncached; then it does. */
function disk(name: string, options: string, lift: string): Scenario {
  return {
    name,
    mayFail: false,
    isSlow: false,
    needsMetadata: false,
    async run(rig, column, image, counts) {
      const dir = rig.freshDir();
      execFileSync('mount', ['-t', 'tmpfs', '-o', options, 'chaos', dir]);
      try {
        const served = await rig.serve(column, { image, cache: dir });
        try {
          await served.reader.readAll(counts, image.files.slice(0, 5));
          execFileSync('mount', ['-o', `remount,${lift}`, dir]);
          await served.reader.recover(counts, image.files);
        } finally {
          served.reader.close();
          await served.end();
        }
      } finally {
        execFileSync('umount', ['-l', dir]);
      }
    },
  };
}

/** The harness's own canary: where nothing checks them, wrong bytes must show. Their number is not counted. */
const canary: Scenario = {
  name: 'canary: flipped bits of raw chunks, validation off',
  mayFail: true,
  isSlow: false,
  needsMetadata: false,
  async run(rig, column) {
    const image = imageOf('raw');
    await rig.server.mode('garbage', { until: image.metadata!.from! });
    const seen = noCounts();
    try {
      const served = await rig.serve(column, { image, cache: rig.freshDir(), validate: false });
      try {
        await served.reader.readAll(seen, image.files.slice(0, 3));
      } finally {
        served.reader.close();
        await served.end();
      }
    } finally {
      await rig.server.mode('ok');
    }
    if (seen.wrongBytes === 0) throw new Error('garbage from the registry went unnoticed by the harness');
  },
};

const truncate = (file: (cache: string) => string | null, bytes: number) => (dir: string) =>
  fs.truncateSync(file(dir)!, bytes);
const remove = (dir: string): void => fs.rmSync(dir, { recursive: true });

export const SCENARIOS: readonly Scenario[] = [
  registry('slow registry', 'slow', false),
  registry('404 every other request', 'every-other-404', false),
  registry('503 every other request', 'every-other-503', false),
  registry('429 with Retry-After every other request', 'every-other-429', false),
  registry('401 once, then a token', 'every-other-401', false),
  registry('connections reset', 'every-other-reset', false),
  registry('bodies shorter than their Content-Length', 'every-other-short', false),
  registry('short bodies that say so', 'every-other-short-true', false),
  registry('connections half closed', 'every-other-half-closed', false),
  registry('bodies that stall', 'every-other-stall', false, { isSlow: true, files: 3 }),
  registry('Range ignored', 'ignore-range', false),
  registry('flipped bits every other request', 'every-other-garbage', true),
  registry('shifted ranges every other request', 'every-other-shifted', true),
  registry('flipped bits in every answer', 'garbage', true, { files: 4 }),
  registry('shifted ranges in every answer', 'shifted', true, { files: 4 }),
  registry('503 storm past the deadline', '503', true, { files: 1 }),
  registry('connections refused past the deadline', 'refused', true, { files: 1 }),
  registry('no answers past the deadline', 'hang', true, { isSlow: true, files: 1 }),
  registry('404 every other request', 'every-other-404', false, { metadata: true }),
  registry('503 every other request', 'every-other-503', false, { metadata: true }),
  registry('connections reset', 'every-other-reset', false, { metadata: true }),
  registry('bodies shorter than their Content-Length', 'every-other-short', false, { metadata: true }),
  registry('Range ignored', 'ignore-range', false, { metadata: true }),
  registry('flipped bits every other request', 'every-other-garbage', true, { metadata: true }),
  registry('flipped bits in every answer', 'garbage', true, { metadata: true, files: 2 }),
  registry('shifted ranges in every answer', 'shifted', true, { metadata: true, files: 2 }),
  registry('503 storm past the deadline', '503', true, { metadata: true, files: 1, isSlow: true }),
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
