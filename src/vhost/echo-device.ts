/**
 * The smallest complete device: copies the readable part of every request to its writable part. It shows how a device
 * loop uses this library, and is what the library's tests talk to.
 *
 * With `hold` set, requests stay in flight until `finishHeld`, like reads parked on the network.
 */
import { copyMemory } from '../sys/io.ts';
import { NativeMemory } from '../sys/native-memory.ts';
import { EPOLL, Epoll } from '../sys/wait.ts';
import { Backend } from './backend.ts';
import type { BackendOptions, BackendOwner } from './backend-owner.ts';
import type { BackendRing } from './backend-ring.ts';
import { ChainWalker, chainFaultText, WALK } from './chain.ts';
import { GuestMemory } from './memory.ts';
import { RING_FAULT, ringFaultText } from './vring.ts';

/** epoll token of the socket; rings use their index. */
const SOCKET_TOKEN = 0xffff_ffff;
/** Heads per queue and turn, so that one queue cannot starve the others. */
const BATCH_MAX = 64;
const COPY_BYTES = 16 * 2 ** 20;

export const ECHO_OPTIONS: BackendOptions = { queues: 2, config: null, offerInflight: false };

interface Held {
  ring: BackendRing;
  epoch: number;
  head: number;
}

export class EchoDevice implements BackendOwner {
  readonly memory = new GuestMemory();
  readonly backend: Backend;
  readonly warnings: string[] = [];
  readonly events: string[] = [];
  disconnectReason = '';
  hold = false;
  served = 0;
  readonly #held: Held[] = [];
  readonly #epoll = new Epoll(64);
  readonly #walker = new ChainWalker(this.memory, COPY_BYTES);
  readonly #copy = NativeMemory.borrow(COPY_BYTES);

  /** @param socket connected; owned by the device */
  constructor(socket: number, options: BackendOptions = ECHO_OPTIONS) {
    this.#epoll.add(socket, EPOLL.IN, SOCKET_TOKEN);
    this.backend = new Backend(socket, this.memory, options, this);
  }

  /** One turn: waits at most `timeoutMs`, handles what is ready. False after hang-up. */
  turn(timeoutMs: number): boolean {
    const ready = this.#epoll.wait(timeoutMs);
    for (let i = 0; i < ready && this.backend.open; i++) {
      const token = this.#epoll.tokenAt(i);
      if (token === SOCKET_TOKEN) this.backend.onReadable();
      else this.backend.onKick(token);
    }
    let more = true;
    while (more && this.backend.open) {
      more = false;
      for (const ring of this.backend.rings) if (this.#serve(ring)) more = true;
    }
    if (!this.backend.open) this.#epoll.close();
    return this.backend.open;
  }

  /** Serves a batch of one ring. True: look again before sleeping. */
  #serve(ring: BackendRing): boolean {
    if (!ring.serving) return false;
    const { vring } = ring;
    vring.disableKicks();
    let head = vring.next();
    for (let n = 1; head >= 0; n++) {
      this.#request(ring, head);
      head = n < BATCH_MAX ? vring.next() : -1;
    }
    if (vring.publish()) ring.signal();
    if (vring.fault !== RING_FAULT.NONE) {
      this.warn(`ring ${ring.index}: ${ringFaultText(vring.fault)}`);
      ring.reportFault();
    }
    return vring.enableKicks();
  }

  #request(ring: BackendRing, head: number): void {
    if (this.hold) this.#held.push({ ring, epoch: ring.epoch, head });
    else this.#run(ring, head);
  }

  #run(ring: BackendRing, head: number): void {
    const done = this.#walker.walk(ring.vring, head);
    if (done === WALK.BREAK_RING) {
      ring.breakRing(RING_FAULT.CHAIN_LOOP);
      this.warn(`ring ${ring.index}: ${ringFaultText(RING_FAULT.CHAIN_LOOP)}`);
      return;
    }
    if (done === WALK.FAIL_REQUEST) this.warn(`ring ${ring.index}: ${chainFaultText(this.#walker.fault)}`);
    if (ring.vring.complete(head, this.#echo())) this.served++;
  }

  #echo(): number {
    const walker = this.#walker;
    let bytes = 0;
    for (let i = 0; i < walker.readCount; i++) {
      copyMemory(this.#copy.address + bytes, walker.readAddress[i], walker.readBytes[i]);
      bytes += walker.readBytes[i];
    }
    let written = 0;
    for (let i = 0; i < walker.writeCount && written < bytes; i++) {
      const part = Math.min(walker.writeBytes[i], bytes - written);
      copyMemory(walker.writeAddress[i], this.#copy.address + written, part);
      written += part;
    }
    return written;
  }

  /** Answers held requests whose ring still lives in the same epoch and is started; the number answered. */
  finishHeld(): number {
    let finished = 0;
    for (const held of this.#held.splice(0)) {
      if (held.epoch !== held.ring.epoch) continue;
      if (!held.ring.started) {
        this.#held.push(held);
        continue;
      }
      this.#run(held.ring, held.head);
      if (held.ring.vring.publish()) held.ring.signal();
      finished++;
    }
    return finished;
  }

  watchKick(ring: BackendRing): number {
    return this.#epoll.add(ring.kickFd, EPOLL.IN, ring.index);
  }

  unwatchKick(ring: BackendRing): void {
    this.#epoll.remove(ring.kickFd);
  }

  ringStarted(ring: BackendRing, resumed: boolean): void {
    this.events.push(`start ${ring.index}${resumed ? ' resumed' : ''}`);
  }

  ringEnabled(ring: BackendRing): void {
    this.events.push(`${ring.enabled ? 'enable' : 'disable'} ${ring.index}`);
  }

  ringStopping(ring: BackendRing): void {
    this.events.push(`stop ${ring.index}`);
  }

  memoryChanged(): void {
    this.events.push(`memory ${this.memory.regionCount}`);
  }

  reset(cause: string): void {
    this.events.push(`reset ${cause}`);
  }

  disconnected(reason: string): void {
    this.disconnectReason = reason;
    this.#held.length = 0;
  }

  warn(text: string): void {
    this.warnings.push(text);
  }

  /** After hang-up: gives back native memory. */
  free(): void {
    this.#copy.free();
    this.#walker.free();
  }
}
