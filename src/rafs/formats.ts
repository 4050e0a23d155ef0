/** The readers of all versions behind the one interface; what differs between versions ends here. */
import type { Geometry } from './geometry.ts';
import type { Metadata } from './metadata.ts';
import type { PageCache } from './page-cache.ts';
import { V5Metadata } from './v5/reader.ts';
import { V6Metadata } from './v6/reader.ts';

/**
 * The reader of a bootstrap.
 * @param fd the bootstrap, kept open by the caller until `close`
 * @param blobCount entries of its blob table
 * @param validate check the digest tree as it is walked; only v5 has one
 */
export function newMetadata(
  cache: PageCache,
  fd: number,
  geometry: Geometry,
  blobCount: number,
  validate: boolean,
): Metadata {
  if (geometry.version === 5) return new V5Metadata(cache, fd, geometry, blobCount, validate);
  return new V6Metadata(cache, fd, geometry);
}
