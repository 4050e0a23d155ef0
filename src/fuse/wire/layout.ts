/**
 * Sizes and field positions of the FUSE structures (protocols 4.2). Positions are in u32 words from the start of the
 * structure, because every structure is 8-byte aligned in our private copies; byte sizes end in BYTES.
 */

/** struct fuse_in_header. */
export const IN_HEADER_BYTES = 40;
export const IN_HEADER = { LEN: 0, OPCODE: 1, UNIQUE: 2, NODEID: 4, UID: 6, GID: 7, PID: 8, EXTLEN: 9 } as const;

/** struct fuse_out_header. */
export const OUT_HEADER_BYTES = 16;
export const OUT_HEADER = { LEN: 0, ERROR: 1, UNIQUE: 2 } as const;

/** struct fuse_attr, 88 bytes. */
export const ATTR_BYTES = 88;
export const ATTR = {
  INO: 0,
  SIZE: 2,
  BLOCKS: 4,
  ATIME: 6,
  MTIME: 8,
  CTIME: 10,
  ATIMENSEC: 12,
  MTIMENSEC: 13,
  CTIMENSEC: 14,
  MODE: 15,
  NLINK: 16,
  UID: 17,
  GID: 18,
  RDEV: 19,
  BLKSIZE: 20,
  FLAGS: 21,
} as const;

/** struct fuse_entry_out, 128 bytes; the attributes start at word 10. */
export const ENTRY_OUT_BYTES = 128;
export const ENTRY_OUT = {
  NODEID: 0,
  GENERATION: 2,
  ENTRY_VALID: 4,
  ATTR_VALID: 6,
  ENTRY_VALID_NSEC: 8,
  ATTR_VALID_NSEC: 9,
  ATTR: 10,
} as const;

/** struct fuse_attr_out, 104 bytes; the attributes start at word 4. */
export const ATTR_OUT_BYTES = 104;
export const ATTR_OUT = { ATTR_VALID: 0, ATTR_VALID_NSEC: 2, ATTR: 4 } as const;

/** struct fuse_open_out, 16 bytes. */
export const OPEN_OUT_BYTES = 16;
export const OPEN_OUT = { FH: 0, OPEN_FLAGS: 2, BACKING_ID: 3 } as const;

/** struct fuse_statfs_out, 80 bytes. */
export const STATFS_OUT_BYTES = 80;
export const STATFS_OUT = {
  BLOCKS: 0,
  BFREE: 2,
  BAVAIL: 4,
  FILES: 6,
  FFREE: 8,
  BSIZE: 10,
  NAMELEN: 11,
  FRSIZE: 12,
} as const;

/** struct fuse_dirent: 24 bytes and the name, padded to 8. */
export const DIRENT_BYTES = 24;
export const DIRENT_OUT = { INO: 0, OFF: 2, NAMELEN: 4, TYPE: 5 } as const;

export const WRITE_OUT_BYTES = 8;
export const LSEEK_OUT_BYTES = 8;
export const GETXATTR_OUT_BYTES = 8;
export const INIT_OUT_BYTES = 64;

/** Longest name a guest may send (FUSE_NAME_MAX of Linux 6.15+: PATH_MAX - 1; 1024 before), without its NUL. */
export const NAME_BYTES_MAX = 4095;

/** Longest symlink target: the guest's buffer is one page, less the NUL it adds. */
export const SYMLINK_BYTES_MAX = 4095;
