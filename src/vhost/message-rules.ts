/**
 * What the payload of each message has to satisfy before anybody looks at it (protocols 1.4, 1.16). A rule returns the
 * broken rule as text, or null; rules that depend on state are in the handlers.
 */
import {
  CONFIG,
  CONFIG_BYTES_MAX,
  INFLIGHT,
  MEM_TABLE,
  QUEUE_SIZE_MAX,
  QUEUES_MAX,
  REGION,
  SINGLE_REGION,
  TABLE_REGIONS_MAX,
  u64,
  VRING_FD,
  VRING_STATE,
} from './message-layout.ts';

/** The broken rule, for the log; null when all is well. */
export type Broken = string | null;

/** Checks the syntax of a payload: `bytes` of it are there, and `fds` descriptors came along. */
export type Check = (payload: DataView, bytes: number, fds: number) => Broken;

export const noRule: Check = () => null;

/** Syntax only: that split rings need a power of two is known when the ring format is (protocols 1.16). */
export function vringNum(payload: DataView): Broken {
  const num = payload.getUint32(VRING_STATE.NUM, true);
  return num >= 1 && num <= QUEUE_SIZE_MAX ? null : `queue size ${num} not in 1..${QUEUE_SIZE_MAX}`;
}

export function vringEnable(payload: DataView): Broken {
  const num = payload.getUint32(VRING_STATE.NUM, true);
  return num <= 1 ? null : `enable ${num} is neither 0 nor 1`;
}

export function vringFd(payload: DataView, _bytes: number, fds: number): Broken {
  const word = payload.getUint32(0, true);
  if (payload.getUint32(4, true) !== 0 || word >>> 9 !== 0) return 'unknown bits in the vring descriptor word';
  const expected = (word & VRING_FD.NO_FD) === 0 ? 1 : 0;
  return fds === expected ? null : `${fds} descriptors where the word announces ${expected}`;
}

export function region(payload: DataView, at: number): Broken {
  const bytes = u64(payload, at + REGION.SIZE);
  if (bytes <= 0) return 'region size 0 or above 2^53';
  for (const field of [REGION.GPA, REGION.USER, REGION.OFFSET]) {
    const start = u64(payload, at + field);
    if (start < 0 || !Number.isSafeInteger(start + bytes)) return 'region wraps around or lies above 2^53';
  }
  return null;
}

/** User-Mode Linux sends room for two regions with one filled in: the size may exceed what the count needs (1.4). */
export function memTable(payload: DataView, bytes: number, fds: number): Broken {
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

export const singleRegion: Check = (payload) => region(payload, SINGLE_REGION.REGION);

export function config(payload: DataView, bytes: number): Broken {
  const wanted = payload.getUint32(CONFIG.SIZE, true);
  const offset = payload.getUint32(CONFIG.OFFSET, true);
  if (bytes !== CONFIG.HEAD_BYTES + wanted) return `config size ${wanted} in a payload of ${bytes} bytes`;
  return offset + wanted <= CONFIG_BYTES_MAX ? null : `config range ${offset}+${wanted} above ${CONFIG_BYTES_MAX}`;
}

export function inflight(payload: DataView, bytes: number): Broken {
  if (bytes !== INFLIGHT.BYTES && bytes !== INFLIGHT.SHORT_BYTES) return `in-flight description of ${bytes} bytes`;
  const queues = payload.getUint16(INFLIGHT.QUEUES, true);
  const queueSize = payload.getUint16(INFLIGHT.QUEUE_SIZE, true);
  if (queues < 1 || queues > QUEUES_MAX) return `${queues} queues not in 1..${QUEUES_MAX}`;
  if (queueSize < 1 || queueSize > QUEUE_SIZE_MAX) return `queue size ${queueSize} not in 1..${QUEUE_SIZE_MAX}`;
  return u64(payload, INFLIGHT.SIZE) < 0 || u64(payload, INFLIGHT.OFFSET) < 0 ? 'in-flight range above 2^53' : null;
}

/** The virtio status byte; the field is 64 bits wide. */
export function status(payload: DataView): Broken {
  return u64(payload, 0) <= 0xff && u64(payload, 0) >= 0 ? null : 'status is more than one byte';
}

export function iotlb(payload: DataView): Broken {
  const type = payload.getUint8(25);
  return type >= 1 && type <= 4 ? null : `IOTLB message type ${type}`;
}

export function deviceState(payload: DataView): Broken {
  const direction = payload.getUint32(0, true);
  if (direction > 1) return `transfer direction ${direction}`;
  return payload.getUint32(4, true) === 0 ? null : 'transfer phase other than stopped';
}

export function logBase(_payload: DataView, bytes: number): Broken {
  return bytes === 8 || bytes === 16 ? null : `log description of ${bytes} bytes`;
}
