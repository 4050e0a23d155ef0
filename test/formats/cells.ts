/**
 * The matrix of formats (issue "every nydus image"): every combination of version, compressor, digester, chunk size and
 * kind is a cell, which is either made and read, or stands in `impossible` with the reason.
 */

export const VERSIONS = [5, 6] as const;
export const COMPRESSORS = ['none', 'lz4_block', 'zstd', 'gzip'] as const;
export const DIGESTERS = ['blake3', 'sha256'] as const;
export const CHUNK_SIZES = [0x1000, 0x1_0000, 0x10_0000, 0x100_0000] as const;
export const KINDS = [
  'plain',
  'batch',
  'encrypted',
  'batch-encrypted',
  'zran-one-member',
  'zran-many-members',
  'tarfs',
  'dictionary',
  'external',
] as const;

export type Kind = (typeof KINDS)[number];

export interface Cell {
  version: (typeof VERSIONS)[number];
  compressor: (typeof COMPRESSORS)[number];
  digester: (typeof DIGESTERS)[number];
  chunkBytes: (typeof CHUNK_SIZES)[number];
  kind: Kind;
}

interface KindRules {
  /** Why RAFS v5 has none of this kind. */
  notV5?: string;
  /** The only compressor there is, and why. */
  compressor?: readonly [Cell['compressor'], string];
  /** The only digester there is, and why. */
  digester?: readonly [Cell['digester'], string];
  /** Why chunks of this kind are never gzip members. */
  notGzip?: string;
  /** Stored sizes stand in chunk infos of version 2. */
  storesInV2?: boolean;
}

/** Stored sizes in chunk infos of version 2 have 24 bits. */
const V2_STORED_BYTES_END = 0x100_0000;
const RAW_16_MIB = 'a chunk info of version 2 cannot hold the stored size of a raw chunk of 16 MiB';

const V6_TABLES = 'a v5 image describes each chunk in its inode: it has no chunk table with contexts or a cipher';
const NO_GZIP_BUILDER = 'gzip chunks are those of stargz layers, which are referred to and never built';
const REFERENCE: KindRules = {
  notV5: V6_TABLES,
  compressor: ['gzip', 'the blob is the original .tar.gz'],
  digester: ['sha256', 'references are always digested with SHA-256'],
};

const RULES: Record<Kind, KindRules> = {
  plain: {},
  batch: { notV5: V6_TABLES, notGzip: NO_GZIP_BUILDER, storesInV2: true },
  encrypted: { notV5: V6_TABLES, notGzip: NO_GZIP_BUILDER, storesInV2: true },
  'batch-encrypted': { notV5: V6_TABLES, notGzip: NO_GZIP_BUILDER, storesInV2: true },
  'zran-one-member': REFERENCE,
  'zran-many-members': REFERENCE,
  tarfs: {
    notV5: 'tarfs is EROFS with 512-byte blocks, v6 only',
    compressor: ['none', 'the blob is a plain tar'],
    digester: ['sha256', 'the builder forces SHA-256, and computes none'],
  },
  dictionary: { notGzip: NO_GZIP_BUILDER },
  external: { compressor: ['none', 'external data is raw'] },
};

/** Why there is no such image, or null: then it must be made and read. */
export function impossible({ version, compressor, digester, chunkBytes, kind }: Cell): string | null {
  const rules = RULES[kind];
  if (version === 5 && rules.notV5 !== undefined) return rules.notV5;
  if (rules.compressor !== undefined && compressor !== rules.compressor[0]) return rules.compressor[1];
  if (rules.digester !== undefined && digester !== rules.digester[0]) return rules.digester[1];
  if (rules.storesInV2 && compressor === 'none' && chunkBytes === V2_STORED_BYTES_END) return RAW_16_MIB;
  return compressor === 'gzip' ? (rules.notGzip ?? null) : null;
}

/** The whole product. */
export function allCells(): Cell[] {
  return VERSIONS.flatMap((version) =>
    COMPRESSORS.flatMap((compressor) =>
      DIGESTERS.flatMap((digester) =>
        CHUNK_SIZES.flatMap((chunkBytes) =>
          KINDS.map((kind): Cell => ({ version, compressor, digester, chunkBytes, kind })),
        ),
      ),
    ),
  );
}

/** Fewest cells (greedily) in which every two values that occur together anywhere in `cells` do so. */
export function pairwise(cells: readonly Cell[]): Cell[] {
  const open = new Set(cells.flatMap(pairsOf));
  const chosen: Cell[] = [];
  const gain = (cell: Cell) => pairsOf(cell).filter((pair) => open.has(pair)).length;
  while (open.size > 0) {
    const best = cells.reduce((a, b) => (gain(b) > gain(a) ? b : a));
    chosen.push(best);
    for (const pair of pairsOf(best)) open.delete(pair);
  }
  return chosen;
}

function pairsOf(cell: Cell): string[] {
  const values = Object.entries(cell).map(([name, value]) => `${name}=${value}`);
  return values.flatMap((a, i) => values.slice(i + 1).map((b) => `${a} ${b}`));
}

export function nameOf({ version, compressor, digester, chunkBytes, kind }: Cell): string {
  return `v${version} ${kind}, ${compressor}, ${digester}, chunks of ${chunkBytes / 1024} KiB`;
}
