/**
 * Numbers of the union: node numbers and inode numbers.
 *
 *     nodeid  63 ──────── 32 31 ─────── 0        member 0 is the pseudo file system; 1 is the root's local number
 *             │  member id  │   local   │        in every member. Neither half is ever given out twice.
 *
 * The guest keeps dentries and pages by nodeid, and nothing can tell it to drop them (virtio-fs has no notifications):
 * a number used again would show one file's bytes under another's name.
 */

/** Member id of the pseudo directories. */
export const PSEUDO = 0;
/** Local number of the root of a member, and of the pseudo root. */
export const ROOT_LOCAL = 1;

/** Names and roots that can change under the guest are trusted this long (protocols 6.6 row 6; 1 s is its limit). */
export const MOUNT_VALID_MS = 1000;

/**
 * Upper word of a pseudo directory's st_ino; the lower one is its local number. Below 2^56, as overlayfs wants for its
 * own bits, and above what file systems and `mixOf` give out.
 */
export const PSEUDO_INO_HIGH = 0x00f5_0000;

/**
 * What is XORed into the upper word of every st_ino of a member when the guest knows no submounts, so that files of two
 * members never look hard-linked. 22 spread bits, so that 32-bit host inode numbers stay below 2^54 and members next to
 * each other differ in many bits; never 0.
 */
export function mixOf(memberId: number): number {
  return (Math.imul(memberId, 0x9e37_79b1) >>> 10) | 1;
}
