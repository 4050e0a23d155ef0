/**
 * AF_UNIX sockets with descriptors attached (SCM_RIGHTS), synchronous, on raw addresses.
 *
 * All functions return a count, a descriptor or 0, or -errno. Every descriptor made or received is close-on-exec.
 */
import { errno } from './errno.ts';
import { close } from './io.ts';
import { bind, interrupted, result, whole } from './libc.ts';
import { NativeMemory } from './native-memory.ts';

const cSocket = bind('socket', 'int', ['int', 'int', 'int']);
const cBind = bind('bind', 'int', ['int', 'ptr', 'uint']);
const cListen = bind('listen', 'int', ['int', 'int']);
const cAccept4 = bind('accept4', 'int', ['int', 'ptr', 'ptr', 'int']);
const cConnect = bind('connect', 'int', ['int', 'ptr', 'uint']);
const cSocketpair = bind('socketpair', 'int', ['int', 'int', 'int', 'ptr']);
const cGetsockopt = bind('getsockopt', 'int', ['int', 'int', 'int', 'ptr', 'ptr']);
const cSendmsg = bind('sendmsg', 'i64', ['int', 'ptr', 'int']);
const cRecvmsg = bind('recvmsg', 'i64', ['int', 'ptr', 'int']);

const AF_UNIX = 1;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const SO_PEERCRED = 17;
const SO_TYPE = 3;
const SO_ACCEPTCONN = 30;
const CLOEXEC = 0o2000000;
const NONBLOCK = 0o4000;
const MSG_CTRUNC = 8;

export const SOCK = { STREAM: 1, DGRAM: 2, SEQPACKET: 5 } as const;
export const MSG = { DONTWAIT: 0x40, WAITALL: 0x100, NOSIGNAL: 0x4000 } as const;
const MSG_CMSG_CLOEXEC = 0x40000000;

/** struct sockaddr_un: u16 family, then 108 bytes of path, NUL included. */
const SOCKADDR_UN_BYTES = 110;
export const SOCKET_PATH_BYTES_MAX = SOCKADDR_UN_BYTES - 3;

const scratch = new NativeMemory(4096);

/** Writes a sockaddr_un to the scratch; its length, or -errno. A name that starts with NUL is an abstract one. */
function putAddress(path: string | Uint8Array): number {
  const bytes = typeof path === 'string' ? Buffer.from(path) : path;
  if (bytes.length === 0 || bytes.includes(0, 1)) return -errno.EINVAL;
  if (bytes.length > SOCKET_PATH_BYTES_MAX) return -errno.ENAMETOOLONG;
  scratch.u8.fill(0, 0, SOCKADDR_UN_BYTES);
  scratch.u16[0] = AF_UNIX;
  scratch.u8.set(bytes, 2);
  return 2 + bytes.length + (bytes[0] === 0 ? 0 : 1);
}

/**
 * A listening socket bound to `path`, which must not exist.
 * @param type SOCK.STREAM or SOCK.SEQPACKET
 */
export function listenUnix(path: string | Uint8Array, type: number, backlog: number): number {
  const fd = result(cSocket(AF_UNIX, type | CLOEXEC, 0));
  if (fd < 0) return fd;
  const length = putAddress(path);
  let done = length;
  if (length > 0) done = result(cBind(fd, scratch.address, length));
  if (done === 0) done = result(cListen(fd, backlog));
  if (done === 0) return fd;
  close(fd);
  return done;
}

/** Connects to `path`; blocking until the listener's queue has room, -EAGAIN then if `nonBlocking`, as the socket is. */
export function connectUnix(path: string | Uint8Array, type: number, nonBlocking = false): number {
  const fd = result(cSocket(AF_UNIX, type | CLOEXEC | (nonBlocking ? NONBLOCK : 0), 0));
  if (fd < 0) return fd;
  const length = putAddress(path);
  let done = length;
  if (length > 0) {
    let n: number;
    do n = cConnect(fd, scratch.address, length);
    while (interrupted(n));
    done = result(n);
  }
  if (done === 0) return fd;
  close(fd);
  return done;
}

/** accept4(2). With `nonBlocking` the accepted socket is (the listener decides whether accept itself waits). */
export function accept(fd: number, nonBlocking: boolean): number {
  let n: number;
  do n = cAccept4(fd, 0, 0, CLOEXEC | (nonBlocking ? NONBLOCK : 0));
  while (interrupted(n));
  return result(n);
}

/** socketpair(2) of AF_UNIX sockets. */
export function socketpair(type: number, ends: Int32Array): number {
  const done = result(cSocketpair(AF_UNIX, type | CLOEXEC, 0, scratch.address));
  if (done === 0) ends.set(scratch.i32.subarray(0, 2));
  return done;
}

/** Reads an option of SOL_SOCKET into the scratch at offset 8; -ENOTSOCK for other files. */
function socketOption(fd: number, option: number, bytes: number): number {
  scratch.u32[0] = bytes;
  return result(cGetsockopt(fd, SOL_SOCKET, option, scratch.address + 8, scratch.address));
}

/** `out` = pid, uid, gid of the process that connected or listened (SO_PEERCRED). */
export function peerCredentials(fd: number, out: Int32Array): number {
  const done = socketOption(fd, SO_PEERCRED, 12);
  if (done === 0) out.set(scratch.i32.subarray(2, 5));
  return done;
}

/** Socket type of `fd` (SOCK.*), or -ENOTSOCK. */
export function socketType(fd: number): number {
  const done = socketOption(fd, SO_TYPE, 4);
  return done < 0 ? done : scratch.i32[2];
}

/** 1 when `fd` is a listening socket, 0 when it is a socket that does not listen, -ENOTSOCK otherwise. */
export function isListening(fd: number): number {
  const done = socketOption(fd, SO_ACCEPTCONN, 4);
  return done < 0 ? done : scratch.i32[2];
}

const MSGHDR = 0;
const IOVEC = 64;
const CONTROL = 128;
const CMSG_HEADER_BYTES = 16;
/** SCM_MAX_FD of the kernel: no message carries more. */
const KERNEL_FDS_MAX = 253;

/**
 * The structures of sendmsg and recvmsg, reused for every message of one socket.
 *
 * After `receive`, `fds[0 .. fdCount)` are descriptors this process now owns; the caller closes or keeps every one.
 */
export class SocketMessage {
  readonly fds: Int32Array;
  fdCount = 0;
  /** The last receive lost descriptors (more came than `fdsMax`); the kernel closed those. */
  truncated = false;
  readonly #memory = NativeMemory.borrow(4096);

  constructor(readonly fdsMax: number) {
    if (!whole(fdsMax) || fdsMax < 1 || fdsMax > KERNEL_FDS_MAX) throw new RangeError(`fdsMax ${fdsMax}`);
    this.fds = new Int32Array(fdsMax);
  }

  #prepare(address: number, bytes: number, controlBytes: number): void {
    const u32 = this.#memory.u32;
    const view = this.#memory.view;
    u32.fill(0, MSGHDR / 4, IOVEC / 4);
    const base = this.#memory.address;
    putU64(view, MSGHDR + 16, base + IOVEC);
    u32[(MSGHDR + 24) / 4] = 1;
    if (controlBytes > 0) {
      putU64(view, MSGHDR + 32, base + CONTROL);
      u32[(MSGHDR + 40) / 4] = controlBytes;
    }
    putU64(view, IOVEC, address);
    putU64(view, IOVEC + 8, bytes);
  }

  /** Sends bytes with the first `fdCount` of `fds` attached to the first byte. `flags` of MSG; NOSIGNAL is always set. */
  send(fd: number, address: number, bytes: number, fds: Int32Array | null, fdCount: number, flags: number): number {
    if (!whole(address) || !whole(bytes) || !whole(fdCount) || fdCount > this.fdsMax) return -errno.EINVAL;
    const attached = fds === null ? 0 : fdCount;
    this.#prepare(address, bytes, attached === 0 ? 0 : align8(CMSG_HEADER_BYTES + attached * 4));
    if (fds !== null && attached > 0) {
      putU64(this.#memory.view, CONTROL, CMSG_HEADER_BYTES + attached * 4);
      this.#memory.i32[(CONTROL + 8) / 4] = SOL_SOCKET;
      this.#memory.i32[(CONTROL + 12) / 4] = SCM_RIGHTS;
      for (let i = 0; i < attached; i++) this.#memory.i32[(CONTROL + CMSG_HEADER_BYTES) / 4 + i] = fds[i];
    }
    let n: number;
    do n = cSendmsg(fd, this.#memory.address, flags | MSG.NOSIGNAL);
    while (interrupted(n));
    return result(n);
  }

  /** Receives up to `bytes` to `address`; 0 at end of file. */
  receive(fd: number, address: number, bytes: number, flags: number): number {
    this.fdCount = 0;
    this.truncated = false;
    if (!whole(address) || !whole(bytes)) return -errno.EINVAL;
    this.#prepare(address, bytes, align8(CMSG_HEADER_BYTES + this.fdsMax * 4));
    let n: number;
    do n = cRecvmsg(fd, this.#memory.address, flags | MSG_CMSG_CLOEXEC);
    while (interrupted(n));
    if (n >= 0) this.#takeFds();
    return result(n);
  }

  #takeFds(): void {
    const { u32, i32 } = this.#memory;
    this.truncated = (u32[(MSGHDR + 48) / 4] & MSG_CTRUNC) !== 0;
    const end = CONTROL + u32[(MSGHDR + 40) / 4];
    for (let at = CONTROL; at + CMSG_HEADER_BYTES <= end; ) {
      const length = u32[at / 4];
      if (length < CMSG_HEADER_BYTES || at + length > end) return;
      const isRights = i32[(at + 8) / 4] === SOL_SOCKET && i32[(at + 12) / 4] === SCM_RIGHTS;
      const count = isRights ? (length - CMSG_HEADER_BYTES) >> 2 : 0;
      for (let i = 0; i < count; i++) {
        const received = i32[(at + CMSG_HEADER_BYTES) / 4 + i];
        // The control buffer rounds up to 8 bytes, so one more than asked for can arrive.
        if (this.fdCount < this.fdsMax) this.fds[this.fdCount++] = received;
        else {
          close(received);
          this.truncated = true;
        }
      }
      at += align8(length);
    }
  }

  /** Closes the descriptors of the last receive from index `from` on. */
  closeFds(from = 0): void {
    for (let i = from; i < this.fdCount; i++) close(this.fds[i]);
    this.fdCount = Math.min(this.fdCount, from);
  }

  free(): void {
    this.#memory.free();
  }
}

function putU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value % 2 ** 32, true);
  view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
}

function align8(bytes: number): number {
  return (bytes + 7) & ~7;
}
