/**
 * Chunks that are stored together (rafs-format 3.6, 3.7): a batch of small files, or what the inflater gives between
 * two entry points of a `.tar.gz`. Behind the chunk infos of a blob.meta stands one context per group; the chunks name
 * it by number and say where in its output they lie.
 *
 *   batch   one stored unit, decrypted and decompressed as a whole
 *   zran    a range of the gzip file, where its deflate stream is entered, and the 32 KiB window before that
 */

import type { EntryPoint } from '../codecs/inflate.ts';
import type { BlobInfo } from '../types.ts';
import { type CctHeader, CHUNK_FLAG, CHUNK_INFO_V2_BYTES, type ChunkInfo, FEATURE, readU64 } from './blob-layout.ts';

export const CONTEXT_BYTES = 40;
const BATCH = { stored: 0, uncompressed: 4 } as const;
const ZRAN = { inOffset: 0, dictOffset: 16, inBytes: 24, outBytes: 28, dictBytes: 32, byte: 36, bits: 37 } as const;

/** Builders make batches of at most a chunk's size. */
const BATCH_BYTES_MAX = 16 << 20;
/**
 * Input and output of one zran context: builders end one at 2 MiB or one chunk, fixtures have 3.2 MB; a context is
 * decoded in memory as a whole.
 */
const ZRAN_BYTES_MAX = 64 << 20;
const DICTIONARY_BYTES_MAX = 32 << 10;
/** Contexts kept decoded. */
const KEPT_MAX = 256;

/** Chunks that come out of one stored unit. */
export interface Unit {
  kind: 'batch' | 'zran';
  /** Bytes as stored, and where: batches lie where their chunks say, so theirs is -1. */
  storedOffset: number;
  storedBytes: number;
  outputBytes: number;
  /** Position of the dictionary in the CI table, and its length; zran only. */
  dictionaryAt: number;
  dictionaryBytes: number;
  byte: number;
  bits: number;
}

/** Where contexts stand in the uncompressed CI table; null for a blob without. */
export interface ContextTable {
  kind: Unit['kind'];
  offset: number;
  count: number;
  /** Bytes of dictionaries behind the contexts. */
  dictionaryBytes: number;
}

/** Which contexts the header announces (rafs-format 9, item 28), or the broken rule. */
export function contextTable(info: BlobInfo, header: CctHeader): ContextTable | null | string {
  const kind = info.features & FEATURE.ZRAN ? 'zran' : info.features & FEATURE.BATCH ? 'batch' : null;
  const infos = info.chunkCount * CHUNK_INFO_V2_BYTES;
  if (kind === null) {
    if (header.contextCount !== 0) return `${header.contextCount} contexts in a blob without`;
    return null;
  }
  const { contextOffset, contextCount, contextSize } = header;
  if (contextCount > info.chunkCount) return `${contextCount} contexts for ${info.chunkCount} chunks`;
  if (contextCount > 0 && contextOffset !== infos) return `contexts at ${contextOffset} instead of ${infos}`;
  const dictionaryBytes = contextSize - contextCount * CONTEXT_BYTES;
  if (dictionaryBytes < 0) return `${contextSize} bytes for ${contextCount} contexts`;
  if (kind === 'batch' && dictionaryBytes !== 0) return `${contextSize} bytes for ${contextCount} contexts`;
  if (dictionaryBytes > contextCount * DICTIONARY_BYTES_MAX) {
    return `${dictionaryBytes} bytes of dictionaries`;
  }
  if (infos + contextSize > info.ciUncompressedSize) return 'contexts end behind the table';
  return { kind, offset: infos, count: contextCount, dictionaryBytes };
}

/** Largest CI table a blob of this kind can have: what is decoded into memory. */
export function ciBytesMax(info: BlobInfo, entryBytes: number): number {
  const infos = info.chunkCount * entryBytes;
  if (info.features & FEATURE.BATCH) return infos + info.chunkCount * CONTEXT_BYTES;
  if (info.features & FEATURE.ZRAN) return infos + info.chunkCount * (CONTEXT_BYTES + DICTIONARY_BYTES_MAX);
  return infos;
}

/** Contexts of one blob.meta, read from the file when they are needed. */
export class Contexts {
  private readonly kept = new Map<number, Unit>();

  /** @param read gives bytes of the CI table */
  constructor(
    readonly table: ContextTable,
    private readonly read: (offset: number, bytes: number) => Buffer,
  ) {}

  /** Unit `index`, which is below `table.count`. */
  unit(index: number): Unit {
    const known = this.kept.get(index);
    if (known !== undefined) return known;
    const { kind, offset } = this.table;
    const unit = decodeUnit(this.table, this.read(offset + index * CONTEXT_BYTES, CONTEXT_BYTES), kind);
    for (const oldest of this.kept.keys()) {
      if (this.kept.size < KEPT_MAX) break;
      this.kept.delete(oldest);
    }
    this.kept.set(index, unit);
    return unit;
  }

  /** How to enter the deflate stream of a zran unit. */
  entryPoint(unit: Unit): EntryPoint {
    const { dictionaryAt, dictionaryBytes, byte, bits } = unit;
    const dictionary = dictionaryBytes === 0 ? Buffer.alloc(0) : this.read(dictionaryAt, dictionaryBytes);
    return { dictionary, byte, bits };
  }

  /** Items 31 and 32 for context `index`: the broken rule or null. @param storedEnd length of the chunk data */
  check(index: number, storedEnd: number): string | null {
    const { count, offset, dictionaryBytes } = this.table;
    const rule = checkUnit(this.unit(index), storedEnd, offset + count * CONTEXT_BYTES + dictionaryBytes);
    return rule === null ? null : `context ${index} ${rule}`;
  }
}

function decodeUnit(table: ContextTable, bytes: Buffer, kind: Unit['kind']): Unit {
  if (kind === 'batch') {
    return {
      kind,
      storedOffset: -1,
      storedBytes: bytes.readUInt32LE(BATCH.stored),
      outputBytes: bytes.readUInt32LE(BATCH.uncompressed),
      dictionaryAt: 0,
      dictionaryBytes: 0,
      byte: 0,
      bits: 0,
    };
  }
  const dictOffset = readU64(bytes, ZRAN.dictOffset);
  return {
    kind,
    storedOffset: readU64(bytes, ZRAN.inOffset),
    storedBytes: bytes.readUInt32LE(ZRAN.inBytes),
    outputBytes: bytes.readUInt32LE(ZRAN.outBytes),
    dictionaryAt: dictOffset < 0 ? -1 : table.offset + table.count * CONTEXT_BYTES + dictOffset,
    dictionaryBytes: bytes.readUInt32LE(ZRAN.dictBytes),
    byte: bytes[ZRAN.byte],
    bits: bytes[ZRAN.bits],
  };
}

function checkUnit(unit: Unit, storedEnd: number, dictionariesEnd: number): string | null {
  if (unit.storedBytes === 0 || unit.outputBytes === 0) return 'is empty';
  if (unit.kind === 'batch') {
    if (unit.outputBytes > BATCH_BYTES_MAX) return `is ${unit.outputBytes} bytes long`;
    return unit.storedBytes > storedEnd ? 'ends behind the chunk data' : null;
  }
  if (unit.storedBytes > ZRAN_BYTES_MAX) return `takes ${unit.storedBytes} bytes`;
  if (unit.outputBytes > ZRAN_BYTES_MAX) return `gives ${unit.outputBytes} bytes`;
  if (unit.storedOffset < 0 || unit.storedOffset + unit.storedBytes > storedEnd) return 'ends behind the chunk data';
  if (unit.bits > 7) return `begins with ${unit.bits} bits`;
  if (unit.dictionaryBytes > DICTIONARY_BYTES_MAX) return `has a dictionary of ${unit.dictionaryBytes} bytes`;
  const isInside = unit.dictionaryAt >= 0 && unit.dictionaryAt + unit.dictionaryBytes <= dictionariesEnd;
  return unit.dictionaryBytes > 0 && !isInside ? 'has its dictionary outside the table' : null;
}

/** Item 30 for a member: the broken rule or null. */
export function checkMember(chunk: ChunkInfo, contexts: Contexts | null, storedEnd: number): string | null {
  const isZran = (chunk.flags & CHUNK_FLAG.ZRAN) !== 0;
  const isBatch = (chunk.flags & CHUNK_FLAG.BATCH) !== 0;
  if (contexts === null || isZran === isBatch || isZran !== (contexts.table.kind === 'zran')) {
    return 'has flags its blob has not';
  }
  if (chunk.high >= contexts.table.count) return `names context ${chunk.high}`;
  const unit = contexts.unit(chunk.high);
  if (chunk.low + chunk.uncompressedSize > unit.outputBytes) return `ends behind its context ${chunk.high}`;
  const isInside = isZran || chunk.compressedOffset + unit.storedBytes <= storedEnd;
  return isInside ? null : 'lies in a batch that ends behind the chunk data';
}
