/** Words, limits and errors of an arena (arena.ts draws the picture). */
import { defineErrors } from '../common/app-error.ts';
import { errnoText } from './errno.ts';

/** Growth step. Large enough that a million records need few mappings, small enough that a step costs about 10 µs. */
export const SEGMENT_BYTES = 128 * 1024;
export const SEGMENT_WORDS = SEGMENT_BYTES / 4;
/** 2 GiB of tables: thirty times a million inodes. */
export const SEGMENTS_MAX = 16_384;
/** A passthrough member has about five; 400 of them are far beyond what one guest mounts. */
export const TABLES_MAX = 2048;
export const NAME_BYTES_MAX = 63;

export const MAGIC = 0x4e59_4152; // "NYAR"
export const VERSION = 1;
/** Header words. */
export const H = { MAGIC: 0, VERSION: 1, SEGMENTS: 2, SEED: 3, ENTRIES: 4, TABLES: 16 } as const;
/** Directory entry of a table, in words. The name fills the second half. */
export const ENTRY = {
  /** One of KIND; 0: the entry is free. */
  KIND: 0,
  RECORD_WORDS: 1,
  CAP: 2,
  /** First free slot + 1, 0 = none. */
  FREE: 3,
  /** Slots ever used. */
  HIGH: 4,
  COUNT: 5,
  SEGMENTS: 6,
  /** For the owner: an index's bucket count, a counter's next value. */
  STATE: 7,
  NAME: 16,
  WORDS: 32,
} as const;
export const KIND = { FREE: 0, TABLE: 1, INDEX: 2, COUNTER: 3 } as const;
/** Per segment two words: directory entry + 1 (0 = free), and its position in that table. */
export const OWNERS = H.TABLES + TABLES_MAX * ENTRY.WORDS;
export const HEADER_BYTES = 512 * 1024;
if ((OWNERS + SEGMENTS_MAX * 2) * 4 > HEADER_BYTES) throw new RangeError('the header is too small for its directory');

interface Facts {
  ARENA_MEMORY: { step: string; errno: number };
  ARENA_FOREIGN: { reason: string };
  ARENA_FULL: { what: string };
  ARENA_LAYOUT: { name: string; wanted: string; found: string };
}

/** Errors of opening arenas and tables; the operations on open ones answer numbers. */
export const arenaError = defineErrors<Facts>({
  ARENA_MEMORY: { retryable: true, say: (f) => `${f.step} for the table arena failed: ${errnoText(f.errno)}` },
  ARENA_FOREIGN: { retryable: false, say: (f) => `saved tables cannot be used: ${f.reason}` },
  ARENA_FULL: { retryable: false, say: (f) => `the table arena has no room for another ${f.what}` },
  ARENA_LAYOUT: {
    retryable: false,
    say: (f) => `saved table ${f.name} has ${f.found}, this version wants ${f.wanted}`,
  },
});

/** First word of directory entry `number`. */
export function entryAt(number: number): number {
  return H.TABLES + number * ENTRY.WORDS;
}
