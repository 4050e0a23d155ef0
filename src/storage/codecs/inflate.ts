/**
 * Deflate streams cut off at a known output length: gzip chunks (rafs-format 3.2) and the ranges of a `.tar.gz` that
 * zran images read (3.7). Node's zlib on libuv's threads; a stream that would give more is stopped, whatever its input
 * promises, so that no bomb unpacks.
 */
/** Output is taken in pieces of this: what a bomb may give beyond the wanted length. */
const PIECE_BYTES = 256 << 10;
const GZIP_TRAILER_BYTES = 8;
/** Members one range may hold: a file each of some 60 bytes in the largest range a builder makes (1 MiB). */
const MEMBERS_MAX = 16_384;

/** Where a deflate stream is entered between two of its blocks. */
export interface EntryPoint {
  /** Window before the first byte: empty, or up to 32 KiB. */
  dictionary: Uint8Array;
  /** The byte before the input, whose `bits` (0..7) high bits belong to the stream. */
  byte: number;
  bits: number;
}

/** A member's first block: nothing before it. */
const MEMBER_START: EntryPoint = { dictionary: new Uint8Array(0), byte: 0, bits: 0 };

/**
 * Decodes gzip members from the start of `input`; what follows `outputBytes` is ignored.
 * @returns at most `outputBytes` bytes, fewer when the input ends early
 * @throws zlib's error for invalid data, or one that says that no member starts there
 */
export async function gunzipUpTo(input: Uint8Array, outputBytes: number): Promise<Buffer> {
  return inflateFrom(MEMBER_START, input.subarray(memberHeaderBytes(input)), outputBytes);
}

/**
 * Decodes from the middle of a gzip file, over the ends of members if need be. Builders of 2.2 also let a range start at
 * the very end of a member: then its trailer comes first.
 * @returns at most `outputBytes` bytes, fewer when the input ends early
 * @throws as `gunzipUpTo`
 */
export async function inflateFrom(entry: EntryPoint, input: Uint8Array, outputBytes: number): Promise<Buffer> {
  try {
    return await inflateMembers(entry, input, outputBytes);
  } catch (error) {
    const rest = input.subarray(GZIP_TRAILER_BYTES);
    if (entry.bits !== 0 || !isMember(rest)) throw error;
    return inflateMembers(MEMBER_START, rest.subarray(memberHeaderBytes(rest)), outputBytes);
  }
}

async function inflateMembers(entry: EntryPoint, input: Uint8Array, outputBytes: number): Promise<Buffer> {
  const output = Buffer.allocUnsafeSlow(outputBytes);
  let { made, used } = await inflateInto(output, entry, input);
  let rest = input;
  for (let members = 1; made < outputBytes; members++) {
    if (members > MEMBERS_MAX) throw new Error(`more than ${MEMBERS_MAX} gzip members`);
    rest = rest.subarray(used + GZIP_TRAILER_BYTES);
    if (rest.length === 0) break;
    rest = rest.subarray(memberHeaderBytes(rest));
    const member = await inflateInto(output.subarray(made), MEMBER_START, rest);
    made += member.made;
    used = member.used;
  }
  return output.subarray(0, made);
}

/** One deflate stream into `output`, to its end or until that is full. */
async function inflateInto(
  output: Buffer,
  entry: EntryPoint,
  input: Uint8Array,
): Promise<{ made: number; used: number }> {
  const { constants, createInflateRaw } = await import('node:zlib');
  const prefix = entryPrefix(entry.byte, entry.bits);
  const engine = createInflateRaw({
    chunkSize: PIECE_BYTES,
    finishFlush: constants.Z_SYNC_FLUSH,
    ...(entry.dictionary.length > 0 ? { dictionary: entry.dictionary } : {}),
  });
  engine.end(prefix.length === 0 ? input : Buffer.concat([prefix, input]));
  let made = 0;
  for await (const piece of engine as AsyncIterable<Buffer>) {
    made += piece.copy(output, made, 0, Math.min(piece.length, output.length - made));
    if (made === output.length) break; // leaving the loop destroys the engine
  }
  return { made, used: engine.bytesWritten - prefix.length };
}

const GZIP_HEADER_BYTES = 10;
const GZIP_FLAG = { HEADER_CRC: 0x02, EXTRA: 0x04, NAME: 0x08, COMMENT: 0x10, RESERVED: 0xe0 } as const;

function isMember(input: Uint8Array): boolean {
  const isDeflate = input.length >= GZIP_HEADER_BYTES && input[0] === 0x1f && input[1] === 0x8b && input[2] === 8;
  return isDeflate && (input[3] & GZIP_FLAG.RESERVED) === 0;
}

/** Length of the gzip header at the start of `input` (RFC 1952, 2.3). */
function memberHeaderBytes(input: Uint8Array): number {
  const flags = input[3];
  if (!isMember(input)) throw new Error('no gzip member starts here');
  let at = GZIP_HEADER_BYTES;
  if (flags & GZIP_FLAG.EXTRA) at += 2 + ((input[at] ?? 0) | ((input[at + 1] ?? 0) << 8));
  for (const flag of [GZIP_FLAG.NAME, GZIP_FLAG.COMMENT]) {
    if (flags & flag) {
      const end = input.indexOf(0, at);
      at = end < 0 ? input.length + 1 : end + 1;
    }
  }
  if (flags & GZIP_FLAG.HEADER_CRC) at += 2;
  if (at > input.length) throw new Error('gzip header ends early');
  return at;
}

/**
 * Empty deflate blocks by number of bits that are to follow in the last byte: Node's zlib cannot be handed single bits,
 * so these are preceded by blocks that give nothing and end where the bits have to begin. Fixed-Huffman blocks are 10
 * bits long, which gives the even numbers; one dynamic-Huffman block of 93 bits the odd ones.
 */
const EMPTY_BLOCKS: readonly Buffer[] = [
  '',
  '04e081000000000010fc5f4300',
  '02082000',
  '04e081000000000010fc5f03',
  '020800',
  '04e081000000000010fc5f4300010400',
  '0200',
  '04e081000000000010fc5f43000100',
].map((hex) => Buffer.from(hex, 'hex'));

/** Bytes before the input that make a raw inflater take the high `bits` bits of `byte` first. */
export function entryPrefix(byte: number, bits: number): Buffer {
  const prefix = Buffer.from(EMPTY_BLOCKS[bits]);
  if (bits > 0) prefix[prefix.length - 1] |= byte & (0xff << (8 - bits));
  return prefix;
}
