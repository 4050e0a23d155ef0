/** The device configuration space (protocols 3.1): tag and number of request queues. */

export const TAG_BYTES_MAX = 36;
/** tag, num_request_queues, and notify_buf_size, which QEMU's structure has without the feature: 0. */
export const CONFIG_BYTES = 44;
const QUEUES_AT = 36;

/** Why `tag` cannot be one, or null. Linux refuses empty tags and, from 6.9 on, newlines. */
export function tagFault(tag: string): string | null {
  const bytes = Buffer.byteLength(tag);
  if (bytes === 0) return 'is empty';
  if (bytes > TAG_BYTES_MAX) return `has ${bytes} bytes, at most ${TAG_BYTES_MAX} fit`;
  return /[\n\0]/.test(tag) ? 'contains a newline or NUL' : null;
}

/** The configuration space for GET_CONFIG; the tag is padded with NULs. */
export function configSpace(tag: string, requestQueues: number): Uint8Array {
  const space = new Uint8Array(CONFIG_BYTES);
  space.set(Buffer.from(tag).subarray(0, TAG_BYTES_MAX));
  new DataView(space.buffer).setUint32(QUEUES_AT, requestQueues, true);
  return space;
}
