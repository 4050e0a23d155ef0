/**
 * Where an image's entries come from. The builder sees a stream of entries, parents before children, and nothing of
 * directories, archives or older images. A directory gives the contents afterwards, in whatever order the builder
 * wants them (`open`); an archive will give each file's content while its entry is being handed out.
 *
 * Names, paths and symlink targets are bytes. They are kept as "byte text": JS strings with one char 0..255 per byte
 * ('latin1'), which compare with `<` exactly as the bytes do and cost a quarter of a Buffer.
 */

/** A JS string in which every char is one byte. */
export type ByteText = string;

export interface Xattr {
  name: ByteText;
  value: Uint8Array;
}

export interface SourceEntry {
  /** `/` for the root, else `/a/b`: no empty, `.` or `..` components. */
  path: ByteText;
  /** Full st_mode. */
  mode: number;
  uid: number;
  gid: number;
  /** Regular files: content bytes; symlinks: target bytes; else 0. */
  sizeBytes: number;
  /** Whole seconds, may be negative; nanoseconds 0..999999999. */
  mtime: number;
  mtimeNs: number;
  /** Char and block devices only. */
  rdevMajor: number;
  rdevMinor: number;
  /** Symlinks only. */
  target: ByteText | null;
  xattrs: readonly Xattr[];
  /** Entries with the same key are one file with several names; null when it has one name. Regular files only. */
  linkKey: string | null;
}

/** Content of one regular file. */
export interface FileContent {
  /** Fills all of `into` from byte `at`. Answers the bytes that were there: fewer means the file has shrunk. */
  read(into: Uint8Array, at: number): number;
  /** True when `bytes` bytes at `at` are known to be zero without reading them. May answer false for zeros. */
  isHole(at: number, bytes: number): boolean;
  close(): void;
}

export interface ImageSource {
  /**
   * True: entries come in the order in which they are numbered (rafs-format 1.9), so that contents can be stored while the
   * rest is still being looked for.
   */
  readonly inOrder: boolean;
  /** Every entry once, parents before children, the root first. */
  entries(): Iterable<SourceEntry>;
  /** @throws AppError SOURCE */
  open(path: ByteText, sizeBytes: number): FileContent;
}

/** For messages: byte text as UTF-8 where it is, with other bytes as `\xNN`. */
export function shown(path: ByteText): string {
  const bytes = Buffer.from(path, 'latin1');
  const text = bytes.toString('utf8');
  if (Buffer.from(text, 'utf8').equals(bytes)) return text;
  return path.replace(/[^\x20-\x7e]/g, (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`);
}
