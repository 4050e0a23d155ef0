/**
 * A file system whose READs wait for as long as a test wants: fh 1 parks, fh 2 parks twice, the second time after a park
 * that it takes back, fh 3 until the kernel, which writes nowhere, has filled it; any other answers at once. Every byte read is
 * `patternAt(offset)`, so lost, doubled and misplaced replies show.
 */
import type * as A from '../../fuse/args.ts';
import { S } from '../../fuse/flags.ts';
import { PARKED, RESUME, Request } from '../../fuse/request.ts';
import { copyTo } from '../../fuse/segments.ts';
import { ATTR_OUT, ATTR_OUT_BYTES, ENTRY_OUT, ENTRY_OUT_BYTES, OPEN_OUT_BYTES } from '../../fuse/wire/layout.ts';
import { putAttr, putAttrHead, putEntryHead } from '../../fuse/wire/out.ts';
import { errno } from '../../sys/errno.ts';
import { NativeMemory } from '../../sys/native-memory.ts';
import { Refusing } from '../../vfs/refusing.ts';

const BODY = Request.BODY_WORD;
export const PARKING_FH = 1n;
export const TWICE_FH = 2n;
export const FILLED_FH = 3n;
export const FILE_BYTES = 2 * 1024 * 1024;

/** The byte every read shows at `offset`. */
export function patternAt(offset: number): number {
  return (offset * 7 + (offset >> 12)) & 0xff;
}

export class ParkFs extends Refusing {
  /** Parked READs, in order: ticket and result. */
  readonly parked: [ticket: number, result: number][] = [];
  resets = 0;
  private readonly content = new NativeMemory(FILE_BYTES);

  constructor() {
    super(-errno.EOPNOTSUPP);
    for (let i = 0; i < FILE_BYTES; i++) this.content.u8[i] = patternAt(i);
  }

  override lookup(request: Request, args: A.NameArgs): number {
    const words = request.reply.u32;
    putEntryHead(words, BODY, 2, 0, 1000, 1000);
    this.attributes(words, BODY + ENTRY_OUT.ATTR);
    return args.name.bytes > 200 ? -errno.ENOENT : ENTRY_OUT_BYTES;
  }

  override getattr(request: Request): number {
    putAttrHead(request.reply.u32, BODY, 1000);
    this.attributes(request.reply.u32, BODY + ATTR_OUT.ATTR);
    return ATTR_OUT_BYTES;
  }

  private attributes(words: Uint32Array, at: number): void {
    putAttr(words, at, 2, 0, FILE_BYTES, FILE_BYTES / 512, 1, 2, S.IFREG | 0o644, 1, 0, 0, 0, 0);
  }

  override open(request: Request, args: A.OpenArgs): number {
    const words = request.reply.u32;
    words.fill(0, BODY, BODY + 4);
    words[BODY] = args.flags === 0 ? 0 : 1;
    return OPEN_OUT_BYTES;
  }

  override read(request: Request, args: A.ReadArgs): number {
    const parks = args.fhLow === Number(TWICE_FH) ? 2 : args.fhLow === Number(PARKING_FH) ? 1 : 0;
    if (request.attempt < parks) {
      if (request.attempt > 0) request.parking.unpark(request.parking.park(RESUME.RERUN, false));
      const ticket = request.parking.park(RESUME.RERUN, false);
      if (ticket === 0) return -errno.EBUSY;
      this.parked.push([ticket, 0]);
      return PARKED;
    }
    if (args.fhLow === Number(FILLED_FH) && request.attempt === 0) {
      this.parked.push([request.parking.park(RESUME.FINISH, true), args.size]);
      return PARKED;
    }
    const bytes = Math.max(0, Math.min(args.size, request.data.bytes, FILE_BYTES - args.offset));
    return bytes === 0 ? 0 : copyTo(request.data, 0, this.content.address + args.offset, bytes);
  }

  override reset(): void {
    this.resets++;
  }
}
