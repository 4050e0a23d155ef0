/**
 * Requests about virtqueues and their in-flight region (protocols 1.5, 1.7, 1.11). See `handlers.ts` for the rules all
 * handlers follow.
 */
import { close, setNonBlocking } from '../sys/io.ts';
import type { Backend } from './backend.ts';
import type { BackendRing } from './backend-ring.ts';
import { InflightRegion } from './inflight.ts';
import { type Broken, INFLIGHT, putU64, u64, VRING_ADDR, VRING_FD, VRING_STATE } from './messages.ts';

export type Handler = (backend: Backend, payload: DataView, bytes: number) => Broken;

/** The ring a state, address or descriptor message names, or the broken rule. */
function ringOf(backend: Backend, index: number): BackendRing | string {
  return backend.ring(index) ?? `queue index ${index}`;
}

const RUNNING = 'ring is started';

/** SET_VRING_ENABLE and its absence: tells the owner when a started ring changes. */
export function enable(backend: Backend, ring: BackendRing, on: boolean): void {
  if (ring.enabled === on) return;
  ring.enabled = on;
  if (ring.started) backend.owner.ringEnabled(ring);
}

export const setVringNum: Handler = (backend, payload) => {
  const ring = ringOf(backend, payload.getUint32(VRING_STATE.INDEX, true));
  if (typeof ring === 'string') return ring;
  if (ring.started) return RUNNING;
  const size = payload.getUint32(VRING_STATE.NUM, true);
  if ((size & (size - 1)) !== 0) return `queue size ${size} is no power of two`;
  if (ring.size !== size) ring.user = null;
  ring.size = size;
  return null;
};

export const setVringAddr: Handler = (backend, payload) => {
  const ring = ringOf(backend, payload.getUint32(VRING_ADDR.INDEX, true));
  if (typeof ring === 'string') return ring;
  if (payload.getUint32(VRING_ADDR.FLAGS, true) !== 0) return 'dirty logging was not offered';
  const desc = u64(payload, VRING_ADDR.DESC);
  const avail = u64(payload, VRING_ADDR.AVAIL);
  const used = u64(payload, VRING_ADDR.USED);
  if (desc < 0 || avail < 0 || used < 0) return 'ring address above 2^53';
  if (ring.started) {
    const same = ring.user?.desc === desc && ring.user.avail === avail && ring.user.used === used;
    return same ? null : RUNNING;
  }
  const placed = ring.place(backend.memory, { desc, avail, used });
  if (typeof placed === 'string') return placed;
  ring.user = { desc, avail, used };
  return null;
};

export const setVringBase: Handler = (backend, payload) => {
  const ring = ringOf(backend, payload.getUint32(VRING_STATE.INDEX, true));
  if (typeof ring === 'string') return ring;
  if (ring.started) return RUNNING;
  const base = payload.getUint32(VRING_STATE.NUM, true);
  if (base > 0xffff) return `base ${base} does not fit a split ring`;
  ring.base = base;
  return null;
};

/** Stops the ring. A queue nobody configured is answered with base 0, since QEMU waits without time-out. */
export const getVringBase: Handler = (backend, payload) => {
  const index = payload.getUint32(VRING_STATE.INDEX, true);
  const ring = backend.ring(index);
  if (ring !== null) backend.stopRing(ring);
  backend.replyPayload.setUint32(VRING_STATE.INDEX, index, true);
  backend.replyPayload.setUint32(VRING_STATE.NUM, ring?.base ?? 0, true);
  backend.reply(VRING_STATE.BYTES);
  return null;
};

export const setVringKick: Handler = (backend, payload) => {
  const word = payload.getUint32(0, true);
  const ring = ringOf(backend, word & VRING_FD.INDEX_MASK);
  if (typeof ring === 'string') return ring;
  if ((word & VRING_FD.NO_FD) !== 0) return 'a ring without kicks would have to be polled';
  const broken = backend.setKick(ring, backend.reader.takeFd(0));
  if (broken !== null || ring.started || !ring.described) return broken;
  const failed = backend.startRing(ring);
  if (failed !== null) backend.dropKick(ring);
  return failed;
};

/** CALL and ERR: the descriptor, or -1 with NOFD. A descriptor that blocks would block the device thread. */
function notifierFd(backend: Backend): number {
  const fd = backend.reader.takeFd(0);
  if (fd >= 0) setNonBlocking(fd, true);
  return fd;
}

export const setVringCall: Handler = (backend, payload) => {
  const ring = ringOf(backend, payload.getUint32(0, true) & VRING_FD.INDEX_MASK);
  if (typeof ring === 'string') return ring;
  ring.setCall(notifierFd(backend));
  return null;
};

export const setVringErr: Handler = (backend, payload) => {
  const ring = ringOf(backend, payload.getUint32(0, true) & VRING_FD.INDEX_MASK);
  if (typeof ring === 'string') return ring;
  ring.setErr(notifierFd(backend));
  return null;
};

export const setVringEnable: Handler = (backend, payload) => {
  if (backend.alwaysEnabled) return 'PROTOCOL_FEATURES was not acked';
  const ring = ringOf(backend, payload.getUint32(VRING_STATE.INDEX, true));
  if (typeof ring === 'string') return ring;
  const on = payload.getUint32(VRING_STATE.NUM, true) === 1;
  enable(backend, ring, on);
  // A kick from before the ring was described is gone from its descriptor; no other need come.
  return on && !ring.started && ring.described ? backend.startRing(ring) : null;
};

export const getInflightFd: Handler = (backend, payload, bytes) => {
  const queues = payload.getUint16(INFLIGHT.QUEUES, true);
  const queueSize = payload.getUint16(INFLIGHT.QUEUE_SIZE, true);
  const made = InflightRegion.create(queues, queueSize);
  if (typeof made === 'number') return `in-flight file: errno ${-made}`;
  const reply = backend.replyPayload;
  putU64(reply, INFLIGHT.SIZE, made.bytes);
  putU64(reply, INFLIGHT.OFFSET, 0);
  reply.setUint16(INFLIGHT.QUEUES, queues, true);
  reply.setUint16(INFLIGHT.QUEUE_SIZE, queueSize, true);
  if (bytes === INFLIGHT.BYTES) reply.setUint32(INFLIGHT.SHORT_BYTES, 0, true);
  backend.reply(bytes, Int32Array.of(made.fd));
  close(made.fd);
  return null;
};

export const setInflightFd: Handler = (backend, payload) => {
  if (backend.rings.some((ring) => ring.started)) return RUNNING;
  const region = InflightRegion.map(
    backend.reader.fds[0],
    u64(payload, INFLIGHT.OFFSET),
    u64(payload, INFLIGHT.SIZE),
    payload.getUint16(INFLIGHT.QUEUES, true),
    payload.getUint16(INFLIGHT.QUEUE_SIZE, true),
  );
  if (typeof region === 'string') return region;
  backend.dropInflight();
  backend.inflight = region;
  for (let i = 0; i < region.queues; i++) {
    const ring = backend.ring(i);
    if (ring !== null) ring.journal = region.journal(i);
  }
  return null;
};
