/**
 * What each frontend request does to the backend (protocols 1.5, 1.7, 1.16). The payload has passed its rules in
 * `messages.ts`; a handler checks what depends on state, and returns the broken rule or null.
 *
 * Handlers of messages with a regular reply send it themselves. Messages whose feature is never offered have `refuse`:
 * the feature check ends them before, and a table without them would not compile.
 */
import type { Backend } from './backend.ts';
import { type FeatureSet, featureNames, featureSet, isEmpty, PROTOCOL, VIRTIO, without } from './features.ts';
import {
  enable,
  getInflightFd,
  getVringBase,
  type Handler,
  setInflightFd,
  setVringAddr,
  setVringBase,
  setVringCall,
  setVringEnable,
  setVringErr,
  setVringKick,
  setVringNum,
} from './handlers-ring.ts';
import type { RegionSpec } from './memory.ts';
import {
  type Broken,
  CONFIG,
  MEM_SLOTS_MAX,
  MEM_TABLE,
  type MessageName,
  REGION,
  SINGLE_REGION,
  u64,
} from './messages.ts';

const ignore: Handler = () => null;
const refuse: Handler = () => 'not supported';

function readFeatures(payload: DataView): FeatureSet {
  return { low: payload.getUint32(0, true), high: payload.getUint32(4, true) };
}

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
