/**
 * The supervisor's end of failover: a Unix stream socket that it listens on only while it expects a daemon, takes one
 * connection and reads or writes one state (kata-contract 4.6).
 *
 *     save     connect ─► first bytes with one descriptor ─► the rest ─► close
 *     fetch    connect ─► bytes with one descriptor, to end of stream
 *
 * Node's sockets pass no descriptors, so these are raw and looked at every few milliseconds; nothing here blocks.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { errno, errnoText } from '../../sys/errno.ts';
import { close } from '../../sys/io.ts';
import { NativeMemory } from '../../sys/native-memory.ts';
import { connectUnix, MSG, SOCK, SocketMessage } from '../../sys/socket.ts';
import { daemonError } from '../errors.ts';
import { STATE_BYTES_MAX } from './state.ts';

/** The supervisor is a process of this machine that was told to expect us; its own limit is 10 s. */
const WAIT_MS_MAX = 5000;
const LOOK_EVERY_MS = 2;
/** What nydusd has room for; one is sent. */
const FDS_MAX = 16;
const CHUNK_BYTES = 256 * 1024;

/** Leaves `bytes` and a copy of `fd` with the supervisor at `path`. @throws AppError SUPERVISOR */
export async function leaveState(path: string, fd: number, bytes: Buffer): Promise<void> {
  await withSupervisor(path, async (socket, message, memory, until) => {
    for (let at = 0; at < bytes.length; ) {
      const length = Math.min(CHUNK_BYTES, bytes.length - at);
      memory.u8.set(bytes.subarray(at, at + length));
      const fds = at === 0 ? Int32Array.of(fd) : null;
      at += await until('send', () => message.send(socket, memory.address, length, fds, 1, MSG.DONTWAIT));
    }
  });
}

/** The state the supervisor at `path` keeps, and its descriptor, now ours. @throws AppError SUPERVISOR, STATE */
export async function fetchState(path: string): Promise<{ fd: number; bytes: Buffer }> {
  const fds: number[] = [];
  const parts: Buffer[] = [];
  try {
    await withSupervisor(path, async (socket, message, memory, until) => {
      for (let total = 0; ; ) {
        const n = await until('receive', () => message.receive(socket, memory.address, CHUNK_BYTES, MSG.DONTWAIT));
        fds.push(...message.fds.subarray(0, message.fdCount));
        if (n === 0) return;
        parts.push(Buffer.from(memory.u8.slice(0, n)));
        total += n;
        if (total > STATE_BYTES_MAX)
          throw daemonError('STATE', { reason: `it has more than ${STATE_BYTES_MAX} bytes` });
      }
    });
    if (parts.length === 0) throw daemonError('STATE', { reason: 'the supervisor has none' });
    const [fd] = fds;
    if (fd === undefined || fds.length > 1) {
      throw daemonError('STATE', { reason: `${fds.length} descriptors came with it, not one` });
    }
    return { fd, bytes: Buffer.concat(parts) };
  } catch (error) {
    for (const fd of fds) close(fd);
    throw error;
  }
}

/**
 * Lets go a supervisor that waits for a state which will not come: the snapshotter's waits without a limit. It takes an
 * empty one for an error and keeps what it has.
 */
export function leaveNothing(path: string): void {
  const socket = connectUnix(path, SOCK.STREAM, true);
  if (socket >= 0) close(socket);
}

/** Repeats `step` while it would block, within the call's time. */
type Until = (what: string, step: () => number) => Promise<number>;

async function withSupervisor(
  path: string,
  talk: (socket: number, message: SocketMessage, memory: NativeMemory, until: Until) => Promise<void>,
): Promise<void> {
  const deadline = performance.now() + WAIT_MS_MAX;
  const until: Until = async (what, step) => {
    for (;;) {
      const n = step();
      if (n >= 0) return n;
      const isOver = performance.now() > deadline;
      if (n !== -errno.EAGAIN || isOver) {
        const reason = n === -errno.EAGAIN ? `nothing within ${WAIT_MS_MAX / 1000} s` : errnoText(n);
        throw daemonError('SUPERVISOR', { path, step: what, reason });
      }
      await sleep(LOOK_EVERY_MS);
    }
  };
  const socket = await until('connect', () => connectUnix(path, SOCK.STREAM, true));
  const message = new SocketMessage(FDS_MAX);
  const memory = NativeMemory.borrow(CHUNK_BYTES);
  try {
    await talk(socket, message, memory, until);
  } finally {
    close(socket);
    message.free();
    memory.free();
  }
}
