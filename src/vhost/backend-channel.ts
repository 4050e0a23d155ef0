/**
 * The backend's own channel to the frontend (protocols 1.5.1): requests without reply, on a socket or pipe it was given.
 *
 * While all rings are stopped nothing may be sent (protocols 1.7 rule 4): a change is remembered until one starts.
 */
import { errno } from '../sys/errno.ts';
import { close, setNonBlocking, write } from '../sys/io.ts';
import { NativeMemory } from '../sys/native-memory.ts';
import { BACKEND_MESSAGES, FLAG, HEADER, HEADER_BYTES } from './messages.ts';

export class BackendChannel {
  #fd = -1;
  #suspended = true;
  #configPending = false;

  /** Takes over a descriptor of SET_BACKEND_REQ_FD. */
  set(fd: number): void {
    this.close();
    setNonBlocking(fd, true);
    this.#fd = fd;
  }

  set suspended(value: boolean) {
    this.#suspended = value;
    if (!value && this.#configPending) this.configChanged();
  }

  /** CONFIG_CHANGE_MSG: 0 when sent or remembered, -ENOTCONN without a channel, else -errno. */
  configChanged(): number {
    if (this.#fd < 0) return -errno.ENOTCONN;
    this.#configPending = this.#suspended;
    if (this.#suspended) return 0;
    const memory = NativeMemory.borrow(HEADER_BYTES);
    memory.view.setUint32(HEADER.ID, BACKEND_MESSAGES.CONFIG_CHANGE_MSG.id, true);
    memory.view.setUint32(HEADER.FLAGS, FLAG.VERSION, true);
    memory.view.setUint32(HEADER.BYTES, 0, true);
    // write, not sendmsg: User-Mode Linux hands over a pipe.
    const done = write(this.#fd, memory.address, HEADER_BYTES);
    memory.free();
    return Math.min(done, 0);
  }

  close(): void {
    if (this.#fd >= 0) close(this.#fd);
    this.#fd = -1;
    this.#configPending = false;
  }
}
