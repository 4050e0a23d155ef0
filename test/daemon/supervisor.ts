/**
 * The snapshotter's supervisor: keeps what a daemon leaves and gives it to the next one, as its Go code does
 * (kata-contract 4.6). The socket exists only while it expects somebody, for one connection.
 */
import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { errno, errnoText } from '../../src/sys/errno.ts';
import { close, setNonBlocking } from '../../src/sys/io.ts';
import { NativeMemory } from '../../src/sys/native-memory.ts';
import { accept, listenUnix, MSG, SOCK, SocketMessage } from '../../src/sys/socket.ts';

const BUFFER_BYTES = 256 * 1024;
const FDS_MAX = 64;

export class Supervisor {
  /** Descriptor kept; -1: none ever came. */
  fd = -1;
  data = Buffer.alloc(0);
  private readonly memory = new NativeMemory(BUFFER_BYTES);
  private readonly message = new SocketMessage(FDS_MAX);

  constructor(readonly path: string) {}

  /** Listens, runs `trigger` (the API's sendfd) and keeps what comes. */
  async fetchStates(trigger: () => Promise<unknown>): Promise<void> {
    const listener = this.listen();
    const [triggered, received] = await Promise.allSettled([trigger(), this.receive(listener)]);
    for (const result of [triggered, received]) if (result.status === 'rejected') throw result.reason;
  }

  /** Listens and gives the state to the first who connects, within `withinMs`. Resolves at once; `given` when it went. */
  sendStates(withinMs = 10_000): { given: Promise<void> } {
    const listener = this.listen();
    const given = this.send(listener, withinMs);
    given.catch(() => {});
    return { given };
  }

  close(): void {
    if (this.fd >= 0) close(this.fd);
    this.fd = -1;
    this.message.free();
    this.memory.free();
  }

  private listen(): number {
    rmSync(this.path, { force: true });
    const listener = listenUnix(this.path, SOCK.STREAM, 16);
    assert.ok(listener >= 0, errnoText(listener));
    setNonBlocking(listener, true);
    return listener;
  }

  private async receive(listener: number): Promise<void> {
    const fds: number[] = [];
    const parts: Buffer[] = [];
    try {
      const socket = await patiently(30_000, () => accept(listener, true));
      try {
        for (;;) {
          const n = await patiently(10_000, () =>
            this.message.receive(socket, this.memory.address, BUFFER_BYTES, MSG.DONTWAIT),
          );
          fds.push(...this.message.fds.subarray(0, this.message.fdCount));
          if (n === 0) break;
          parts.push(Buffer.from(this.memory.u8.slice(0, n)));
        }
      } finally {
        close(socket);
      }
      if (fds.length !== 1) throw new Error(`expected exactly one control file descriptor, received ${fds.length}`);
    } catch (error) {
      for (const fd of fds) close(fd);
      throw error;
    } finally {
      close(listener);
      rmSync(this.path, { force: true });
    }
    if (this.fd >= 0) close(this.fd);
    this.fd = fds[0]!;
    this.data = Buffer.concat(parts);
  }

  private async send(listener: number, withinMs: number): Promise<void> {
    try {
      const socket = await patiently(withinMs, () => accept(listener, true));
      try {
        for (let at = 0; at < this.data.length; ) {
          const part = this.data.subarray(at, at + BUFFER_BYTES);
          this.memory.u8.set(part);
          const fds = at === 0 && this.fd >= 0 ? Int32Array.of(this.fd) : null;
          at += await patiently(10_000, () =>
            this.message.send(socket, this.memory.address, part.length, fds, 1, MSG.DONTWAIT),
          );
        }
      } finally {
        close(socket);
      }
    } finally {
      close(listener);
      rmSync(this.path, { force: true });
    }
  }
}

async function patiently(withinMs: number, step: () => number): Promise<number> {
  const until = performance.now() + withinMs;
  for (;;) {
    const n = step();
    if (n >= 0) return n;
    if (n !== -errno.EAGAIN) throw new Error(errnoText(n));
    if (performance.now() > until) throw new Error(`nobody came within ${withinMs} ms`);
    await sleep(2);
  }
}
