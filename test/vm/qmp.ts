/** QEMU's machine protocol: JSON lines, one command at a time. */
import type { Duplex } from 'node:stream';
import { vmError } from './errors.ts';

interface Answer {
  return?: unknown;
  error?: { class: string; desc: string };
  event?: string;
}

export class Qmp {
  #buffered = '';
  readonly #waiting: ((answer: Answer) => void)[] = [];
  #greeted = false;

  constructor(private readonly socket: Duplex) {
    socket.on('data', (chunk: Buffer) => {
      const lines = (this.#buffered + chunk.toString('utf8')).split('\n');
      this.#buffered = lines.pop() ?? '';
      for (const line of lines) {
        const answer = JSON.parse(line) as Answer;
        if ('return' in answer || 'error' in answer) this.#waiting.shift()?.(answer);
      }
    });
    socket.on('error', () => {});
  }

  /** Runs one command. @throws VM_QMP when QEMU refuses it. */
  async command(execute: string, args: object = {}): Promise<unknown> {
    if (!this.#greeted) {
      this.#greeted = true;
      await this.command('qmp_capabilities');
    }
    const answer = await new Promise<Answer>((resolve) => {
      this.#waiting.push(resolve);
      this.socket.write(`${JSON.stringify({ execute, arguments: args })}\n`);
    });
    if (answer.error !== undefined) throw vmError('VM_QMP', { command: execute, answer: answer.error.desc });
    return answer.return;
  }

  /** Plugs a DIMM of `sizeMib`, shared like the rest so that the daemon can map it. */
  async plugMemory(id: string, sizeMib: number): Promise<void> {
    await this.command('object-add', {
      'qom-type': 'memory-backend-memfd',
      id: `backend-${id}`,
      size: sizeMib * 1024 ** 2,
      share: true,
    });
    await this.command('device_add', { driver: 'pc-dimm', id, memdev: `backend-${id}` });
  }
}
