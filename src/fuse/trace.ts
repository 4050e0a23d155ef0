/**
 * Request trace, off by default: a pair of lines per request with what `OPS` names it.
 *
 *     rx 14 LOOKUP n1.1 48b
 *     tx 14 OK 144b 31us
 */
import { errnoName } from '../sys/errno.ts';
import type { Request } from './request.ts';
import { OUT_HEADER } from './wire/layout.ts';

export class Trace {
  private startedUs = 0;

  constructor(
    private readonly write: (line: string) => void,
    private readonly nowUs: () => number,
  ) {}

  received(request: Request, op: string): void {
    this.startedUs = this.nowUs();
    const attempt = request.attempt > 0 ? ` again ${request.attempt}` : '';
    this.write(`rx ${request.uniqueLow} ${op} n${request.nodeHigh}.${request.nodeLow} ${request.bytes}b${attempt}`);
  }

  sent(request: Request, bytes: number): void {
    const code = request.reply.i32[OUT_HEADER.ERROR] as number;
    const took = Math.round(this.nowUs() - this.startedUs);
    this.write(`tx ${request.uniqueLow} ${code === 0 ? 'OK' : errnoName(code)} ${bytes}b ${took}us`);
  }
}
