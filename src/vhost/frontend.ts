/**
 * The frontend role: what a VMM says to a backend (protocols 1.15), for tests and benchmarks.
 *
 * Synchronous: replies are waited for with poll(2), so a test can drive a backend in another process without an event
 * loop. A backend of the same thread is driven by `pump`, which is called while a reply is outstanding.
 */
import { errnoText } from '../sys/errno.ts';
import { close } from '../sys/io.ts';
import { NativeMemory } from '../sys/native-memory.ts';
import { connectUnix, SOCK, SocketMessage } from '../sys/socket.ts';
import { POLL, pollOne } from '../sys/wait.ts';
import type { DriverRing } from './driver-ring.ts';
import { type FeatureSet, hasFeature, intersect, NO_FEATURES, PROTOCOL } from './features.ts';
import { FRAME, FrameReader, FrameWriter, MESSAGE_FDS_MAX } from './framing.ts';
import type { GuestRam } from './guest-ram.ts';
import type { RegionSpec } from './memory.ts';
import {
  CONFIG,
  FLAG,
  HEADER_BYTES,
  INFLIGHT,
  MEM_TABLE,
  MESSAGES,
  type MessageName,
  PAYLOAD_BYTES_MAX,
  putU64,
  REGION,
  SINGLE_REGION,
  VRING_ADDR,
  VRING_FD,
} from './messages.ts';

/** A reply; `fds` belong to the caller. */
export interface Reply {
  id: number;
  flags: number;
  payload: Uint8Array;
  fds: number[];
}

/** Thrown when the backend hangs up, stays silent or answers against the protocol. */
export class FrontendError extends Error {
  override name = 'FrontendError';
}

const RAW_BYTES_MAX = 64 * 1024;

export class Frontend {
  /** Drives a backend of the same thread. */
  pump: (() => void) | null = null;
  timeoutMs = 5000;
  features: FeatureSet = NO_FEATURES;
  protocol: FeatureSet = NO_FEATURES;
  readonly #reader = new FrameReader(true);
  readonly #writer = new FrameWriter();
  readonly #raw = NativeMemory.borrow(RAW_BYTES_MAX);
  readonly #rawMessage = new SocketMessage(MESSAGE_FDS_MAX * 2);

  /** @param socket connected; owned from now on */
  constructor(readonly socket: number) {}

  /** Connects to a backend that listens on `path`. */
  static connect(path: string): Frontend {
    const fd = connectUnix(path, SOCK.STREAM);
    if (fd < 0) throw new FrontendError(`connect ${path}: ${errnoText(fd)}`);
    return new Frontend(fd);
  }

  /** Sends a message as it is told to; no rule is checked. */
  send(id: number, payload: Uint8Array, fds: readonly number[] = [], flags: number = FLAG.VERSION): void {
    for (const [i, byte] of payload.entries()) this.#writer.payload.setUint8(i, byte);
    const attached = fds.length === 0 ? null : Int32Array.from(fds);
    const done = this.#writer.send(this.socket, id, flags, payload.length, attached, true);
    if (done < 0) throw new FrontendError(`send ${id}: ${errnoText(done)}`);
  }

  /** Sends bytes that need not be a message, descriptors attached to the first. -errno when the backend hung up. */
  sendRaw(bytes: Uint8Array, fds: readonly number[] = []): number {
    this.#raw.u8.set(bytes);
    return this.#rawMessage.send(this.socket, this.#raw.address, bytes.length, Int32Array.from(fds), fds.length, 0);
  }

  /** The next reply. @throws FrontendError after `timeoutMs`, at hang-up, or when it is malformed */
  receive(): Reply {
    const deadline = performance.now() + this.timeoutMs;
    for (;;) {
      this.pump?.();
      const state = this.#reader.read(this.socket);
      if (state === FRAME.COMPLETE) return this.#takeReply();
      if (state === FRAME.CLOSED) throw new FrontendError('backend hung up');
      if (state === FRAME.BROKEN) throw new FrontendError(this.#reader.broken);
      const leftMs = Math.ceil(deadline - performance.now());
      if (leftMs <= 0) throw new FrontendError(`no reply within ${this.timeoutMs} ms`);
      pollOne(this.socket, POLL.IN, this.pump === null ? leftMs : 0);
    }
  }

  #takeReply(): Reply {
    const { id, flags, bytes, payload, fdCount } = this.#reader;
    const copy = new Uint8Array(bytes);
    for (let i = 0; i < bytes; i++) copy[i] = payload.getUint8(i);
    const fds: number[] = [];
    for (let i = 0; i < fdCount; i++) fds.push(this.#reader.takeFd(i));
    return { id, flags, payload: copy, fds };
  }

  /** Sends a request with a regular reply and returns that. */
  request(name: MessageName, payload: Uint8Array = EMPTY, fds: readonly number[] = []): Reply {
    const { id } = MESSAGES[name];
    this.send(id, payload, fds);
    const reply = this.receive();
    if (reply.id !== id) throw new FrontendError(`reply ${reply.id} to ${name}`);
    return reply;
  }

  requestU64(name: MessageName): number {
    return Number(viewOfBytes(this.request(name).payload).getBigUint64(0, true));
  }

  /**
   * Sends a request without regular reply. With REPLY_ACK negotiated its acknowledgement is waited for.
   * @returns 0, or the backend's error word
   */
  command(name: MessageName, payload: Uint8Array = EMPTY, fds: readonly number[] = []): number {
    const { id } = MESSAGES[name];
    const acked = hasFeature(this.protocol, PROTOCOL.REPLY_ACK);
    this.send(id, payload, fds, FLAG.VERSION | (acked ? FLAG.NEED_REPLY : 0));
    if (!acked) return 0;
    const reply = this.receive();
    if (reply.id !== id || reply.payload.length !== 8) throw new FrontendError(`bad acknowledgement of ${name}`);
    return viewOfBytes(reply.payload).getUint32(0, true);
  }

  /** `command` that has to succeed. */
  must(name: MessageName, payload: Uint8Array = EMPTY, fds: readonly number[] = []): void {
    const word = this.command(name, payload, fds);
    if (word !== 0) throw new FrontendError(`${name} answered ${word}`);
  }

  /** SET_OWNER and both feature negotiations: everything of `wanted` that the backend offers is acked. */
  negotiate(wanted: FeatureSet, wantedProtocol: FeatureSet): void {
    this.must('SET_OWNER');
    const offered = readFeatureSet(this.request('GET_FEATURES').payload);
    const offeredProtocol = readFeatureSet(this.request('GET_PROTOCOL_FEATURES').payload);
    const protocol = intersect(offeredProtocol, wantedProtocol);
    this.must('SET_PROTOCOL_FEATURES', features(protocol));
    this.protocol = protocol;
    this.features = intersect(offered, wanted);
    this.must('SET_FEATURES', features(this.features));
  }

  /** Shares memory: one SET_MEM_TABLE, or ADD_MEM_REG per region when slots were negotiated. */
  shareMemory(ram: GuestRam): void {
    if (!hasFeature(this.protocol, PROTOCOL.CONFIGURE_MEM_SLOTS)) {
      const fds = ram.regions.map((region) => region.fd);
      this.must('SET_MEM_TABLE', memTable(ram.regions), fds);
      return;
    }
    for (const region of ram.regions) this.must('ADD_MEM_REG', singleRegion(region), [region.fd]);
  }

  /** Describes and starts queue `index`; enabled when `enable`. */
  startRing(index: number, ring: DriverRing, base = 0, enable = true): void {
    this.must('SET_VRING_NUM', vringState(index, ring.size));
    this.must('SET_VRING_BASE', vringState(index, base));
    this.must('SET_VRING_ADDR', vringAddr(index, ring));
    this.must('SET_VRING_CALL', vringFd(index), [ring.callFd]);
    this.must('SET_VRING_ERR', vringFd(index), [ring.errFd]);
    this.must('SET_VRING_KICK', vringFd(index), [ring.kickFd]);
    if (enable) this.must('SET_VRING_ENABLE', vringState(index, 1));
  }

  /** Disables and stops queue `index`; the base the backend answers. */
  stopRing(index: number): number {
    this.must('SET_VRING_ENABLE', vringState(index, 0));
    return this.vringBase(index);
  }

  vringBase(index: number): number {
    return viewOfBytes(this.request('GET_VRING_BASE', vringState(index, 0)).payload).getUint32(4, true);
  }

  /** Reads config space; empty when the backend refuses. */
  config(offset: number, bytes: number): Uint8Array {
    return this.request('GET_CONFIG', configRange(offset, bytes)).payload.subarray(CONFIG.HEAD_BYTES);
  }

  close(): void {
    close(this.socket);
    this.#reader.free();
    this.#writer.free();
    this.#raw.free();
    this.#rawMessage.free();
  }
}

const EMPTY = new Uint8Array(0);

/** Header and payload as bytes, for `sendRaw`. */
export function messageBytes(
  id: number,
  flags: number,
  payload: Uint8Array,
  announcedBytes = payload.length,
): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES + payload.length);
  const view = viewOfBytes(bytes);
  view.setUint32(0, id, true);
  view.setUint32(4, flags, true);
  view.setUint32(8, announcedBytes, true);
  bytes.set(payload, HEADER_BYTES);
  return bytes;
}

function viewOfBytes(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function build(bytes: number, fill: (view: DataView) => void): Uint8Array {
  if (bytes > PAYLOAD_BYTES_MAX) throw new RangeError(`payload of ${bytes} bytes`);
  const payload = new Uint8Array(bytes);
  fill(viewOfBytes(payload));
  return payload;
}

export function readFeatureSet(payload: Uint8Array): FeatureSet {
  const view = viewOfBytes(payload);
  return { low: view.getUint32(0, true), high: view.getUint32(4, true) };
}

export function features(set: FeatureSet): Uint8Array {
  return build(8, (view) => {
    view.setUint32(0, set.low, true);
    view.setUint32(4, set.high, true);
  });
}

export function u64Payload(value: number): Uint8Array {
  return build(8, (view) => putU64(view, 0, value));
}

export function vringState(index: number, num: number): Uint8Array {
  return build(8, (view) => {
    view.setUint32(0, index, true);
    view.setUint32(4, num, true);
  });
}

/** Payload of KICK, CALL and ERR; `noFd`: no descriptor comes along. */
export function vringFd(index: number, noFd = false): Uint8Array {
  return u64Payload(index + (noFd ? VRING_FD.NO_FD : 0));
}

export function vringAddr(index: number, ring: DriverRing, log = 0, flags = 0): Uint8Array {
  return build(VRING_ADDR.BYTES, (view) => {
    view.setUint32(VRING_ADDR.INDEX, index, true);
    view.setUint32(VRING_ADDR.FLAGS, flags, true);
    putU64(view, VRING_ADDR.DESC, ring.ram.address(ring.desc));
    putU64(view, VRING_ADDR.AVAIL, ring.ram.address(ring.avail));
    putU64(view, VRING_ADDR.USED, ring.ram.address(ring.used));
    putU64(view, VRING_ADDR.LOG, log);
  });
}

function putRegion(view: DataView, at: number, region: RegionSpec): void {
  putU64(view, at + REGION.GPA, region.gpa);
  putU64(view, at + REGION.SIZE, region.bytes);
  putU64(view, at + REGION.USER, region.user);
  putU64(view, at + REGION.OFFSET, region.offset);
}

/** SET_MEM_TABLE; `room` for more regions than there are, as User-Mode Linux sends it. */
export function memTable(regions: readonly RegionSpec[], room = regions.length): Uint8Array {
  return build(MEM_TABLE.HEAD_BYTES + room * REGION.BYTES, (view) => {
    view.setUint32(MEM_TABLE.COUNT, regions.length, true);
    for (const [i, region] of regions.entries()) putRegion(view, MEM_TABLE.HEAD_BYTES + i * REGION.BYTES, region);
  });
}

export function singleRegion(region: RegionSpec): Uint8Array {
  return build(SINGLE_REGION.BYTES, (view) => putRegion(view, SINGLE_REGION.REGION, region));
}

export function configRange(offset: number, bytes: number): Uint8Array {
  return build(CONFIG.HEAD_BYTES + bytes, (view) => {
    view.setUint32(CONFIG.OFFSET, offset, true);
    view.setUint32(CONFIG.SIZE, bytes, true);
  });
}

export function inflightRange(sizeBytes: number, offset: number, queues: number, queueSize: number): Uint8Array {
  return build(INFLIGHT.BYTES, (view) => {
    putU64(view, INFLIGHT.SIZE, sizeBytes);
    putU64(view, INFLIGHT.OFFSET, offset);
    view.setUint16(INFLIGHT.QUEUES, queues, true);
    view.setUint16(INFLIGHT.QUEUE_SIZE, queueSize, true);
  });
}
