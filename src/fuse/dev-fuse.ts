/**
 * The /dev/fuse transport: the same session as over virtqueues, for mounts on the host (runc, tests).
 *
 *     kernel ── read(2): one whole request ──► inbox ─► private copy ─► Session
 *     kernel ◄─ writev(2): header, body ◄── reply scratch, or a data buffer (READ)
 *
 * There is no guest memory: READ data lands in a buffer of ours first. A parked read that the kernel (io_uring) fills
 * meanwhile owns its buffer until it is answered; the next request gets another one.
 */
import { errno, errnoText } from '../sys/errno.ts';
import { close, copyMemory, read, write, writev } from '../sys/io.ts';
import { MNT_DETACH, MS, mount, umount } from '../sys/mount.ts';
import { NativeMemory } from '../sys/native-memory.ts';
import { O, openPath } from '../sys/path.ts';
import type { FileSystem } from './file-system.ts';
import { S } from './flags.ts';
import { DEV_FUSE_POLICY, MAX_WRITE_BYTES } from './init.ts';
import { askResend, forgetAttributes } from './notify.ts';
import { OPS } from './opcodes.ts';
import { type AsyncIo, REPLY_BODY_BYTES_MAX, REQUEST_BYTES_MAX, type Request } from './request.ts';
import { canResend, type FailoverPolicy, lossOf, RESENT_HIGH } from './resend.ts';
import { type Port, REACH, Session, type SessionLog } from './session.ts';
import type { Stats } from './stats.ts';
import { STAT } from './stats-layout.ts';
import { IN_HEADER, IN_HEADER_BYTES, OUT_HEADER_BYTES } from './wire/layout.ts';

/** One WRITE: its data, in_header and write_in, rounded up generously (the kernel demands 8 KiB at least). */
const INBOX_BYTES = MAX_WRITE_BYTES + 8192;
/** READ replies: max_pages of 4 KiB. */
const DATA_BYTES = MAX_WRITE_BYTES;
/** Requests taken per wake-up, so that completions and control messages get their turn. */
const REQUESTS_PER_TURN = 64;
const WRITE_ARGS_END = IN_HEADER_BYTES + 40;
/** Below this a word loop beats the 220 ns of a native memcpy. */
const COPY_LOOP_BYTES_MAX = 1024;

/** nodeid of the root. */
const ROOT = 1;

export interface DevFuseOptions {
  mountpoint: string;
  readOnly: boolean;
  /** What a successor does with unanswered requests; null when there cannot be one. */
  failover: FailoverPolicy | null;
}

/** A buffer for READ data with the arrays `Segments` refer to. */
class DataBuffer {
  readonly memory = new NativeMemory(DATA_BYTES);
  readonly address = Float64Array.of(this.memory.address);
  readonly length = Uint32Array.of(DATA_BYTES);
  /** Parked requests it belongs to: two while one that was run again parks once more, before its old slot is dropped. */
  owners = 0;
}

export class DevFuse implements Port {
  readonly session: Session;
  fd = -1;
  private mounted = false;
  private readonly inbox = new NativeMemory(INBOX_BYTES);
  private readonly inboxAddress = Float64Array.of(this.inbox.address);
  private readonly inboxLength = Uint32Array.of(INBOX_BYTES);
  private readonly replyIovecs = new NativeMemory(4096);
  /** For the next READ. */
  private data = new DataBuffer();
  /** What the last READ served got. */
  private lent = this.data;
  private readonly spare: DataBuffer[] = [];
  private readonly owned = new Map<number, DataBuffer>();
  /** Requests of our predecessor that come again are not served. */
  private failResent = false;

  constructor(
    fs: FileSystem,
    io: AsyncIo,
    private readonly stats: Stats,
    private readonly log: SessionLog,
    private readonly options: DevFuseOptions,
  ) {
    this.session = new Session(fs, this, DEV_FUSE_POLICY, io, stats, log);
  }

  /** Opens /dev/fuse and mounts it. Returns null, or a sentence saying what failed and what to do. */
  start(): string | null {
    const fd = openPath('/dev/fuse', O.RDWR | O.CLOEXEC | O.NONBLOCK);
    if (fd < 0) return `cannot open /dev/fuse (${errnoText(fd)}); load the fuse module and run as root`;
    this.fd = fd;
    const { mountpoint, readOnly } = this.options;
    const rootMode = S.IFDIR.toString(8);
    const options = `fd=${fd},rootmode=${rootMode},user_id=0,group_id=0,default_permissions,allow_other`;
    const r = mount('nydusd', mountpoint, 'fuse.nydusd', readOnly ? MS.RDONLY : 0, options);
    if (r < 0) {
      close(fd);
      this.fd = -1;
      return `cannot mount on ${mountpoint} (${errnoText(r)}); it must be an existing directory, and mounting needs root`;
    }
    this.mounted = true;
    this.onReadable(); // mount(2) has queued INIT: with its answer it is known what a crash would cost
    this.warnOfLoss();
    return null;
  }

  /** Takes the descriptor of a file system that is mounted already; its session is restored. Serves nothing yet. */
  adopt(fd: number): void {
    this.fd = fd;
  }

  /** The predecessor is gone: from here on the mount is ours, with what was left unanswered. */
  takeOver(): void {
    this.mounted = true;
    this.warnOfLoss();
    const { failover } = this.options;
    if (failover === null || failover === 'none' || !canResend(this.session.request.negotiated)) return;
    this.failResent = failover === 'flush';
    const asked = askResend(this.fd);
    if (asked < 0) this.log('warn', `the kernel refuses to send requests again: ${errnoText(asked)}`);
  }

  /** Mounts came or went: the kernel has kept the attributes of the root (`InitPolicy.rootAttrMs`). */
  forgetRoot(): void {
    forgetAttributes(this.fd, ROOT);
  }

  private warnOfLoss(): void {
    const { failover } = this.options;
    const loss = failover === null ? null : lossOf(failover, this.session.request.negotiated);
    if (loss !== null) this.log('warn', loss);
  }

  /**
   * Serves what the kernel has queued, at most REQUESTS_PER_TURN. Returns false when the file system was unmounted:
   * the descriptor is of no use any more.
   */
  onReadable(): boolean {
    for (let i = 0; i < REQUESTS_PER_TURN; i++) {
      const n = read(this.fd, this.inbox.address, INBOX_BYTES);
      if (n === -errno.EAGAIN) return true;
      if (n === -errno.ENOENT) continue; // the request was withdrawn while it was read
      if (n === -errno.ENODEV) {
        this.mounted = false;
        return false;
      }
      if (n < 0) {
        this.log('error', `read of /dev/fuse failed: ${errnoText(n)}`);
        return true;
      }
      this.serve(n);
    }
    return true;
  }

  private serve(bytes: number): void {
    const request = this.session.request;
    const opcode = this.inbox.u32[IN_HEADER.OPCODE] as number;
    const kept =
      opcode === OPS.WRITE.op && bytes > WRITE_ARGS_END ? WRITE_ARGS_END : Math.min(bytes, REQUEST_BYTES_MAX);
    copyWords(request.memory, this.inbox, kept);
    request.bytes = kept;
    request.replySpace = REPLY_BODY_BYTES_MAX;
    if (opcode === OPS.WRITE.op) {
      request.data.set(this.inboxAddress, this.inboxLength, 0, 1, kept, bytes);
    } else if (opcode === OPS.READ.op) {
      this.lendData(request, this.data);
    }
    const isLost = this.failResent && ((this.inbox.u32[IN_HEADER.UNIQUE + 1] as number) & RESENT_HIGH) !== 0;
    const replyBytes = isLost ? this.session.refuse(-errno.EIO) : this.session.handle();
    if (replyBytes > 0) this.send(request, replyBytes); // 0: no reply is due; PARKED: it comes later
  }

  private lendData(request: Request, buffer: DataBuffer): void {
    this.lent = buffer;
    request.data.set(buffer.address, buffer.length, 0, 1, 0, DATA_BYTES);
    request.replySpace = DATA_BYTES;
  }

  private send(request: Request, bytes: number): void {
    const reply = request.reply;
    let n: number;
    if (request.bulkReply && bytes > OUT_HEADER_BYTES) {
      const words = this.replyIovecs.u32;
      putIovec(words, 0, reply.address, OUT_HEADER_BYTES);
      putIovec(words, 4, request.data.address[0] as number, bytes - OUT_HEADER_BYTES);
      n = writev(this.fd, this.replyIovecs.address, 2);
    } else {
      n = write(this.fd, reply.address, bytes);
    }
    // ENOENT: the caller was interrupted and the kernel has forgotten the request. ENODEV: unmounted meanwhile.
    if (n < 0) {
      this.stats.add(STAT.droppedReplies, 1);
      if (n !== -errno.ENOENT && n !== -errno.ENODEV) {
        this.log('error', `reply to opcode ${request.opcode} was refused by the kernel: ${errnoText(n)}`);
      }
    }
  }

  // -- Port ------------------------------------------------------------------------------------------------------

  keep(slot: number, pins: boolean): boolean {
    if (!pins) return true;
    this.lent.owners++;
    this.owned.set(slot, this.lent);
    if (this.lent === this.data) this.data = this.spare.pop() ?? new DataBuffer();
    return true;
  }

  reach(): number {
    return this.fd >= 0 ? REACH.NOW : REACH.NEVER;
  }

  restore(slot: number, request: Request): boolean {
    request.replySpace = REPLY_BODY_BYTES_MAX;
    if ((request.memory.u32[IN_HEADER.OPCODE] as number) === OPS.READ.op) {
      this.lendData(request, this.owned.get(slot) ?? this.data);
    }
    return true;
  }

  /** The kernel reads into buffers of ours. */
  isLost(): boolean {
    return false;
  }

  drop(slot: number): void {
    const buffer = this.owned.get(slot);
    if (buffer === undefined) return;
    this.owned.delete(slot);
    if (--buffer.owners > 0) return;
    // The request being served goes on with it when it could not be parked: then nobody else may get it before the next.
    if (buffer !== this.lent) this.spare.push(buffer);
    else {
      this.spare.push(this.data);
      this.data = buffer;
    }
  }

  /** The kernel knows a request by its unique, which is in its header. */
  save(): unknown {
    return null;
  }

  load(): boolean {
    return true;
  }

  reply(_slot: number, request: Request, bytes: number): void {
    if (bytes > 0) this.send(request, bytes);
  }

  /**
   * Closes our descriptor and leaves the mount to whoever holds it too. Unanswered requests are the successor's where
   * it can get them, otherwise they fail now.
   */
  leave(): void {
    const { failover } = this.options;
    const passedOn = failover !== null && failover !== 'none' && canResend(this.session.request.negotiated);
    if (!passedOn) this.session.failParkedOf(null, -errno.EIO);
    this.mounted = false;
    this.stop();
  }

  /** Unmounts and closes. Parked requests get ENOTCONN from the kernel. */
  stop(): void {
    if (this.mounted) {
      // Lazily: somebody's open file must not keep the mount, and waiting for them could block for ever.
      const r = umount(this.options.mountpoint, MNT_DETACH);
      if (r < 0 && r !== -errno.EINVAL && r !== -errno.ENOENT)
        this.log('warn', `umount of ${this.options.mountpoint}: ${errnoText(r)}`);
      this.mounted = false;
    }
    if (this.fd >= 0) close(this.fd);
    this.fd = -1;
  }
}

function copyWords(to: NativeMemory, from: NativeMemory, bytes: number): void {
  if (bytes > COPY_LOOP_BYTES_MAX) {
    copyMemory(to.address, from.address, bytes);
    return;
  }
  const words = (bytes + 3) >> 2;
  for (let i = 0; i < words; i++) to.u32[i] = from.u32[i] as number;
}

function putIovec(words: Uint32Array, at: number, address: number, bytes: number): void {
  const high = Math.floor(address / 0x1_0000_0000);
  words[at] = address - high * 0x1_0000_0000;
  words[at + 1] = high;
  words[at + 2] = bytes;
  words[at + 3] = 0;
}
