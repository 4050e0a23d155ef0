/** What a case of the POSIX suite is. Cases use synchronous calls below one fresh directory and leave it as they like. */
export type Need =
  /** Runs as uid 0 and the mount believes it. */
  | 'root'
  /** Other users may use the mount (allow_other, default_permissions). */
  | 'users'
  /** user.* and, with root, trusted.* attributes. */
  | 'xattr'
  /** Device nodes can be made. */
  | 'devices'
  /** MAP_SHARED of files (not with DIRECT_IO). */
  | 'mmap'
  /** Programs can be run from it. */
  | 'exec'
  /** SEEK_HOLE, hole punching. */
  | 'holes';

export interface PosixCase {
  id: string;
  needs?: readonly Need[];
  run: (dir: string) => void;
}
