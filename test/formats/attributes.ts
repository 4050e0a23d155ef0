/** FUSE attributes in the words of the lists of trees. */
import { S } from '../../src/fuse/flags.ts';
import type { EntryType } from '../vm/manifest.ts';

export const TYPES: Record<number, EntryType> = {
  [S.IFREG]: 'file',
  [S.IFDIR]: 'dir',
  [S.IFLNK]: 'symlink',
  [S.IFCHR]: 'char',
  [S.IFBLK]: 'block',
  [S.IFIFO]: 'fifo',
  [S.IFSOCK]: 'socket',
};

/** FUSE's 32-bit device number as `major:minor`. */
export function shownDevice(rdev: number): string {
  return `${(rdev >>> 8) & 0xfff}:${((rdev >>> 12) & 0xfff00) | (rdev & 0xff)}`;
}
