/**
 * An arena written out as plain bytes and read back, for migration to another host, where no descriptor can go.
 *
 *     magic, version, crc32 of what follows, seed, tables | per table: 32 words of directory entry, its records | …
 *
 * Slots keep their numbers. Indexes are not written: `HashIndex.rebuild` makes them again from the records. The bytes
 * come from another host, so `loadArena` checks every number before it uses it.
 */
import { crc32 } from 'node:zlib';
import { Arena } from './arena.ts';
import { arenaError, ENTRY, entryAt, KIND } from './arena-layout.ts';
import { SLOTS_MAX, Table } from './table.ts';

const MAGIC = 0x504d_4441; // "ADMP"
const VERSION = 1;
/** Head in words. */
const D = { MAGIC: 0, VERSION: 1, CRC: 2, SEED: 3, TABLES: 4, WORDS: 6 } as const;
/** A million inodes are 64 MB; beyond 2 GiB no Buffer holds it. */
const DUMP_WORDS_MAX = 2 ** 29;

/**
 * Everything in the arena's tables and counters. Cold path, one copy of all records.
 * @throws ARENA_FULL when it would be more than 2 GiB
 */
export function dumpArena(arena: Arena): Uint8Array {
  const parts: Uint32Array[] = [];
  let words = D.WORDS;
  for (const name of arena.names()) {
    const at = entryAt(arena.numberOf(name));
    const kind = arena.header[at];
    if (kind === KIND.INDEX) continue;
    const entry = arena.header.slice(at, at + ENTRY.WORDS);
    const records = kind === KIND.TABLE ? openAsIs(arena, name, entry).records() : new Uint32Array(0);
    words += entry.length + records.length;
    if (words > DUMP_WORDS_MAX) throw arenaError('ARENA_FULL', { what: 'record in a dump' });
    parts.push(entry, records);
  }
  const out = new Uint32Array(words);
  out[D.MAGIC] = MAGIC;
  out[D.VERSION] = VERSION;
  out[D.SEED] = arena.seed;
  out[D.TABLES] = parts.length / 2;
  let at: number = D.WORDS;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  out[D.CRC] = checksum(out);
  return new Uint8Array(out.buffer);
}

/**
 * A new arena with the tables of a dump; open them by name, then `rebuild()` their indexes.
 * @throws ARENA_FOREIGN with what is wrong with the bytes; ARENA_MEMORY, ARENA_FULL
 */
export function loadArena(bytes: Uint8Array): Arena {
  const words = new Uint32Array(bytes.length >> 2);
  new Uint8Array(words.buffer).set(bytes.subarray(0, words.byteLength));
  const broken = brokenHead(words, bytes.length);
  if (broken !== null) throw arenaError('ARENA_FOREIGN', { reason: broken });
  const arena = Arena.create();
  try {
    arena.seed = words[D.SEED];
    let at: number = D.WORDS;
    for (let i = 0; i < words[D.TABLES]; i++) at += loadEntry(arena, words, at);
    if (at !== words.length) throw arenaError('ARENA_FOREIGN', { reason: 'bytes after the last table' });
    return arena;
  } catch (error) {
    arena.close();
    throw error;
  }
}

function brokenHead(words: Uint32Array, bytes: number): string | null {
  if (words.length < D.WORDS || bytes % 4 !== 0) return `a dump of ${bytes} bytes`;
  if (words[D.MAGIC] !== MAGIC) return 'no dump of tables';
  if (words[D.VERSION] !== VERSION) return `dump version ${words[D.VERSION]}, this one reads ${VERSION}`;
  return words[D.CRC] === checksum(words) ? null : 'checksum differs';
}

/** Loads one table or counter at word `at`; returns the words it took. */
function loadEntry(arena: Arena, words: Uint32Array, at: number): number {
  const entry = words.subarray(at, at + ENTRY.WORDS);
  const refuse = (reason: string): never => {
    throw arenaError('ARENA_FOREIGN', { reason });
  };
  if (entry.length < ENTRY.WORDS) return refuse('cut off in a table head');
  const name = nameIn(entry);
  if (name === '' || arena.numberOf(name) >= 0) return refuse(`table name '${name}' is empty or used twice`);
  if (entry[ENTRY.KIND] === KIND.COUNTER) {
    const counter = arena.entry(name, KIND.COUNTER, 0, 0);
    arena.header[counter.at + ENTRY.STATE] = entry[ENTRY.STATE];
    return ENTRY.WORDS;
  }
  const high = entry[ENTRY.HIGH];
  const cap = entry[ENTRY.CAP];
  if (entry[ENTRY.KIND] !== KIND.TABLE) return refuse(`${name} is of kind ${entry[ENTRY.KIND]}`);
  if (cap === 0 || cap > SLOTS_MAX || high > SLOTS_MAX) return refuse(`${name} has ${high} of ${cap} slots`);
  const length = high * (entry[ENTRY.RECORD_WORDS] + 1);
  const from = at + ENTRY.WORDS;
  if (length > words.length - from) return refuse(`${name} is longer than the dump`);
  openAsIs(arena, name, entry).restore(words.subarray(from, from + length));
  return ENTRY.WORDS + length;
}

function openAsIs(arena: Arena, name: string, entry: Uint32Array): Table {
  try {
    return new Table(arena, name, entry[ENTRY.RECORD_WORDS], entry[ENTRY.CAP]);
  } catch (error) {
    if (error instanceof RangeError) throw arenaError('ARENA_FOREIGN', { reason: error.message }, error);
    throw error;
  }
}

function nameIn(entry: Uint32Array): string {
  const bytes = Buffer.from(entry.buffer, entry.byteOffset + ENTRY.NAME * 4, (ENTRY.WORDS - ENTRY.NAME) * 4);
  const end = bytes.indexOf(0);
  return end < 0 ? '' : bytes.toString('utf8', 0, end);
}

function checksum(words: Uint32Array): number {
  const from = D.SEED * 4;
  return crc32(new Uint8Array(words.buffer, words.byteOffset + from, words.byteLength - from));
}
