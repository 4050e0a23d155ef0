/** A child process that cannot outlive the test process, and the end of what it printed. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import type { Readable } from 'node:stream';

/** What a failure prints: the last screens of a boot log. */
const TAIL_BYTES = 8 * 1024;

/** Words put before a command line so that the kernel kills that process when we die. */
const DIE_WITH_US = ['setpriv', '--pdeathsig', 'KILL'] as const;

let family: readonly string[] | null = null;

/**
 * As above, for a program with children of its own (UML leaves its traced helpers behind): the parent death signal
 * ends `unshare`, whose end ends the pid namespace. Signals we send reach `unshare`, so only SIGKILL is of use.
 */
function dieWithFamily(): readonly string[] {
  if (family !== null) return family;
  const namespace = ['unshare', '--pid', '--fork', '--kill-child=KILL', '--mount-proc'];
  if (process.getuid?.() !== 0) namespace.splice(1, 0, '--user', '--map-root-user');
  const works = spawnSync(namespace[0]!, [...namespace.slice(1), 'true'], { stdio: 'ignore' }).status === 0;
  family = works ? [...DIE_WITH_US, ...namespace] : DIE_WITH_US;
  return family;
}

/** Starts a server: its pid and signals are its own. stdin is closed, stdout and stderr are captured. */
export function spawnServer(program: string, args: readonly string[]): ChildProcess {
  const [first, ...rest] = [...DIE_WITH_US, program, ...args];
  return spawn(first!, rest, { stdio: ['ignore', 'pipe', 'pipe'] });
}

/** Starts a guest with `sockets` sockets as descriptors 3, 4, …; it ends by SIGKILL or by itself. */
export function spawnGuest(program: string, args: readonly string[], sockets: number): ChildProcess {
  const [first, ...rest] = [...dieWithFamily(), program, ...args];
  return spawn(first!, rest, {
    stdio: ['ignore', 'pipe', 'pipe', ...Array.from({ length: sockets }, () => 'pipe' as const)],
  });
}

/** Keeps the end of a stream; `VM_CONSOLE=1` also shows all of it. */
export class Tail {
  #text = '';

  constructor(private readonly onText: (text: string) => void = () => {}) {}

  watch(stream: Readable): this {
    stream.on('data', (chunk: Buffer) => {
      const text = chunk.toString('latin1').replaceAll('\r', '');
      this.#text = (this.#text + text).slice(-TAIL_BYTES);
      if (process.env['VM_CONSOLE'] === '1') process.stderr.write(text);
      this.onText(this.#text);
    });
    return this;
  }

  get text(): string {
    return this.#text;
  }
}

/** Resolves with the way `child` ended: `exit 0`, `signal SIGKILL`, or why it did not start. */
export function ended(child: ChildProcess): Promise<string> {
  return new Promise((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('close', (code, signal) => resolve(signal === null ? `exit ${code}` : `signal ${signal}`));
  });
}
