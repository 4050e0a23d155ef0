/**
 * What each frontend request does to the backend (protocols 1.5, 1.7, 1.16). The payload has passed its rules in
 * `messages.ts`; a handler checks what depends on state, and returns the broken rule or null.
 *
 * Handlers of messages with a regular reply send it themselves. Messages whose feature is never offered have `refuse`:
 * the feature check ends them before, and a table without them would not compile.
 */
import { close, setNonBlocking } from '../sys/io.ts';
import type { Backend } from './backend.ts';
import type { BackendRing } from './backend-ring.ts';
import { type FeatureSet, featureNames, featureSet, isEmpty, PROTOCOL, VIRTIO, without } from './features.ts';
import { InflightRegion } from './inflight.ts';
import type { RegionSpec } from './memory.ts';
import {
  type Broken,
  CONFIG,
  INFLIGHT,
  MEM_SLOTS_MAX,
  MEM_TABLE,
  type MessageName,
  putU64,
  REGION,
  SINGLE_REGION,
  u64,
  VRING_ADDR,
  VRING_FD,
  VRING_STATE,
} from './messages.ts';

type Handler = (backend: Backend, payload: DataView, bytes: number) => Broken;

const ignore: Handler = () => null;
const refuse: Handler = () => 'not supported';

function readFeatures(payload: DataView): FeatureSet {
  return { low: payload.getUint32(0, true), high: payload.getUint32(4, true) };
}

/** The ring a state, address or descriptor message names, or the broken rule. */
function ringOf(backend: Backend, index: number): BackendRing | string {
  return backend.ring(index) ?? `queue index ${index}`;
}

const RUNNING = 'ring is started';

/** Bits that may change while rings run. */
const TOGGLED = featureSet(VIRTIO.LOG_ALL, VIRTIO.PROTOCOL_FEATURES);

const setFeatures: Handler = (backend, payload) => {
  const wanted = readFeatures(payload);
  const unknown = without(wanted, backend.offered);
  if (!isEmpty(unknown)) return `features never offered: ${featureNames(unknown, VIRTIO)}`;
  const { low, high } = backend.features;
  const changed = without({ low: wanted.low ^ low, high: wanted.high ^ high }, TOGGLED);
  if (!isEmpty(changed) && backend.rings.some((ring) => ring.started)) return 'features change while rings run';
  const wereEnabled = backend.alwaysEnabled;
  backend.features = wanted;
  if (backend.alwaysEnabled) for (const ring of backend.rings) enable(backend, ring, true);
  else if (wereEnabled) for (const ring of backend.rings) ring.enabled = ring.started;
  return null;
};

function enable(backend: Backend, ring: BackendRing, on: boolean): void {
  if (ring.enabled === on) return;
  ring.enabled = on;
  if (ring.started) backend.owner.ringEnabled(ring);
}

const setProtocolFeatures: Handler = (backend, payload) => {
  const wanted = readFeatures(payload);
  const unknown = without(wanted, backend.offeredProtocol);
  if (!isEmpty(unknown)) return `protocol features never offered: ${featureNames(unknown, PROTOCOL)}`;
  backend.protocol = wanted;
  return null;
};

/** A region of a payload, with descriptor `i` of the message (left to the message, which closes it). */
function regionAt(backend: Backend, payload: DataView, at: number, i: number): RegionSpec {
  return {
    gpa: u64(payload, at + REGION.GPA),
    bytes: u64(payload, at + REGION.SIZE),
    user: u64(payload, at + REGION.USER),
    offset: u64(payload, at + REGION.OFFSET),
    fd: backend.reader.fds[i],
  };
}

function memoryResult(backend: Backend, broken: Broken): Broken {
  if (broken === null) backend.memoryChanged();
  return broken;
}

const setMemTable: Handler = (backend, payload) => {
  const count = payload.getUint32(MEM_TABLE.COUNT, true);
  const regions: RegionSpec[] = [];
  for (let i = 0; i < count; i++) {
    regions.push(regionAt(backend, payload, MEM_TABLE.HEAD_BYTES + i * REGION.BYTES, i));
  }
  return memoryResult(backend, backend.memory.replace(regions));
};

const addMemReg: Handler = (backend, payload) =>
  memoryResult(backend, backend.memory.add(regionAt(backend, payload, SINGLE_REGION.REGION, 0)));

const remMemReg: Handler = (backend, payload) => {
  const { gpa, bytes, user } = regionAt(backend, payload, SINGLE_REGION.REGION, 0);
  return memoryResult(backend, backend.memory.remove(gpa, bytes, user));
};

const setVringNum: Handler = (backend, payload) => {
  const ring = ringOf(backend, payload.getUint32(VRING_STATE.INDEX, true));
  if (typeof ring === 'string') return ring;
  if (ring.started) return RUNNING;
  const size = payload.getUint32(VRING_STATE.NUM, true);
  if ((size & (size - 1)) !== 0) return `queue size ${size} is no power of two`;
  if (ring.size !== size) ring.user = null;
  ring.size = size;
  return null;
};

const setVringAddr: Handler = (backend, payload) => {
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

const setVringBase: Handler = (backend, payload) => {
  const ring = ringOf(backend, payload.getUint32(VRING_STATE.INDEX, true));
  if (typeof ring === 'string') return ring;
  if (ring.started) return RUNNING;
  const base = payload.getUint32(VRING_STATE.NUM, true);
  if (base > 0xffff) return `base ${base} does not fit a split ring`;
  ring.base = base;
  return null;
};

/** Stops the ring. A queue nobody configured is answered with base 0, since QEMU waits without time-out. */
const getVringBase: Handler = (backend, payload) => {
  const index = payload.getUint32(VRING_STATE.INDEX, true);
  const ring = backend.ring(index);
  if (ring !== null) backend.stopRing(ring);
  backend.replyPayload.setUint32(VRING_STATE.INDEX, index, true);
  backend.replyPayload.setUint32(VRING_STATE.NUM, ring?.base ?? 0, true);
  backend.reply(VRING_STATE.BYTES);
  return null;
};

const setVringKick: Handler = (backend, payload) => {
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

const setVringCall: Handler = (backend, payload) => {
  const ring = ringOf(backend, payload.getUint32(0, true) & VRING_FD.INDEX_MASK);
  if (typeof ring === 'string') return ring;
  ring.setCall(notifierFd(backend));
  return null;
};

const setVringErr: Handler = (backend, payload) => {
  const ring = ringOf(backend, payload.getUint32(0, true) & VRING_FD.INDEX_MASK);
  if (typeof ring === 'string') return ring;
  ring.setErr(notifierFd(backend));
  return null;
};

const setVringEnable: Handler = (backend, payload) => {
  if (backend.alwaysEnabled) return 'PROTOCOL_FEATURES was not acked';
  const ring = ringOf(backend, payload.getUint32(VRING_STATE.INDEX, true));
  if (typeof ring === 'string') return ring;
  enable(backend, ring, payload.getUint32(VRING_STATE.NUM, true) === 1);
  return null;
};

/** Bytes behind the device's config space read as zero: guests and frontends read fixed sizes (protocols 1.8, 3.1). */
const getConfig: Handler = (backend, payload, bytes) => {
  const config = backend.options.config;
  const offset = payload.getUint32(CONFIG.OFFSET, true);
  const reply = backend.replyPayload;
  for (let i = 0; i < CONFIG.HEAD_BYTES; i++) reply.setUint8(i, payload.getUint8(i));
  for (let i = CONFIG.HEAD_BYTES; i < bytes; i++) {
    reply.setUint8(i, config?.[offset + i - CONFIG.HEAD_BYTES] ?? 0);
  }
  backend.reply(bytes);
  return null;
};

const setBackendReqFd: Handler = (backend) => {
  backend.channel.set(backend.reader.takeFd(0));
  return null;
};

function stopAll(backend: Backend): void {
  for (const ring of backend.rings) backend.stopRing(ring);
}

const resetDevice: Handler = (backend) => {
  stopAll(backend);
  for (const ring of backend.rings) {
    ring.forgetStopPoint();
    ring.enabled = backend.alwaysEnabled;
  }
  backend.owner.reset('device');
  return null;
};

const setStatus: Handler = (backend, payload) => {
  backend.status = payload.getUint8(0);
  if (backend.status !== 0) return null;
  stopAll(backend);
  backend.owner.reset('status');
  return null;
};

const getInflightFd: Handler = (backend, payload, bytes) => {
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

const setInflightFd: Handler = (backend, payload) => {
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

function answerU64(value: (backend: Backend) => number): Handler {
  return (backend) => {
    backend.replyU64(value(backend));
    return null;
  };
}

function answerFeatures(value: (backend: Backend) => FeatureSet): Handler {
  return (backend) => {
    backend.replyFeatures(value(backend));
    return null;
  };
}

export const HANDLERS: Record<MessageName, Handler> = {
  GET_FEATURES: answerFeatures((backend) => backend.offered),
  SET_FEATURES: setFeatures,
  SET_OWNER: ignore,
  RESET_OWNER: ignore,
  SET_MEM_TABLE: setMemTable,
  SET_LOG_BASE: refuse,
  SET_LOG_FD: refuse,
  SET_VRING_NUM: setVringNum,
  SET_VRING_ADDR: setVringAddr,
  SET_VRING_BASE: setVringBase,
  GET_VRING_BASE: getVringBase,
  SET_VRING_KICK: setVringKick,
  SET_VRING_CALL: setVringCall,
  SET_VRING_ERR: setVringErr,
  GET_PROTOCOL_FEATURES: answerFeatures((backend) => backend.offeredProtocol),
  SET_PROTOCOL_FEATURES: setProtocolFeatures,
  GET_QUEUE_NUM: answerU64((backend) => backend.options.queues),
  SET_VRING_ENABLE: setVringEnable,
  SEND_RARP: refuse,
  NET_SET_MTU: refuse,
  SET_BACKEND_REQ_FD: setBackendReqFd,
  IOTLB_MSG: refuse,
  SET_VRING_ENDIAN: refuse,
  GET_CONFIG: getConfig,
  SET_CONFIG: () => 'the config space is read-only',
  CREATE_CRYPTO_SESSION: refuse,
  CLOSE_CRYPTO_SESSION: refuse,
  POSTCOPY_ADVISE: refuse,
  POSTCOPY_LISTEN: refuse,
  POSTCOPY_END: refuse,
  GET_INFLIGHT_FD: getInflightFd,
  SET_INFLIGHT_FD: setInflightFd,
  GPU_SET_SOCKET: refuse,
  RESET_DEVICE: resetDevice,
  VRING_KICK: refuse,
  GET_MAX_MEM_SLOTS: answerU64(() => MEM_SLOTS_MAX),
  ADD_MEM_REG: addMemReg,
  REM_MEM_REG: remMemReg,
  SET_STATUS: setStatus,
  GET_STATUS: answerU64((backend) => backend.status),
  GET_SHARED_OBJECT: refuse,
  SET_DEVICE_STATE_FD: refuse,
  CHECK_DEVICE_STATE: refuse,
  GET_SHMEM_CONFIG: refuse,
  GET_VRING_BASE_SKIP_DRAIN: refuse,
};
