/** Boots a guest, follows its script, answers what it asks, and ends it. */
import type { ChildProcess } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { type TestContext, test } from 'node:test';
import { assetsOf, type GuestKind, skipUnless } from './assets.ts';
import { type Frame, FrameReader } from './channel.ts';
import { vmError } from './errors.ts';
import { buildInitrd, type GuestScript } from './in-guest.ts';
import { ended, spawnGuest, Tail } from './process.ts';
import { type DeviceOptions, type MemoryOptions, qemuArguments } from './qemu.ts';
import { Qmp } from './qmp.ts';
import { umlArguments } from './uml.ts';

export interface GuestOptions {
  kind: GuestKind;
  script: GuestScript;
  /** vhost-user socket of the daemon; null boots without our device. */
  socket: string | null;
  tag?: string;
  queueSize?: number;
  requestQueues?: number;
  memoryMib?: number;
  /** QEMU: room for DIMMs plugged later. */
  maxMemoryMib?: number;
  /** Answers `ask NAME`; `reboot` and `poweroff` are answered here. */
  answer?: (name: string, guest: Guest) => string | Promise<string>;
  bootTimeoutMs?: number;
  /** Longest time one case may need. */
  caseTimeoutMs?: number;
}

export interface CaseResult {
  name: string;
  status: number;
  output: string;
  elapsedMs: number;
}

export interface GuestRun {
  cases: CaseResult[];
  /** What the guest sent with `send`. */
  data: Map<string, Buffer>;
  /** Start of the process to the first frame. */
  bootMs: number;
  console: string;
}

const BOOT_TIMEOUT_MS = 60_000;
const CASE_TIMEOUT_MS = 60_000;
const PANIC = /Kernel panic - not syncing.*|Oops: .*|BUG: .*/;
export const DEFAULT_TAG = 'kataShared';

export class Guest {
  readonly #options: GuestOptions;
  readonly #child: ChildProcess;
  readonly #channel: Duplex;
  readonly #qmp: Qmp | null;
  readonly #scratch: string;
  readonly #tail: Tail;
  readonly #frames = new FrameReader();
  readonly #cases: CaseResult[] = [];
  readonly #data = new Map<string, Buffer>();
  readonly #startedAt = performance.now();
  #bootMs = 0;
  #boot = 0;
  #waitingFor = 'first sign of life';
  #caseStartedAt = 0;
  #timer: NodeJS.Timeout | null = null;
  #settle: { resolve: (run: GuestRun) => void; reject: (error: unknown) => void } | null = null;
  readonly #finished: Promise<GuestRun>;

  constructor(options: GuestOptions) {
    this.#options = options;
    const assets = assetsOf(options.kind);
    const tag = options.tag ?? DEFAULT_TAG;
    this.#scratch = mkdtempSync(join(tmpdir(), 'nydus-guest-'));
    const initrd = join(this.#scratch, 'initrd');
    writeFileSync(initrd, buildInitrd(assets, options.script, tag));
    const device: DeviceOptions = {
      socket: options.socket,
      tag,
      queueSize: options.queueSize ?? 1024,
      requestQueues: options.requestQueues ?? 1,
    };
    const sizeMib = options.memoryMib ?? 512;
    const memory: MemoryOptions = { sizeMib, maxMib: options.maxMemoryMib ?? sizeMib };
    const isQemu = options.kind === 'qemu';
    const args = isQemu
      ? qemuArguments(assets, initrd, device, memory)
      : umlArguments(initrd, this.#scratch, device, memory);
    this.#child = spawnGuest(assets.program, args, isQemu ? 2 : 1);
    this.#tail = new Tail((text) => this.#lookForPanic(text)).watch(this.#child.stdout!).watch(this.#child.stderr!);
    this.#channel = this.#child.stdio[3] as Duplex;
    this.#channel.on('error', () => {});
    this.#channel.on('data', (chunk: Buffer) => this.#receive(chunk));
    this.#qmp = isQemu ? new Qmp(this.#child.stdio[4] as Duplex) : null;
    this.#finished = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
    this.#finished.catch(() => {});
    void ended(this.#child).then((why) => this.#fail(vmError('VM_EXIT', { ...this.#where(), why })));
    this.#expect('first sign of life', options.bootTimeoutMs ?? BOOT_TIMEOUT_MS);
  }

  /** Resolves when the script ran to its end; rejects on panic, exit, time-out. Ends the guest either way. */
  async finished(): Promise<GuestRun> {
    try {
      return await this.#finished;
    } finally {
      this.stop();
    }
  }

  /** QEMU only. @throws when the guest is UML. */
  get qmp(): Qmp {
    if (this.#qmp === null) throw new Error('a UML guest has no QMP');
    return this.#qmp;
  }

  /** Kills the guest and everything it started; harmless when it is gone. */
  stop(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#child.kill('SIGKILL');
    this.#channel.destroy();
    rmSync(this.#scratch, { recursive: true, force: true });
  }

  #where(): { guest: string; tail: string } {
    return { guest: this.#options.kind, tail: this.#tail.text };
  }

  #expect(what: string, timeoutMs: number): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#waitingFor = what;
    this.#timer = setTimeout(() => {
      this.#fail(vmError('VM_TIMEOUT', { ...this.#where(), waitingFor: this.#waitingFor, timeoutMs }));
    }, timeoutMs);
  }

  #lookForPanic(text: string): void {
    const line = PANIC.exec(text)?.[0];
    // The call trace follows the line that names the panic.
    if (line !== undefined) setTimeout(() => this.#fail(vmError('VM_PANIC', { ...this.#where(), line })), 200);
  }

  #fail(error: unknown): void {
    this.#settle?.reject(error);
    this.#settle = null;
    this.stop();
  }

  #receive(chunk: Buffer): void {
    try {
      for (const frame of this.#frames.push(chunk)) this.#handle(frame);
    } catch (error) {
      this.#fail(error);
    }
  }

  #handle(frame: Frame): void {
    const caseTimeoutMs = this.#options.caseTimeoutMs ?? CASE_TIMEOUT_MS;
    switch (frame.kind) {
      case 'hello':
        this.#boot++;
        if (this.#boot === 1) this.#bootMs = performance.now() - this.#startedAt;
        this.#channel.write(`${this.#boot}\n`);
        this.#expect('first case', caseTimeoutMs);
        return;
      case 'start':
        this.#caseStartedAt = performance.now();
        this.#expect(`end of case ${frame.name}`, caseTimeoutMs);
        return;
      case 'case': {
        const { name, status } = frame;
        const elapsedMs = performance.now() - this.#caseStartedAt;
        this.#cases.push({ name, status, output: frame.output.toString('latin1'), elapsedMs });
        this.#expect('next case', caseTimeoutMs);
        return;
      }
      case 'data':
        this.#data.set(frame.name, frame.content);
        return;
      case 'ask':
        void this.#answer(frame.name).catch((error) => this.#fail(error));
        return;
      case 'done':
        this.#end(frame.count);
    }
  }

  async #answer(name: string): Promise<void> {
    if (name === 'poweroff') return;
    if (name === 'reboot') {
      this.#expect('second boot', this.#options.bootTimeoutMs ?? BOOT_TIMEOUT_MS);
      await this.qmp.command('system_reset');
      return;
    }
    if (this.#options.answer === undefined) throw new Error(`the guest asks ${name} and nobody answers`);
    this.#channel.write(`${await this.#options.answer(name, this)}\n`);
  }

  /** The sentinel: every case of every boot must have reported, in order. */
  #end(lastBootCount: number): void {
    const wanted = this.#options.script.boots.flat().map((entry) => entry.name.replaceAll(/\s/g, '-'));
    const got = this.#cases.map((entry) => entry.name);
    if (wanted.join() !== got.join() || lastBootCount !== this.#options.script.boots.at(-1)!.length) {
      const why = `cases ${got.join()} reported, ${wanted.join()} asked for`;
      this.#fail(vmError('VM_EXIT', { ...this.#where(), why }));
      return;
    }
    this.#settle?.resolve({ cases: this.#cases, data: this.#data, bootMs: this.#bootMs, console: this.#tail.text });
    this.#settle = null;
  }
}

/**
 * Boots, runs the script to its end, stops; every case must have passed.
 * @throws VM_CASE, VM_PANIC, VM_EXIT, VM_TIMEOUT, VM_FRAME, VM_PART_MISSING
 */
export async function runGuest(options: GuestOptions): Promise<GuestRun> {
  const run = await new Guest(options).finished();
  assertCases(options.kind, run);
  return run;
}

/** Fails with the output of the first case that did not end with 0. @throws VM_CASE */
function assertCases(kind: GuestKind, run: GuestRun): void {
  const bad = run.cases.find((entry) => entry.status !== 0);
  if (bad === undefined) return;
  const output = `exit status ${bad.status}\n${bad.output}`;
  throw vmError('VM_CASE', { guest: kind, name: bad.name, output, tail: run.console });
}

/** Registers one test per guest kind, skipped with the reason where a part is missing (failed in CI). */
export function guestTest(
  name: string,
  kinds: readonly GuestKind[],
  body: (kind: GuestKind, context: TestContext) => Promise<void>,
): void {
  for (const kind of kinds) {
    test(`${kind}: ${name}`, { skip: skipUnless(kind, name) }, async (context) => {
      try {
        await body(kind, context);
      } catch (error) {
        context.diagnostic(`again: npm run test:vm -- --filter ${JSON.stringify(`${kind}: ${name}`)}`);
        throw error;
      }
    });
  }
}
