/**
 * Every vhost-user message as data: number, sizes, descriptors, the feature it needs, and the rule its payload has to
 * follow (protocols 1.5). No I/O here; `framing.ts` moves the bytes, `backend.ts` and `frontend.ts` act on them.
 */
import type { ProtocolFeature } from './features.ts';
import {
  CONFIG,
  CONFIG_BYTES_MAX,
  INFLIGHT,
  MEM_TABLE,
  PAYLOAD_BYTES_MAX,
  SINGLE_REGION,
  TABLE_REGIONS_MAX,
  VRING_ADDR,
  VRING_STATE,
} from './message-layout.ts';
import type { Broken, Check } from './message-rules.ts';
import * as rule from './message-rules.ts';

export * from './message-layout.ts';
export type { Broken } from './message-rules.ts';

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

const none = [0, 0] as const;
const one = [1, 1] as const;
const atMostOne = [0, 1] as const;
const size = (bytes: number): readonly [number, number] => [bytes, bytes];
const STATE = size(VRING_STATE.BYTES);
const U64 = size(8);

/** Requests of the frontend (protocols 1.5). A handler for each is required by the type of the handlers' table. */
export const MESSAGES = {
  GET_FEATURES: { id: 1, bytes: none, fds: none, needs: null, reply: 'regular', check: rule.noRule },
  SET_FEATURES: { id: 2, bytes: U64, fds: none, needs: null, reply: 'ack', check: rule.noRule },
  SET_OWNER: { id: 3, bytes: none, fds: none, needs: null, reply: 'ack', check: rule.noRule },
  RESET_OWNER: { id: 4, bytes: none, fds: none, needs: null, reply: 'ack', check: rule.noRule },
  SET_MEM_TABLE: {
    id: 5,
    bytes: [MEM_TABLE.HEAD_BYTES, PAYLOAD_BYTES_MAX],
    fds: [0, TABLE_REGIONS_MAX],
    needs: null,
    reply: 'ack',
    check: rule.memTable,
  },
  SET_LOG_BASE: { id: 6, bytes: [8, 16], fds: one, needs: 'LOG_SHMFD', reply: 'regular', check: rule.logBase },
  SET_LOG_FD: { id: 7, bytes: none, fds: one, needs: 'LOG_SHMFD', reply: 'ack', check: rule.noRule },
  SET_VRING_NUM: { id: 8, bytes: STATE, fds: none, needs: null, reply: 'ack', check: rule.vringNum },
  SET_VRING_ADDR: { id: 9, bytes: size(VRING_ADDR.BYTES), fds: none, needs: null, reply: 'ack', check: rule.noRule },
  SET_VRING_BASE: { id: 10, bytes: STATE, fds: none, needs: null, reply: 'ack', check: rule.noRule },
  GET_VRING_BASE: { id: 11, bytes: STATE, fds: none, needs: null, reply: 'regular', check: rule.noRule },
  SET_VRING_KICK: { id: 12, bytes: U64, fds: atMostOne, needs: null, reply: 'ack', check: rule.vringFd },
  SET_VRING_CALL: { id: 13, bytes: U64, fds: atMostOne, needs: null, reply: 'ack', check: rule.vringFd },
  SET_VRING_ERR: { id: 14, bytes: U64, fds: atMostOne, needs: null, reply: 'ack', check: rule.vringFd },
  GET_PROTOCOL_FEATURES: { id: 15, bytes: none, fds: none, needs: null, reply: 'regular', check: rule.noRule },
  SET_PROTOCOL_FEATURES: { id: 16, bytes: U64, fds: none, needs: null, reply: 'ack', check: rule.noRule },
  GET_QUEUE_NUM: { id: 17, bytes: none, fds: none, needs: 'MQ', reply: 'regular', check: rule.noRule },
  SET_VRING_ENABLE: { id: 18, bytes: STATE, fds: none, needs: null, reply: 'ack', check: rule.vringEnable },
  SEND_RARP: { id: 19, bytes: U64, fds: none, needs: 'RARP', reply: 'ack', check: rule.noRule },
  NET_SET_MTU: { id: 20, bytes: U64, fds: none, needs: 'MTU', reply: 'ack', check: rule.noRule },
  SET_BACKEND_REQ_FD: { id: 21, bytes: none, fds: one, needs: 'BACKEND_REQ', reply: 'ack', check: rule.noRule },
  IOTLB_MSG: { id: 22, bytes: size(32), fds: none, needs: null, reply: 'regular', check: rule.iotlb },
  SET_VRING_ENDIAN: { id: 23, bytes: STATE, fds: none, needs: 'CROSS_ENDIAN', reply: 'ack', check: rule.vringEnable },
  GET_CONFIG: {
    id: 24,
    bytes: [CONFIG.HEAD_BYTES, CONFIG.HEAD_BYTES + CONFIG_BYTES_MAX],
    fds: none,
    needs: 'CONFIG',
    reply: 'regular',
    check: rule.config,
  },
  SET_CONFIG: {
    id: 25,
    bytes: [CONFIG.HEAD_BYTES, CONFIG.HEAD_BYTES + CONFIG_BYTES_MAX],
    fds: none,
    needs: 'CONFIG',
    reply: 'ack',
    check: rule.config,
  },
  CREATE_CRYPTO_SESSION: {
    id: 26,
    bytes: [0, PAYLOAD_BYTES_MAX],
    fds: none,
    needs: 'CRYPTO_SESSION',
    reply: 'regular',
    check: rule.noRule,
  },
  CLOSE_CRYPTO_SESSION: { id: 27, bytes: U64, fds: none, needs: 'CRYPTO_SESSION', reply: 'ack', check: rule.noRule },
  POSTCOPY_ADVISE: { id: 28, bytes: none, fds: none, needs: 'PAGEFAULT', reply: 'regular', check: rule.noRule },
  POSTCOPY_LISTEN: { id: 29, bytes: none, fds: none, needs: 'PAGEFAULT', reply: 'ack', check: rule.noRule },
  POSTCOPY_END: { id: 30, bytes: none, fds: none, needs: 'PAGEFAULT', reply: 'regular', check: rule.noRule },
  GET_INFLIGHT_FD: {
    id: 31,
    bytes: [INFLIGHT.SHORT_BYTES, INFLIGHT.BYTES],
    fds: none,
    needs: 'INFLIGHT_SHMFD',
    reply: 'regular',
    check: rule.inflight,
  },
  SET_INFLIGHT_FD: {
    id: 32,
    bytes: [INFLIGHT.SHORT_BYTES, INFLIGHT.BYTES],
    fds: one,
    needs: 'INFLIGHT_SHMFD',
    reply: 'ack',
    check: rule.inflight,
  },
  // The gpu device's own channel: no feature bit announces it, so that no handler but a refusal can exist here.
  GPU_SET_SOCKET: { id: 33, bytes: none, fds: one, needs: null, reply: 'ack', check: rule.noRule },
  RESET_DEVICE: { id: 34, bytes: none, fds: none, needs: 'RESET_DEVICE', reply: 'ack', check: rule.noRule },
  VRING_KICK: { id: 35, bytes: STATE, fds: none, needs: 'INBAND_NOTIFICATIONS', reply: 'ack', check: rule.noRule },
  GET_MAX_MEM_SLOTS: {
    id: 36,
    bytes: none,
    fds: none,
    needs: 'CONFIGURE_MEM_SLOTS',
    reply: 'regular',
    check: rule.noRule,
  },
  ADD_MEM_REG: {
    id: 37,
    bytes: size(SINGLE_REGION.BYTES),
    fds: one,
    needs: 'CONFIGURE_MEM_SLOTS',
    reply: 'ack',
    check: rule.singleRegion,
  },
  // Some frontends attach the region's descriptor: accepted, and closed like any surplus (protocols 1.5).
  REM_MEM_REG: {
    id: 38,
    bytes: size(SINGLE_REGION.BYTES),
    fds: atMostOne,
    needs: 'CONFIGURE_MEM_SLOTS',
    reply: 'ack',
    check: rule.singleRegion,
  },
  SET_STATUS: { id: 39, bytes: U64, fds: none, needs: 'STATUS', reply: 'ack', check: rule.status },
  GET_STATUS: { id: 40, bytes: none, fds: none, needs: 'STATUS', reply: 'regular', check: rule.noRule },
  GET_SHARED_OBJECT: {
    id: 41,
    bytes: size(16),
    fds: none,
    needs: 'SHARED_OBJECT',
    reply: 'regular',
    check: rule.noRule,
  },
  SET_DEVICE_STATE_FD: {
    id: 42,
    bytes: U64,
    fds: one,
    needs: 'DEVICE_STATE',
    reply: 'regular',
    check: rule.deviceState,
  },
  CHECK_DEVICE_STATE: { id: 43, bytes: none, fds: none, needs: 'DEVICE_STATE', reply: 'regular', check: rule.noRule },
  GET_SHMEM_CONFIG: { id: 44, bytes: none, fds: none, needs: 'SHMEM', reply: 'regular', check: rule.noRule },
  GET_VRING_BASE_SKIP_DRAIN: {
    id: 45,
    bytes: STATE,
    fds: none,
    needs: 'GET_VRING_BASE_SKIP_DRAIN',
    reply: 'regular',
    check: rule.noRule,
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
