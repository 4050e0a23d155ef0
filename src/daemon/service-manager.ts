/** What systemd wants to hear of a unit with `Type=notify`: a datagram to the socket that NOTIFY_SOCKET names. */
import type { Logger } from '../common/log.ts';
import { errnoText } from '../sys/errno.ts';
import { close, write } from '../sys/io.ts';
import { NativeMemory } from '../sys/native-memory.ts';
import { connectUnix, SOCK } from '../sys/socket.ts';

/** A few short lines. */
const MESSAGE_BYTES_MAX = 4096;

/** Sends `text` (`READY=1`, `STOPPING=1`, …); nothing without NOTIFY_SOCKET. A manager that is gone is a warning. */
export function notifyManager(text: string, log: Logger): void {
  const name = process.env['NOTIFY_SOCKET'];
  if (name === undefined || name === '') return;
  // `@` stands for the NUL of an abstract name.
  const fd = connectUnix(name.startsWith('@') ? `\0${name.slice(1)}` : name, SOCK.DGRAM);
  const sent = fd < 0 ? fd : send(fd, text);
  if (fd >= 0) close(fd);
  if (sent < 0) log.warn(`cannot tell the service manager on ${name} ${JSON.stringify(text)}: ${errnoText(sent)}`);
}

function send(fd: number, text: string): number {
  const message = new NativeMemory(MESSAGE_BYTES_MAX);
  const bytes = Buffer.from(text);
  const sent = write(fd, message.putText(0, bytes), bytes.length);
  message.free();
  return sent;
}
