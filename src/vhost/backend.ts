/**
 * The backend role: one connection to a frontend, from the first byte to hang-up (protocols 1.2, 1.3, 1.7, 1.16).
 *
 * Every message goes: whole, known, negotiated, size, descriptors, rule, handler, reply. Whatever the outcome, descriptors
 * that nobody took are closed. A request that breaks a rule is answered with an error when the frontend waits for an
 * answer, otherwise the connection ends, because the frontend would go on under a false assumption.
 *
 * Nothing here waits or reads the clock: the owner calls `onReadable` and `onKick` when its epoll says so.
 */
import { errno, errnoText } from '../sys/errno.ts';
import { close, setNonBlocking } from '../sys/io.ts';
import { drain } from '../sys/wait.ts';
import { BackendChannel } from './backend-channel.ts';
import type { BackendOptions, BackendOwner } from './backend-owner.ts';
import { BackendRing } from './backend-ring.ts';
import { type FeatureSet, featureSet, hasFeature, NO_FEATURES, PROTOCOL, VIRTIO } from './features.ts';
import { FRAME, FrameReader, FrameWriter } from './framing.ts';
import { HANDLERS } from './handlers.ts';
import type { InflightRegion } from './inflight.ts';
import type { GuestMemory } from './memory.ts';
import {
  type Broken,
  checkMessage,
  FLAG,
  MESSAGES,
  type MessageName,
  type MessageSpec,
  messageName,
  putU64,
  QUEUES_MAX,
  REPLY_FLAGS,
} from './messages.ts';

export type { BackendOptions, BackendOwner } from './backend-owner.ts';

/** Messages handled per `onReadable`: a talkative frontend must not starve the queues. */
const MESSAGES_PER_TURN = 64;
const NACK = 1;

export class Backend {
  readonly rings: BackendRing[] = [];
  readonly reader = new FrameReader(false);
  readonly channel = new BackendChannel();
  readonly offered: FeatureSet = featureSet(
    VIRTIO.INDIRECT_DESC,
    VIRTIO.EVENT_IDX,
    VIRTIO.PROTOCOL_FEATURES,
    VIRTIO.VERSION_1,
  );
  readonly offeredProtocol: FeatureSet;
  features: FeatureSet = NO_FEATURES;
  protocol: FeatureSet = NO_FEATURES;
  status = 0;
  inflight: InflightRegion | null = null;
  #open = true;
  /** Inside `onReadable`: handlers may still look at buffers of a connection that ended under them. */
  #busy = false;
  readonly #writer = new FrameWriter();

  /**
   * @param socket a connected stream socket; owned from now on
   * @param memory filled with the frontend's regions; may serve one session after the other
   */
  constructor(
    readonly socket: number,
    readonly memory: GuestMemory,
    readonly options: BackendOptions,
    readonly owner: BackendOwner,
  ) {
    const bits: number[] = [
      PROTOCOL.MQ,
      PROTOCOL.REPLY_ACK,
      PROTOCOL.BACKEND_REQ,
      PROTOCOL.RESET_DEVICE,
      PROTOCOL.CONFIGURE_MEM_SLOTS,
      PROTOCOL.STATUS,
    ];
    if (options.config !== null) bits.push(PROTOCOL.CONFIG);
    if (options.offerInflight) bits.push(PROTOCOL.INFLIGHT_SHMFD);
    this.offeredProtocol = featureSet(...bits);
  }

  /** False after hang-up: the object is spent. */
  get open(): boolean {
    return this.#open;
  }

  /** Payload of the next reply. */
  get replyPayload(): DataView {
    return this.#writer.payload;
  }

  /** The ring of this index, made when first named; null above the ceiling. */
  ring(index: number): BackendRing | null {
    if (index >= QUEUES_MAX) return null;
    while (this.rings.length <= index) {
      const fresh = new BackendRing(this.rings.length);
      fresh.enabled = this.alwaysEnabled;
      this.rings.push(fresh);
    }
    return this.rings[index];
  }

  /** Without acked protocol features there is no SET_VRING_ENABLE, and rings count as enabled (protocols 1.7 rule 1). */
  get alwaysEnabled(): boolean {
    return !hasFeature(this.features, VIRTIO.PROTOCOL_FEATURES);
  }

  /** Handles what has arrived. Never throws, whatever the peer sends. */
  onReadable(): void {
    if (!this.#open) return;
    this.#busy = true;
    for (let i = 0; i < MESSAGES_PER_TURN && this.#open; i++) {
      const state = this.reader.read(this.socket);
      if (state === FRAME.AGAIN) break;
      if (state === FRAME.CLOSED) this.close('frontend hung up');
      else if (state === FRAME.BROKEN) this.close(this.reader.broken);
      else this.#handle();
    }
    this.#busy = false;
    if (!this.#open) this.#free();
  }

  #handle(): void {
    const { reader } = this;
    const name = messageName(reader.id);
    if (name === undefined) {
      this.#refuse(`message ${reader.id}`, 'unknown', true);
      return;
    }
    const spec: MessageSpec = MESSAGES[name];
    let broken = this.#missingFeature(name, spec);
    broken ??= checkMessage(spec, reader.payload, reader.bytes, reader.fdCount);
    try {
      broken ??= HANDLERS[name](this, reader.payload, reader.bytes);
    } catch (error) {
      broken = `handler failed: ${String(error)}`;
    }
    if (!this.#open) return;
    if (broken !== null) this.#refuse(name, broken, spec.reply === 'ack');
    else if (spec.reply === 'ack' && this.#wantsAck()) this.replyU64(0);
    this.reader.discard();
  }

  #missingFeature(name: MessageName, spec: MessageSpec): Broken {
    if (spec.needs === null || hasFeature(this.protocol, PROTOCOL[spec.needs])) return null;
    // Frontends that restore a connection use memory slots before they acked them again (protocols 1.16).
    const restored = name === 'ADD_MEM_REG' && hasFeature(this.offeredProtocol, PROTOCOL[spec.needs]);
    return restored ? null : `${spec.needs} was not negotiated`;
  }

  #wantsAck(): boolean {
    return (this.reader.flags & FLAG.NEED_REPLY) !== 0 && hasFeature(this.protocol, PROTOCOL.REPLY_ACK);
  }

  /** `nackable`: an error word would not be taken for the regular reply. */
  #refuse(what: string, broken: string, nackable: boolean): void {
    if (nackable && this.#wantsAck()) {
      this.owner.warn(`${what} refused: ${broken}`);
      this.replyU64(NACK);
    } else {
      this.close(`${what}: ${broken}`);
    }
  }

  /** Sends `bytes` of `replyPayload` as the reply to the current message. */
  reply(bytes: number, fds: Int32Array | null = null): void {
    if (!this.#open) return;
    const done = this.#writer.send(this.socket, this.reader.id, REPLY_FLAGS, bytes, fds, false);
    if (done < 0) this.close(`reply: ${errnoText(done)}`);
  }

  replyU64(value: number): void {
    putU64(this.replyPayload, 0, value);
    this.reply(8);
  }

  replyFeatures(set: FeatureSet): void {
    this.replyPayload.setUint32(0, set.low, true);
    this.replyPayload.setUint32(4, set.high, true);
    this.reply(8);
  }

  /** `ring.kickFd` is readable: empties it and starts the ring if that is still to be done. The caller scans the ring. */
  onKick(index: number): void {
    const ring = this.rings[index];
    if (ring === undefined || ring.kickFd < 0) return;
    const n = drain(ring.kickFd);
    // End of file of a pipe whose writer is gone, and whatever cannot be read, would be ready for ever.
    if (n <= 0 && n !== -errno.EAGAIN) this.#unwatch(ring);
    if (ring.started) return;
    const broken = ring.described ? this.startRing(ring) : 'kicked before it was described';
    if (broken === null) return;
    this.owner.warn(`ring ${index}: ${broken}`);
    ring.reportFault();
  }

  startRing(ring: BackendRing): Broken {
    const { broken, resumed } = ring.start(this.memory, hasFeature(this.features, VIRTIO.EVENT_IDX));
    if (broken !== null) return broken;
    this.channel.suspended = false;
    this.owner.ringStarted(ring, resumed);
    return null;
  }

  /** Stops a ring: the owner finishes what it can, then nothing of the ring is touched any more. */
  stopRing(ring: BackendRing): void {
    if (ring.started) {
      this.owner.ringStopping(ring);
      if (ring.vring.publish()) ring.signal();
    }
    this.dropKick(ring);
    ring.stop();
    this.channel.suspended = this.rings.every((other) => !other.started);
  }

  /** Takes over a new kick descriptor; a started ring just changes it. */
  setKick(ring: BackendRing, fd: number): Broken {
    this.dropKick(ring);
    setNonBlocking(fd, true);
    ring.setKick(fd);
    const done = this.owner.watchKick(ring);
    ring.watched = done === 0;
    if (done === 0) return null;
    ring.setKick(-1);
    return `kick descriptor: ${errnoText(done)}`;
  }

  dropKick(ring: BackendRing): void {
    this.#unwatch(ring);
    ring.setKick(-1);
  }

  #unwatch(ring: BackendRing): void {
    if (ring.watched) this.owner.unwatchKick(ring);
    ring.watched = false;
  }

  /** Tells the owner and started rings that the memory table changed. */
  memoryChanged(): void {
    for (const ring of this.rings) {
      const wasGood = ring.vring.fault;
      ring.reattach(this.memory);
      if (ring.vring.fault !== wasGood) this.owner.warn(`ring ${ring.index} no longer lies in guest memory`);
    }
    this.owner.memoryChanged();
  }

  /** Tells the frontend that the config space changed (now, or when a ring starts again). 0 or -errno. */
  notifyConfigChanged(): number {
    return this.channel.configChanged();
  }

  dropInflight(): void {
    for (const ring of this.rings) ring.journal = null;
    this.inflight?.release();
    this.inflight = null;
  }

  /** Ends the connection: every ring stops without completing anything, memory and descriptors go. */
  close(reason: string): void {
    if (!this.#open) return;
    this.#open = false;
    for (const ring of this.rings) {
      this.#unwatch(ring);
      ring.discard();
    }
    this.dropInflight();
    this.channel.close();
    this.memory.clear();
    this.reader.discard();
    close(this.socket);
    this.owner.disconnected(reason);
    if (!this.#busy) this.#free();
  }

  #free(): void {
    this.reader.free();
    this.#writer.free();
  }
}
