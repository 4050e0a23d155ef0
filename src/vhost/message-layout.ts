/**
 * Layouts and limits of vhost-user payloads (protocols 1.2 to 1.4): offsets in bytes, host byte order, and every supported
 * host is little-endian.
 */
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

/** A u64 of the wire as a number; -1 above 2^53-1: refused, never rounded. */
export function u64(view: DataView, at: number): number {
  const high = view.getUint32(at + 4, true);
  return high > 0x1f_ffff ? -1 : high * 2 ** 32 + view.getUint32(at, true);
}

export function putU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value % 2 ** 32, true);
  view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
}
