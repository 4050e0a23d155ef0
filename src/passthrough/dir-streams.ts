/**
 * Directory entries read from the host and not yet handed out. A guest asks page by page; the host is asked for 32 KiB
 * at a time, and a seek (which makes ext4 and others build their order anew) happens only when the guest jumps.
 *
 *     host stream  ─────────────────────►│ position (lost while entries are left here)
 *     buffer       │ handed out │ at … end│
 *
 * A few buffers serve all open directories: one that loses its buffer seeks when it goes on. Nothing here has to
 * survive the process.
 */

import { errno } from '../sys/errno.ts';
import { NativeMemory } from '../sys/native-memory.ts';
import { DIRENT, getdents64, seekCookie } from '../sys/stat.ts';
import type { HandleTable } from './handles.ts';

/** What glibc's readdir asks for. */
export const STREAM_BYTES = 32 * 1024;
/** Directories listed at the same time without seeking; memory is touched only once used. */
const STREAMS = 8;

class DirectoryStreams {
  readonly #memory = new NativeMemory(STREAMS * STREAM_BYTES);
  readonly u8 = this.#memory.u8;
  readonly u32 = this.#memory.u32;
  /** Whose handle the buffer belongs to: table, slot, generation. */
  readonly #tables: (HandleTable | null)[] = new Array<HandleTable | null>(STREAMS).fill(null);
  readonly #owner = new Int32Array(STREAMS).fill(-1);
  readonly #generation = new Uint32Array(STREAMS);
  /** Byte positions in `u8` of the next entry and of the end. */
  readonly #at = new Uint32Array(STREAMS);
  readonly #end = new Uint32Array(STREAMS);
  /** Cookie of the entry before `#at`. */
  readonly #low = new Uint32Array(STREAMS);
  readonly #high = new Uint32Array(STREAMS);
  #victim = 0;

  /** The buffer of a directory handle, perhaps taken from another. */
  claim(handles: HandleTable, handle: number): number {
    const generation = handles.generation(handle);
    for (let i = 0; i < STREAMS; i++) {
      if (this.#owner[i] === handle && this.#generation[i] === generation && this.#tables[i] === handles) return i;
    }
    const stream = this.#victim;
    this.#victim = (stream + 1) % STREAMS;
    this.#tables[stream] = handles;
    this.#owner[stream] = handle;
    this.#generation[stream] = generation;
    this.#empty(stream);
    return stream;
  }

  #empty(stream: number): void {
    this.#at[stream] = this.#end[stream] = stream * STREAM_BYTES;
  }

  /** Stands the stream at a cookie; 0 or -errno. Cookie 0 (rewinddir) always asks the host again. */
  seek(stream: number, low: number, high: number): number {
    const handles = this.#tables[stream];
    const handle = this.#owner[stream];
    if (handles === null) return -errno.EBADF;
    const inside = this.#at[stream] < this.#end[stream] && this.#low[stream] === low && this.#high[stream] === high;
    if (inside && (low !== 0 || high !== 0)) return 0;
    this.#empty(stream);
    this.#low[stream] = low;
    this.#high[stream] = high;
    if (handles.standsAt(handle, low, high)) return 0;
    handles.losePosition(handle);
    const done = seekCookie(handles.fd(handle), low, high);
    if (done === 0) handles.setPosition(handle, low, high);
    return done;
  }

  /** Byte position in `u8` of the next entry, or -1: `fill` has to be asked. */
  next(stream: number): number {
    return this.#at[stream] < this.#end[stream] ? this.#at[stream] : -1;
  }

  /** Reads more from the host: bytes read, 0 at the end, or -errno. */
  fill(stream: number): number {
    const start = stream * STREAM_BYTES;
    const handles = this.#tables[stream];
    const handle = this.#owner[stream];
    if (handles === null) return -errno.EBADF;
    const bytes = getdents64(handles.fd(handle), this.#memory.address + start, STREAM_BYTES);
    this.#at[stream] = start;
    this.#end[stream] = start + Math.max(bytes, 0);
    if (bytes > 0) handles.losePosition(handle);
    return bytes;
  }

  /** The entry at `next` was handed out. */
  consume(stream: number): void {
    const at = this.#at[stream];
    const word = at >> 2;
    this.#low[stream] = this.u32[word + DIRENT.OFF / 4];
    this.#high[stream] = this.u32[word + DIRENT.OFF / 4 + 1];
    this.#at[stream] = at + (this.u32[word + DIRENT.RECLEN / 4] & 0xffff);
    if (this.#at[stream] >= this.#end[stream])
      this.#tables[stream]?.setPosition(this.#owner[stream], this.#low[stream], this.#high[stream]);
  }

  /** The handles of a share are gone. */
  forget(handles: HandleTable): void {
    for (let i = 0; i < STREAMS; i++) if (this.#tables[i] === handles) this.#tables[i] = null;
  }

  /** Raw address of the byte at position `at`. */
  address(at: number): number {
    return this.#memory.address + at;
  }
}

let ofThread: DirectoryStreams | null = null;

/** The buffers all shares of this thread use. */
export function directoryStreams(): DirectoryStreams {
  ofThread ??= new DirectoryStreams();
  return ofThread;
}
