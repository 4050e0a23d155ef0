/**
 * Every vhost-user message as data: number, sizes, descriptors, the feature it needs, and the rule its payload has to
 * follow (protocols 1.2 to 1.5). No I/O here; `framing.ts` moves the bytes, `backend.ts` and `frontend.ts` act on them.
 *
 * Fields are in host byte order, and every supported host is little-endian.
 */
import type { ProtocolFeature } from './features.ts';

export const HEADER_BYTES = 12;
export const HEADER = { ID: 0, FLAGS: 4, BYTES: 8 } as const;

export const FLAG = { VERSION_MASK: 0x3, VERSION: 0x1, REPLY: 0x4, NEED_REPLY: 0x8 } as const;
/** Flags of every reply, exactly: QEMU and User-Mode Linux hang up on anything else (protocols rule 1). */
export const REPLY_FLAGS = FLAG.VERSION | FLAG.REPLY;

/** Largest payload accepted, as in the `vhost` crate; the largest fixed layout is SHMEM's 2056 bytes. */
export const PAYLOAD_BYTES_MAX = 4096;

export const VRING_STATE = { BYTES: 8, INDEX: 0, NUM: 4 } as const;
export const VRING_ADDR = { BYTES: 40, INDEX: 0, FLAGS: 4, DESC: 8, USED: 16, AVAIL: 24, LOG: 32 } as const;
export const REGION = { BYTES: 32, GPA: 0, SIZE: 8, USER: 16, OFFSET: 24 } as const;
export const MEM_TABLE = { HEAD_BYTES: 8, COUNT: 0 } as const;
export const SINGLE_REGION = { BYTES: 40, REGION: 8 } as const;
export const CONFIG = { HEAD_BYTES: 12, OFFSET: 0, SIZE: 4, FLAGS: 8 } as const;
export const INFLIGHT = { BYTES: 24, SHORT_BYTES: 20, SIZE: 0, OFFSET: 8, QUEUES: 16, QUEUE_SIZE: 18 } as const;
/** Bits of the u64 of SET_VRING_KICK, CALL and ERR. */
export const VRING_FD = { INDEX_MASK: 0xff, NO_FD: 0x100 } as const;

/** Regions in one SET_MEM_TABLE: each brings a descriptor, and 32 are what one message may carry. */
export const TABLE_REGIONS_MAX = 32;
/** QEMU's own limit of config space data. */
export const CONFIG_BYTES_MAX = 256;
/** Ring indexes accepted: what the 8 index bits of the vring fd word can name. QEMU does not ask how many there are. */
export const QUEUES_MAX = 256;
/** Largest virtqueue of the virtio specification. */
export const QUEUE_SIZE_MAX = 32768;
/** Slots announced by GET_MAX_MEM_SLOTS: QEMU uses no more. */
export const MEM_SLOTS_MAX = 512;

assertFits(MEM_TABLE.HEAD_BYTES + TABLE_REGIONS_MAX * REGION.BYTES);
assertFits(CONFIG.HEAD_BYTES + CONFIG_BYTES_MAX);

function assertFits(bytes: number): void {
  if (bytes > PAYLOAD_BYTES_MAX) throw new RangeError(`${bytes} bytes do not fit a payload`);
}

/** The broken rule, for the log; null when all is well. */
export type Broken = string | null;

/** Checks the syntax of a payload: `bytes` of it are there, and `fds` descriptors came along. */
type Check = (payload: DataView, bytes: number, fds: number) => Broken;

export interface MessageSpec {
  readonly id: number;
  /** Payload size from..to. */
  readonly bytes: readonly [min: number, max: number];
  /** Descriptors from..to. */
  readonly fds: readonly [min: number, max: number];
  readonly needs: ProtocolFeature | null;
  /** `regular`: answered with its own reply, whatever the flags say; `ack`: answered only when NEED_REPLY asks. */
  readonly reply: 'regular' | 'ack';
  readonly check: Check;
}

const noRule: Check = () => null;
const none = [0, 0] as const;
const one = [1, 1] as const;
const atMostOne = [0, 1] as const;
const size = (bytes: number): readonly [number, number] => [bytes, bytes];
const STATE = size(VRING_STATE.BYTES);
const U64 = size(8);

/** A u64 of the wire as a number; -1 above 2^53-1: refused, never rounded. */
export function u64(view: DataView, at: number): number {
  const high = view.getUint32(at + 4, true);
  return high > 0x1f_ffff ? -1 : high * 2 ** 32 + view.getUint32(at, true);
}

export function putU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value % 2 ** 32, true);
  view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
}

/** Syntax only: that split rings need a power of two is known when the ring format is (protocols 1.16). */
function vringNum(payload: DataView): Broken {
  const num = payload.getUint32(VRING_STATE.NUM, true);
  return num >= 1 && num <= QUEUE_SIZE_MAX ? null : `queue size ${num} not in 1..${QUEUE_SIZE_MAX}`;
}

function vringEnable(payload: DataView): Broken {
  const num = payload.getUint32(VRING_STATE.NUM, true);
  return num <= 1 ? null : `enable ${num} is neither 0 nor 1`;
}

function vringFd(payload: DataView, _bytes: number, fds: number): Broken {
  const word = payload.getUint32(0, true);
  if (payload.getUint32(4, true) !== 0 || word >>> 9 !== 0) return 'unknown bits in the vring descriptor word';
  const expected = (word & VRING_FD.NO_FD) === 0 ? 1 : 0;
  return fds === expected ? null : `${fds} descriptors where the word announces ${expected}`;
}

function region(payload: DataView, at: number): Broken {
  const bytes = u64(payload, at + REGION.SIZE);
  if (bytes <= 0) return 'region size 0 or above 2^53';
  for (const field of [REGION.GPA, REGION.USER, REGION.OFFSET]) {
    const start = u64(payload, at + field);
    if (start < 0 || !Number.isSafeInteger(start + bytes)) return 'region wraps around or lies above 2^53';
  }
  return null;
}

/** User-Mode Linux sends room for two regions with one filled in: the size may exceed what the count needs (1.4). */
function memTable(payload: DataView, bytes: number, fds: number): Broken {
  const count = payload.getUint32(MEM_TABLE.COUNT, true);
  if (count > TABLE_REGIONS_MAX) return `${count} regions, more than ${TABLE_REGIONS_MAX}`;
  if (bytes < MEM_TABLE.HEAD_BYTES + count * REGION.BYTES) return `${bytes} bytes are too few for ${count} regions`;
  if (fds !== count) return `${fds} descriptors for ${count} regions`;
  for (let i = 0; i < count; i++) {
    const broken = region(payload, MEM_TABLE.HEAD_BYTES + i * REGION.BYTES);
    if (broken !== null) return broken;
  }
  return null;
}

const singleRegion: Check = (payload) => region(payload, SINGLE_REGION.REGION);

function config(payload: DataView, bytes: number): Broken {
  const wanted = payload.getUint32(CONFIG.SIZE, true);
  const offset = payload.getUint32(CONFIG.OFFSET, true);
  if (bytes !== CONFIG.HEAD_BYTES + wanted) return `config size ${wanted} in a payload of ${bytes} bytes`;
  return offset + wanted <= CONFIG_BYTES_MAX ? null : `config range ${offset}+${wanted} above ${CONFIG_BYTES_MAX}`;
}

function inflight(payload: DataView, bytes: number): Broken {
  if (bytes !== INFLIGHT.BYTES && bytes !== INFLIGHT.SHORT_BYTES) return `in-flight description of ${bytes} bytes`;
  const queues = payload.getUint16(INFLIGHT.QUEUES, true);
  const queueSize = payload.getUint16(INFLIGHT.QUEUE_SIZE, true);
  if (queues < 1 || queues > QUEUES_MAX) return `${queues} queues not in 1..${QUEUES_MAX}`;
  if (queueSize < 1 || queueSize > QUEUE_SIZE_MAX) return `queue size ${queueSize} not in 1..${QUEUE_SIZE_MAX}`;
  return u64(payload, INFLIGHT.SIZE) < 0 || u64(payload, INFLIGHT.OFFSET) < 0 ? 'in-flight range above 2^53' : null;
}

/** The virtio status byte; the field is 64 bits wide. */
function status(payload: DataView): Broken {
  return u64(payload, 0) <= 0xff && u64(payload, 0) >= 0 ? null : 'status is more than one byte';
}

function iotlb(payload: DataView): Broken {
  const type = payload.getUint8(25);
  return type >= 1 && type <= 4 ? null : `IOTLB message type ${type}`;
}

function deviceState(payload: DataView): Broken {
  const direction = payload.getUint32(0, true);
  if (direction > 1) return `transfer direction ${direction}`;
  return payload.getUint32(4, true) === 0 ? null : 'transfer phase other than stopped';
}

function logBase(_payload: DataView, bytes: number): Broken {
  return bytes === 8 || bytes === 16 ? null : `log description of ${bytes} bytes`;
}

/** Requests of the frontend (protocols 1.5). A handler for each is required by the type of the handlers' table. */
export const MESSAGES = {
  GET_FEATURES: { id: 1, bytes: none, fds: none, needs: null, reply: 'regular', check: noRule },
  SET_FEATURES: { id: 2, bytes: U64, fds: none, needs: null, reply: 'ack', check: noRule },
  SET_OWNER: { id: 3, bytes: none, fds: none, needs: null, reply: 'ack', check: noRule },
  RESET_OWNER: { id: 4, bytes: none, fds: none, needs: null, reply: 'ack', check: noRule },
  SET_MEM_TABLE: {
    id: 5,
    bytes: [MEM_TABLE.HEAD_BYTES, PAYLOAD_BYTES_MAX],
    fds: [0, TABLE_REGIONS_MAX],
    needs: null,
    reply: 'ack',
    check: memTable,
  },
  SET_LOG_BASE: { id: 6, bytes: [8, 16], fds: one, needs: 'LOG_SHMFD', reply: 'regular', check: logBase },
  SET_LOG_FD: { id: 7, bytes: none, fds: one, needs: 'LOG_SHMFD', reply: 'ack', check: noRule },
  SET_VRING_NUM: { id: 8, bytes: STATE, fds: none, needs: null, reply: 'ack', check: vringNum },
  SET_VRING_ADDR: { id: 9, bytes: size(VRING_ADDR.BYTES), fds: none, needs: null, reply: 'ack', check: noRule },
  SET_VRING_BASE: { id: 10, bytes: STATE, fds: none, needs: null, reply: 'ack', check: noRule },
  GET_VRING_BASE: { id: 11, bytes: STATE, fds: none, needs: null, reply: 'regular', check: noRule },
  SET_VRING_KICK: { id: 12, bytes: U64, fds: atMostOne, needs: null, reply: 'ack', check: vringFd },
  SET_VRING_CALL: { id: 13, bytes: U64, fds: atMostOne, needs: null, reply: 'ack', check: vringFd },
  SET_VRING_ERR: { id: 14, bytes: U64, fds: atMostOne, needs: null, reply: 'ack', check: vringFd },
  GET_PROTOCOL_FEATURES: { id: 15, bytes: none, fds: none, needs: null, reply: 'regular', check: noRule },
  SET_PROTOCOL_FEATURES: { id: 16, bytes: U64, fds: none, needs: null, reply: 'ack', check: noRule },
  GET_QUEUE_NUM: { id: 17, bytes: none, fds: none, needs: 'MQ', reply: 'regular', check: noRule },
  SET_VRING_ENABLE: { id: 18, bytes: STATE, fds: none, needs: null, reply: 'ack', check: vringEnable },
  SEND_RARP: { id: 19, bytes: U64, fds: none, needs: 'RARP', reply: 'ack', check: noRule },
  NET_SET_MTU: { id: 20, bytes: U64, fds: none, needs: 'MTU', reply: 'ack', check: noRule },
  SET_BACKEND_REQ_FD: { id: 21, bytes: none, fds: one, needs: 'BACKEND_REQ', reply: 'ack', check: noRule },
  IOTLB_MSG: { id: 22, bytes: size(32), fds: none, needs: null, reply: 'regular', check: iotlb },
  SET_VRING_ENDIAN: { id: 23, bytes: STATE, fds: none, needs: 'CROSS_ENDIAN', reply: 'ack', check: vringEnable },
  GET_CONFIG: {
    id: 24,
    bytes: [CONFIG.HEAD_BYTES, CONFIG.HEAD_BYTES + CONFIG_BYTES_MAX],
    fds: none,
    needs: 'CONFIG',
    reply: 'regular',
    check: config,
  },
  SET_CONFIG: {
    id: 25,
    bytes: [CONFIG.HEAD_BYTES, CONFIG.HEAD_BYTES + CONFIG_BYTES_MAX],
    fds: none,
    needs: 'CONFIG',
    reply: 'ack',
    check: config,
  },
  CREATE_CRYPTO_SESSION: {
    id: 26,
    bytes: [0, PAYLOAD_BYTES_MAX],
    fds: none,
    needs: 'CRYPTO_SESSION',
    reply: 'regular',
    check: noRule,
  },
  CLOSE_CRYPTO_SESSION: { id: 27, bytes: U64, fds: none, needs: 'CRYPTO_SESSION', reply: 'ack', check: noRule },
  POSTCOPY_ADVISE: { id: 28, bytes: none, fds: none, needs: 'PAGEFAULT', reply: 'regular', check: noRule },
  POSTCOPY_LISTEN: { id: 29, bytes: none, fds: none, needs: 'PAGEFAULT', reply: 'ack', check: noRule },
  POSTCOPY_END: { id: 30, bytes: none, fds: none, needs: 'PAGEFAULT', reply: 'regular', check: noRule },
  GET_INFLIGHT_FD: {
    id: 31,
    bytes: [INFLIGHT.SHORT_BYTES, INFLIGHT.BYTES],
    fds: none,
    needs: 'INFLIGHT_SHMFD',
    reply: 'regular',
    check: inflight,
  },
  SET_INFLIGHT_FD: {
    id: 32,
    bytes: [INFLIGHT.SHORT_BYTES, INFLIGHT.BYTES],
    fds: one,
    needs: 'INFLIGHT_SHMFD',
    reply: 'ack',
    check: inflight,
  },
  // The gpu device's own channel: no feature bit announces it, so that no handler but a refusal can exist here.
  GPU_SET_SOCKET: { id: 33, bytes: none, fds: one, needs: null, reply: 'ack', check: noRule },
  RESET_DEVICE: { id: 34, bytes: none, fds: none, needs: 'RESET_DEVICE', reply: 'ack', check: noRule },
  VRING_KICK: { id: 35, bytes: STATE, fds: none, needs: 'INBAND_NOTIFICATIONS', reply: 'ack', check: noRule },
  GET_MAX_MEM_SLOTS: {
    id: 36,
    bytes: none,
    fds: none,
    needs: 'CONFIGURE_MEM_SLOTS',
    reply: 'regular',
    check: noRule,
  },
  ADD_MEM_REG: {
    id: 37,
    bytes: size(SINGLE_REGION.BYTES),
    fds: one,
    needs: 'CONFIGURE_MEM_SLOTS',
    reply: 'ack',
    check: singleRegion,
  },
  // Some frontends attach the region's descriptor: accepted, and closed like any surplus (protocols 1.5).
  REM_MEM_REG: {
    id: 38,
    bytes: size(SINGLE_REGION.BYTES),
    fds: atMostOne,
    needs: 'CONFIGURE_MEM_SLOTS',
    reply: 'ack',
    check: singleRegion,
  },
  SET_STATUS: { id: 39, bytes: U64, fds: none, needs: 'STATUS', reply: 'ack', check: status },
  GET_STATUS: { id: 40, bytes: none, fds: none, needs: 'STATUS', reply: 'regular', check: noRule },
  GET_SHARED_OBJECT: { id: 41, bytes: size(16), fds: none, needs: 'SHARED_OBJECT', reply: 'regular', check: noRule },
  SET_DEVICE_STATE_FD: { id: 42, bytes: U64, fds: one, needs: 'DEVICE_STATE', reply: 'regular', check: deviceState },
  CHECK_DEVICE_STATE: { id: 43, bytes: none, fds: none, needs: 'DEVICE_STATE', reply: 'regular', check: noRule },
  GET_SHMEM_CONFIG: { id: 44, bytes: none, fds: none, needs: 'SHMEM', reply: 'regular', check: noRule },
  GET_VRING_BASE_SKIP_DRAIN: {
    id: 45,
    bytes: STATE,
    fds: none,
    needs: 'GET_VRING_BASE_SKIP_DRAIN',
    reply: 'regular',
    check: noRule,
  },
} as const satisfies Record<string, MessageSpec>;

export type MessageName = keyof typeof MESSAGES;

const BY_ID: readonly (MessageName | undefined)[] = (() => {
  const names: (MessageName | undefined)[] = [];
  for (const [name, spec] of Object.entries(MESSAGES)) names[spec.id] = name as MessageName;
  return names;
})();

/** Name of a frontend request, undefined for an unknown id. */
export function messageName(id: number): MessageName | undefined {
  return BY_ID[id];
}

/**
 * All rules of the table for one message, in the order of protocols 1.16: size, descriptors, payload.
 * @returns the broken rule or null
 */
export function checkMessage(spec: MessageSpec, payload: DataView, bytes: number, fds: number): Broken {
  if (bytes < spec.bytes[0] || bytes > spec.bytes[1]) {
    return `payload of ${bytes} bytes, not ${spec.bytes[0]}..${spec.bytes[1]}`;
  }
  if (fds < spec.fds[0] || fds > spec.fds[1]) return `${fds} descriptors, not ${spec.fds[0]}..${spec.fds[1]}`;
  return spec.check(payload, bytes, fds);
}

/** Requests of the backend on its own channel (protocols 1.5.1): payload bytes and descriptors, both exact. */
export const BACKEND_MESSAGES = {
  IOTLB_MSG: { id: 1, bytes: 32, fds: 0 },
  CONFIG_CHANGE_MSG: { id: 2, bytes: 0, fds: 0 },
  VRING_HOST_NOTIFIER_MSG: { id: 3, bytes: 24, fds: 1 },
  VRING_CALL: { id: 4, bytes: 8, fds: 0 },
  VRING_ERR: { id: 5, bytes: 8, fds: 0 },
  SHARED_OBJECT_ADD: { id: 6, bytes: 16, fds: 0 },
  SHARED_OBJECT_REMOVE: { id: 7, bytes: 16, fds: 0 },
  SHARED_OBJECT_LOOKUP: { id: 8, bytes: 16, fds: 0 },
  SHMEM_MAP: { id: 9, bytes: 40, fds: 1 },
  SHMEM_UNMAP: { id: 10, bytes: 40, fds: 0 },
} as const;
