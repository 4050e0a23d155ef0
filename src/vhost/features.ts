/**
 * Feature bits of virtio and of vhost-user, and sets of them (protocols 1.5.2, 1.6).
 *
 * A set is two u32 words, as on the wire: no BigInt, no number above 2^53.
 */

/** Virtio feature bits that concern this library (protocols 1.6). */
export const VIRTIO = {
  FS_NOTIFICATION: 0,
  NOTIFY_ON_EMPTY: 24,
  LOG_ALL: 26,
  INDIRECT_DESC: 28,
  EVENT_IDX: 29,
  /** vhost-user only: protocol features exist, and rings start disabled. The guest never sees it. */
  PROTOCOL_FEATURES: 30,
  VERSION_1: 32,
  ACCESS_PLATFORM: 33,
  RING_PACKED: 34,
  IN_ORDER: 35,
  ORDER_PLATFORM: 36,
  NOTIFICATION_DATA: 38,
  RING_RESET: 40,
} as const;

/** vhost-user protocol feature bits (protocols 1.5.2). */
export const PROTOCOL = {
  MQ: 0,
  LOG_SHMFD: 1,
  RARP: 2,
  REPLY_ACK: 3,
  MTU: 4,
  BACKEND_REQ: 5,
  CROSS_ENDIAN: 6,
  CRYPTO_SESSION: 7,
  PAGEFAULT: 8,
  CONFIG: 9,
  BACKEND_SEND_FD: 10,
  HOST_NOTIFIER: 11,
  INFLIGHT_SHMFD: 12,
  RESET_DEVICE: 13,
  INBAND_NOTIFICATIONS: 14,
  CONFIGURE_MEM_SLOTS: 15,
  STATUS: 16,
  XEN_MMAP: 17,
  SHARED_OBJECT: 18,
  DEVICE_STATE: 19,
  GET_VRING_BASE_INFLIGHT: 20,
  GPA_ADDRESSES: 21,
  SHMEM: 22,
  GET_VRING_BASE_SKIP_DRAIN: 23,
} as const;

export type VirtioFeature = keyof typeof VIRTIO;
export type ProtocolFeature = keyof typeof PROTOCOL;

/** A set of feature bits 0..63. */
export interface FeatureSet {
  readonly low: number;
  readonly high: number;
}

export const NO_FEATURES: FeatureSet = { low: 0, high: 0 };

/** The set with these bits. */
export function featureSet(...bits: readonly number[]): FeatureSet {
  let low = 0;
  let high = 0;
  for (const bit of bits) {
    if (bit < 32) low |= 1 << bit;
    else high |= 1 << (bit - 32);
  }
  return { low: low >>> 0, high: high >>> 0 };
}

export function hasFeature(set: FeatureSet, bit: number): boolean {
  return bit < 32 ? ((set.low >>> bit) & 1) === 1 : ((set.high >>> (bit - 32)) & 1) === 1;
}

export function intersect(a: FeatureSet, b: FeatureSet): FeatureSet {
  return { low: (a.low & b.low) >>> 0, high: (a.high & b.high) >>> 0 };
}

/** Bits of `a` that `b` lacks. */
export function without(a: FeatureSet, b: FeatureSet): FeatureSet {
  return { low: (a.low & ~b.low) >>> 0, high: (a.high & ~b.high) >>> 0 };
}

export function isEmpty(set: FeatureSet): boolean {
  return set.low === 0 && set.high === 0;
}

/** Names for a log line: `MQ REPLY_ACK bit40`. */
export function featureNames(set: FeatureSet, table: Readonly<Record<string, number>>): string {
  const names: string[] = [];
  for (let bit = 0; bit < 64; bit++) {
    if (!hasFeature(set, bit)) continue;
    names.push(Object.keys(table).find((name) => table[name] === bit) ?? `bit${bit}`);
  }
  return names.join(' ');
}
