/**
 * Bytes and descriptors of a vhost-user socket to whole messages and back (protocols 1.2).
 *
 * A read never asks for more than what is left of the current header or payload, so bytes of two messages are never
 * mixed and a received descriptor can only belong to the message under way. Messages may arrive split at every byte or
 * glued together. Buffers are bounded: one header, one payload, 32 descriptors.
 */
import { errno } from '../sys/errno.ts';
import { close } from '../sys/io.ts';
import { NativeMemory } from '../sys/native-memory.ts';
import { MSG, SocketMessage } from '../sys/socket.ts';
import { FLAG, HEADER, HEADER_BYTES, PAYLOAD_BYTES_MAX, TABLE_REGIONS_MAX } from './messages.ts';

/** What `FrameReader.read` found. */
export const FRAME = {
  /** No whole message yet: call again when the socket is readable. */
  AGAIN: 0,
  /** One message is in `id`, `flags`, `bytes`, `payload` and `fds`. */
  COMPLETE: 1,
  /** The peer hung up between two messages. */
  CLOSED: 2,
  /** The stream cannot be followed any further; `broken` says why. */
  BROKEN: 3,
} as const;

/** Descriptors one message may carry. */
export const MESSAGE_FDS_MAX = TABLE_REGIONS_MAX;

const PAYLOAD = 16;

/** Reads messages from one socket. `expectReply` tells the direction: replies carry the REPLY flag, requests must not. */
export class FrameReader {
  id = 0;
  flags = 0;
  /** Payload bytes of the message. */
  bytes = 0;
  readonly payload: DataView;
  /** Descriptors of the message; -1 where `takeFd` took one. */
  readonly fds = new Int32Array(MESSAGE_FDS_MAX);
  fdCount = 0;
  broken = '';
  #have = 0;
  readonly #memory = NativeMemory.borrow(PAYLOAD + PAYLOAD_BYTES_MAX);
  readonly #socket = new SocketMessage(MESSAGE_FDS_MAX);

  constructor(readonly expectReply: boolean) {
    this.payload = new DataView(this.#memory.u8.buffer, PAYLOAD, PAYLOAD_BYTES_MAX);
  }

  /**
   * Reads what is there, up to the end of one message. After COMPLETE the message is valid until the next call, which
   * first closes descriptors nobody took.
   */
  read(fd: number): number {
    if (this.#have >= HEADER_BYTES && this.#have === HEADER_BYTES + this.bytes) this.discard();
    while (this.#have < HEADER_BYTES) {
      const state = this.#receive(fd, this.#have, HEADER_BYTES - this.#have);
      if (state !== FRAME.COMPLETE) return state;
    }
    if (!this.#headerIsGood()) return FRAME.BROKEN;
    while (this.#have < HEADER_BYTES + this.bytes) {
      const at = PAYLOAD + this.#have - HEADER_BYTES;
      const state = this.#receive(fd, at, HEADER_BYTES + this.bytes - this.#have);
      if (state !== FRAME.COMPLETE) return state;
    }
    return FRAME.COMPLETE;
  }

  /** Forgets the message and closes every descriptor still owned. */
  discard(): void {
    for (let i = 0; i < this.fdCount; i++) if (this.fds[i] >= 0) close(this.fds[i]);
    this.fdCount = 0;
    this.#have = 0;
    this.bytes = 0;
  }

  /** Hands descriptor `i` to the caller, or -1 when there is none. */
  takeFd(i: number): number {
    if (i >= this.fdCount) return -1;
    const fd = this.fds[i];
    this.fds[i] = -1;
    return fd;
  }

  /** Releases buffers and descriptors. */
  free(): void {
    this.discard();
    this.#socket.free();
    this.#memory.free();
  }

  #receive(fd: number, at: number, bytes: number): number {
    const n = this.#socket.receive(fd, this.#memory.address + at, bytes, MSG.DONTWAIT);
    if (n === -errno.EAGAIN) return FRAME.AGAIN;
    if (n < 0) return this.#fail(`receive failed with errno ${-n}`);
    const fits = this.#keepFds();
    if (n === 0) return this.#have === 0 ? FRAME.CLOSED : this.#fail('hang-up in the middle of a message');
    if (!fits) return this.#fail(`more than ${MESSAGE_FDS_MAX} descriptors in one message`);
    this.#have += n;
    return FRAME.COMPLETE;
  }

  #keepFds(): boolean {
    for (let i = 0; i < this.#socket.fdCount; i++) {
      if (this.fdCount === MESSAGE_FDS_MAX) {
        this.#socket.closeFds(i);
        return false;
      }
      this.fds[this.fdCount++] = this.#socket.fds[i];
    }
    return !this.#socket.truncated;
  }

  #headerIsGood(): boolean {
    const view = this.#memory.view;
    this.id = view.getUint32(HEADER.ID, true);
    this.flags = view.getUint32(HEADER.FLAGS, true);
    const bytes = view.getUint32(HEADER.BYTES, true);
    if ((this.flags & FLAG.VERSION_MASK) !== FLAG.VERSION) {
      this.#fail(`header version ${this.flags & FLAG.VERSION_MASK}`);
      return false;
    }
    if (((this.flags & FLAG.REPLY) !== 0) !== this.expectReply) {
      this.#fail(this.expectReply ? 'a request where a reply belongs' : 'REPLY set in a request');
      return false;
    }
    if (bytes > PAYLOAD_BYTES_MAX) {
      this.#fail(`payload of ${bytes} bytes, more than ${PAYLOAD_BYTES_MAX}`);
      return false;
    }
    this.bytes = bytes;
    return true;
  }

  #fail(reason: string): number {
    this.broken = reason;
    this.discard();
    return FRAME.BROKEN;
  }
}

/** Sends messages: fill `payload`, then `send`. */
export class FrameWriter {
  readonly payload: DataView;
  readonly #memory = NativeMemory.borrow(PAYLOAD + PAYLOAD_BYTES_MAX);
  readonly #socket = new SocketMessage(MESSAGE_FDS_MAX);

  constructor() {
    this.payload = new DataView(this.#memory.u8.buffer, HEADER_BYTES, PAYLOAD_BYTES_MAX);
  }

  /**
   * Sends header and the first `bytes` of `payload` in one call, descriptors attached to the first byte.
   * @param wait false: a peer that does not read its replies gets -EAGAIN (the caller hangs up; half a message may be out)
   * @returns 0 or -errno
   */
  send(fd: number, id: number, flags: number, bytes: number, fds: Int32Array | null, wait: boolean): number {
    const view = this.#memory.view;
    view.setUint32(HEADER.ID, id, true);
    view.setUint32(HEADER.FLAGS, flags, true);
    view.setUint32(HEADER.BYTES, bytes, true);
    const total = HEADER_BYTES + bytes;
    const how = wait ? 0 : MSG.DONTWAIT;
    for (let sent = 0; sent < total; ) {
      const attached = sent === 0 ? fds : null;
      const n = this.#socket.send(fd, this.#memory.address + sent, total - sent, attached, attached?.length ?? 0, how);
      if (n < 0) return n;
      sent += n;
    }
    return 0;
  }

  free(): void {
    this.#socket.free();
    this.#memory.free();
  }
}
