/**
 * What guest and host say to each other while a script runs, over one byte stream (a virtio port, a UML tty).
 *
 * Guest → host, each frame one line of words, some followed by that many raw bytes:
 *   hello                      init is up; the host answers the number of this boot (1, 2, …)
 *   start NAME                 a case begins
 *   case NAME STATUS BYTES     it ended with that exit status, its output follows
 *   data NAME BYTES            something to compare on the host follows
 *   ask NAME                   the guest waits for one line
 *   done COUNT                 all cases of the last boot ran; nothing follows
 */
import { vmError } from './errors.ts';

export type Frame =
  | { kind: 'hello' }
  | { kind: 'start'; name: string }
  | { kind: 'case'; name: string; status: number; output: Buffer }
  | { kind: 'data'; name: string; content: Buffer }
  | { kind: 'ask'; name: string }
  | { kind: 'done'; count: number };

/** A frame's first line is built by our own script; anything longer is noise on the stream. */
const HEAD_BYTES_MAX = 256;
/** A manifest of 10,000 files needs about 4 MB. */
const BODY_BYTES_MAX = 512 * 1024 ** 2;
const NEWLINE = 10;

/** Cuts a byte stream into frames; bytes may arrive split anywhere. */
export class FrameReader {
  #head: number[] = [];
  #body: { bytes: Buffer; filled: number; finish: (body: Buffer) => Frame } | null = null;

  /** Feeds bytes, returns the frames they complete. @throws VM_FRAME */
  push(chunk: Buffer): Frame[] {
    const frames: Frame[] = [];
    let at = 0;
    while (at < chunk.length) {
      if (this.#body === null) {
        const byte = chunk[at++]!;
        if (byte === NEWLINE) this.#line(frames);
        else this.#head.push(byte);
        if (this.#head.length > HEAD_BYTES_MAX) this.#refuse();
      } else {
        const { bytes, filled } = this.#body;
        const taken = chunk.copy(bytes, filled, at);
        at += taken;
        this.#body.filled += taken;
      }
      if (this.#body !== null && this.#body.filled === this.#body.bytes.length) {
        const { finish, bytes } = this.#body;
        this.#body = null;
        frames.push(finish(bytes));
      }
    }
    return frames;
  }

  #line(frames: Frame[]): void {
    const [kind, name = '', ...numbers] = Buffer.from(this.#head).toString('latin1').trimEnd().split(' ');
    const counts = numbers.map(Number);
    if (kind === 'hello') frames.push({ kind });
    else if (kind === 'start') frames.push({ kind, name });
    else if (kind === 'ask') frames.push({ kind, name });
    else if (kind === 'done') frames.push({ kind, count: this.#count(Number(name)) });
    else if (kind === 'data') this.#expect(counts[0], (content) => ({ kind, name, content }));
    else if (kind === 'case') {
      const status = this.#count(counts[0]);
      this.#expect(counts[1], (output) => ({ kind, name, status, output }));
    } else this.#refuse();
    this.#head = [];
  }

  #expect(size: number | undefined, finish: (body: Buffer) => Frame): void {
    this.#body = { bytes: Buffer.alloc(this.#count(size)), filled: 0, finish };
  }

  #count(value: number | undefined): number {
    if (value !== undefined && Number.isSafeInteger(value) && value >= 0 && value <= BODY_BYTES_MAX) return value;
    return this.#refuse();
  }

  #refuse(): never {
    throw vmError('VM_FRAME', { head: Buffer.from(this.#head).toString('latin1') });
  }
}
