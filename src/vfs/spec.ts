/** What can be mounted: plain data, structured-clonable, made by main and turned into members by members.ts. */
import type { CachePolicy } from '../passthrough/index.ts';
import type { BlobHandle } from '../storage/types.ts';

export interface PassthroughSpec {
  kind: 'passthrough';
  /** Host directory, absolute. */
  source: string;
  cache: CachePolicy;
  readOnly: boolean;
  xattr: boolean;
}

export interface RafsSpec {
  kind: 'rafs';
  /** Bootstrap opened by main; the member preads it and owns it (closes it at umount). */
  bootstrapFd: number;
  /** For messages only. */
  bootstrapPath: string;
  /** In blob-table order. */
  blobs: BlobHandle[];
  /** Check metadata against its digests as it is walked, where the image has a tree of them (v5). */
  validate: boolean;
  /** Where first reads of chunks are written down (`src/rafs/access-log.ts`). */
  trace?: SharedArrayBuffer;
}

export type MemberSpec = PassthroughSpec | RafsSpec;
