/**
 * Linux errno numbers (x86-64 and arm64 share them) with the texts strerror gives.
 *
 * Inside the daemon an error on the request path is the negative of one of these numbers; names and texts are
 * for logs and API answers only.
 */
const TABLE = {
  EPERM: [1, 'operation not permitted'],
  ENOENT: [2, 'no such file or directory'],
  EINTR: [4, 'interrupted system call'],
  EIO: [5, 'input/output error'],
  ENXIO: [6, 'no such device or address'],
  E2BIG: [7, 'argument list too long'],
  EBADF: [9, 'bad file descriptor'],
  ECHILD: [10, 'no child processes'],
  EAGAIN: [11, 'resource temporarily unavailable'],
  ENOMEM: [12, 'cannot allocate memory'],
  EACCES: [13, 'permission denied'],
  EFAULT: [14, 'bad address'],
  EBUSY: [16, 'device or resource busy'],
  EEXIST: [17, 'file exists'],
  EXDEV: [18, 'invalid cross-device link'],
  ENODEV: [19, 'no such device'],
  ENOTDIR: [20, 'not a directory'],
  EISDIR: [21, 'is a directory'],
  EINVAL: [22, 'invalid argument'],
  ENFILE: [23, 'too many open files in system'],
  EMFILE: [24, 'too many open files'],
  ENOTTY: [25, 'inappropriate ioctl for device'],
  ETXTBSY: [26, 'text file busy'],
  EFBIG: [27, 'file too large'],
  ENOSPC: [28, 'no space left on device'],
  ESPIPE: [29, 'illegal seek'],
  EROFS: [30, 'read-only file system'],
  EMLINK: [31, 'too many links'],
  EPIPE: [32, 'broken pipe'],
  ERANGE: [34, 'numerical result out of range'],
  EDEADLK: [35, 'resource deadlock avoided'],
  ENAMETOOLONG: [36, 'file name too long'],
  ENOLCK: [37, 'no locks available'],
  ENOSYS: [38, 'function not implemented'],
  ENOTEMPTY: [39, 'directory not empty'],
  ELOOP: [40, 'too many levels of symbolic links'],
  ENODATA: [61, 'no data available'],
  EPROTO: [71, 'protocol error'],
  EOVERFLOW: [75, 'value too large for defined data type'],
  EUSERS: [87, 'too many users'],
  ENOTSOCK: [88, 'socket operation on non-socket'],
  EMSGSIZE: [90, 'message too long'],
  EOPNOTSUPP: [95, 'operation not supported'],
  EADDRINUSE: [98, 'address already in use'],
  ECONNRESET: [104, 'connection reset by peer'],
  ENOTCONN: [107, 'transport endpoint is not connected'],
  ETIMEDOUT: [110, 'connection timed out'],
  ECONNREFUSED: [111, 'connection refused'],
  ESTALE: [116, 'stale file handle'],
  EDQUOT: [122, 'disk quota exceeded'],
  ECANCELED: [125, 'operation canceled'],
} as const;

export type ErrnoName = keyof typeof TABLE;

/** Errno numbers by name, positive: `errno.ENOENT === 2`. */
export const errno = Object.fromEntries(Object.entries(TABLE).map(([name, [number]]) => [name, number])) as {
  readonly [N in ErrnoName]: (typeof TABLE)[N][0];
};

const NAMES = new Map<number, ErrnoName>(
  Object.entries(TABLE).map(([name, [number]]) => [number, name as ErrnoName] as const),
);

/** Name of an errno given with either sign (`-2` and `2` are `ENOENT`); `errno 200` for one not in the table. */
export function errnoName(code: number): string {
  const number = Math.abs(code);
  return NAMES.get(number) ?? `errno ${number}`;
}

/** `ENOENT: no such file or directory`, for messages a person reads. Takes either sign. */
export function errnoText(code: number): string {
  const name = NAMES.get(Math.abs(code));
  return name === undefined ? errnoName(code) : `${name}: ${TABLE[name][1]}`;
}
