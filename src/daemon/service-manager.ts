/** What systemd wants to hear of a unit with `Type=notify`: a datagram to the socket that NOTIFY_SOCKET names. */
import type { Logger } from '../common/log.ts';
import { errno, errnoText } from '../sys/errno.ts';
import { close, write } from '../sys/io.ts';
import { NativeMemory } from '../sys/native-memory.ts';
import { connectUnix, SOCK } from '../sys/socket.ts';

/** A few short lines. */
const MESSAGE_BYTES_MAX = 4096;

/** A manager that starts a host takes its messages late. */
const TRIES_MAX = 50;
const TRY_EVERY_MS = 200;

/**
 * Sends `text` (`READY=1`, `STOPPING=1`, …); nothing without NOTIFY_SOCKET. Never waits: while the manager has no room it
 * is tried again in the background. One that is gone, or stays like that, is a warning.
 */
export function notifyManager(text: string, log: Logger): void {
  const name = process.env['NOTIFY_SOCKET'];
  if (name === undefined || name === '') return;
  // `@` stands for the NUL of an abstract name.
  const fd = connectUnix(name.startsWith('@') ? `\0${name.slice(1)}` : name, SOCK.DGRAM, true);
  const attempt = (triesLeft: number): void => {
    const sent = fd < 0 ? fd : send(fd, text);
    if (sent === -errno.EAGAIN && triesLeft > 0) {
      setTimeout(() => attempt(triesLeft - 1), TRY_EVERY_MS).unref();
      return;
    }
    if (fd >= 0) close(fd);
    if (sent < 0) log.warn(`cannot tell the service manager on ${name} ${JSON.stringify(text)}: ${errnoText(sent)}`);
  };
  attempt(TRIES_MAX);
}

function send(fd: number, text: string): number {
  const message = NativeMemory.borrow(MESSAGE_BYTES_MAX);
  const bytes = Buffer.from(text);
  const sent = write(fd, message.putText(0, bytes), bytes.length);
  message.free();
  return sent;
}
