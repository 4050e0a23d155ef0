/**
 * Descriptors the passthrough members of one daemon may hold together. Running out answers ENFILE to one guest
 * request; without a budget the daemon could no longer open its cache or accept a connection.
 */
import { fileLimit } from '../sys/process.ts';

/**
 * Left for everybody else: 509 memory slots of a vhost-user frontend, rings, sockets, cached blobs, the API. Of a small
 * limit half is left.
 */
export const RESERVED_DESCRIPTORS = 1024;

export class DescriptorBudget {
  used = 0;

  /** @param limit descriptors that may be held at a time */
  constructor(readonly limit: number) {}

  /** What the process' RLIMIT_NOFILE leaves after the reserve. */
  static ofProcess(): DescriptorBudget {
    const found = fileLimit();
    const soft = typeof found === 'number' ? RESERVED_DESCRIPTORS : Math.min(found.soft, 2 ** 30);
    return new DescriptorBudget(Math.max(soft - RESERVED_DESCRIPTORS, soft >>> 1));
  }

  /** True when `count` more fit. Nothing is taken. */
  room(count: number): boolean {
    return this.used + count <= this.limit;
  }

  take(): void {
    this.used++;
  }

  give(): void {
    this.used--;
  }
}
