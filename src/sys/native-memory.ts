/**
 * Memory outside the JS heap whose address is known: syscall arguments, iovecs, struct buffers, reply scratch.
 *
 * A typed array of V8 may move or be collected while the kernel writes to it; a private anonymous mapping does neither.
 * One mapping holds many small buffers, made at start-up and kept for the life of the thread.
 */
import { bind, viewOf } from './libc.ts';

const mmap = bind('mmap', 'i64', ['ptr', 'size', 'int', 'int', 'int', 'i64']);
const munmap = bind('munmap', 'int', ['ptr', 'size']);

const PROT_READ_WRITE = 3;
const MAP_PRIVATE_ANONYMOUS = 0x22;

/** Blocks of one size kept for reuse: more than one session's worth is never free at once, tests apart. */
const POOLED_BLOCKS_MAX = 64;
const pools = new Map<number, NativeMemory[]>();

/** A block of zeroed native memory with views of every width used here. Frees only by `free`. */
export class NativeMemory {
  #isFree = false;
  readonly address: number;
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  readonly i32: Int32Array;
  readonly view: DataView;

  /**
   * @param bytes size, rounded up by the kernel to pages; pages cost memory only once touched
   * @throws RangeError when the kernel refuses the mapping
   */
  constructor(readonly bytes: number) {
    const address = mmap(0, bytes, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0);
    if (address === -1) throw new RangeError(`no memory for a native buffer of ${bytes} bytes`);
    this.address = address;
    const buffer = viewOf(address, bytes);
    this.u8 = new Uint8Array(buffer);
    this.u16 = new Uint16Array(buffer, 0, bytes >> 1);
    this.u32 = new Uint32Array(buffer, 0, bytes >> 2);
    this.i32 = new Int32Array(buffer, 0, bytes >> 2);
    this.view = new DataView(buffer);
  }

  /** Copies `text` plus a NUL to offset `at` and returns its raw address. For cold paths (option strings, /proc paths). */
  putText(at: number, text: string | Uint8Array): number {
    const bytes = typeof text === 'string' ? Buffer.from(text) : text;
    if (at + bytes.length + 1 > this.bytes) throw new RangeError(`text of ${bytes.length} bytes does not fit`);
    this.u8.set(bytes, at);
    this.u8[at + bytes.length] = 0;
    return this.address + at;
  }

  /**
   * A zeroed block for a shorter time than the thread's life: one that `free` gave back, or a new one. Mapping and viewing
   * one per session would cost a mapping each time, and about a kilobyte that V8 and koffi keep of every view.
   */
  static borrow(bytes: number): NativeMemory {
    const block = pools.get(bytes)?.pop();
    if (block === undefined) return new NativeMemory(bytes);
    block.#isFree = false;
    block.u8.fill(0);
    return block;
  }

  /** Gives a block to the next `borrow` of this size: nobody may use it or a view of it any more. */
  free(): void {
    if (this.#isFree) return; // twice given back, it would be borrowed twice
    this.#isFree = true;
    const pool = pools.get(this.bytes) ?? [];
    pools.set(this.bytes, pool);
    if (pool.length < POOLED_BLOCKS_MAX) pool.push(this);
    else munmap(this.address, this.bytes);
  }
}

let pathScratch: NativeMemory | null = null;
const PATH_BYTES_MAX = 4096;

/** Address of `path` as a C string in a scratch shared by all cold calls of this thread: valid until the next call. */
export function pathAddress(path: string | Uint8Array): number {
  pathScratch ??= new NativeMemory(PATH_BYTES_MAX + 1);
  return pathScratch.putText(0, path);
}
