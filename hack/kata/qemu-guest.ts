/**
 * A real VMM with a real guest (test/vm boots them): the agent's part of a sandbox is shell text that the guest asks for,
 * line by line. A container's root is the overlay that Kata's agent mounts (kata-contract 1.7).
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { Guest } from '../../test/vm/guest.ts';
import { MOUNT_SHARE, script } from '../../test/vm/in-guest.ts';
import type { SandboxGuest } from './guest.ts';
import type { Image } from './image.ts';

/** A guest under software emulation, on a machine that does other things too. */
const LIFE_MS_MAX = 5 * 60_000;

/** Asks for a line, runs it, tells how that went; `end` ends the guest. Words of an answer may not hold blanks. */
const OBEY = `
while line=$(ask next); [ "$line" != end ]; do
  if said=$(sh -eu -c ". /lib/guest.sh; $line" 2>&1); then ask ok >/tmp/nothing
  else ask "fail-$(echo "$said" | tail -c 150 | base64 -w0)" >/tmp/nothing; fi
done`;

interface Order {
  line: string;
  done(): void;
  failed(error: unknown): void;
}

export class QemuGuest implements SandboxGuest {
  private guest: Guest | null = null;
  private failure: unknown = null;
  private readonly orders: Order[] = [];
  private current: Order | null = null;
  private wake: (() => void) | null = null;

  async attach(sock: string): Promise<void> {
    this.guest = new Guest({
      kind: 'qemu',
      socket: sock,
      caseTimeoutMs: LIFE_MS_MAX,
      answer: (name) => this.answer(name),
      script: script(MOUNT_SHARE, { name: 'obey', run: OBEY }),
    });
    this.guest.finished().catch((error) => this.fail(error));
    await this.run('[ -d /share/containers ]');
  }

  async runs(cid: string, image: Image): Promise<void> {
    const sum = createHash('sha256').update(image.content).digest('hex');
    const at = `/share/containers/${cid}`;
    const dirs = `upperdir=${at}/snapshotdir/fs,workdir=${at}/snapshotdir/work,lowerdir=/share/rafs/${cid}/lowerdir`;
    await this.run(`mount -t overlay -o ${dirs},index=off overlay ${at}/rootfs`);
    await this.run(`same ${sum} "$(sha256sum <${at}/rootfs/${image.file} | cut -c1-64)"`);
    await this.run(`printf %s ${cid} >${at}/rootfs/written; sync`);
  }

  async leaves(cid: string): Promise<void> {
    await this.run(`umount /share/containers/${cid}/rootfs`);
  }

  async forgets(cid: string): Promise<void> {
    // Names are trusted for a second.
    await this.run(`sleep 1.1; [ ! -e /share/rafs/${cid} ]; echo 3 >/proc/sys/vm/drop_caches`);
  }

  end(): void {
    this.guest?.stop();
    this.guest = null;
  }

  private run(line: string): Promise<void> {
    assert.ok(!line.includes('\n'), 'one line at a time');
    if (this.failure !== null) return Promise.reject(this.failure);
    return new Promise((done, failed) => {
      this.orders.push({ line, done, failed });
      this.wake?.();
    });
  }

  private async answer(name: string): Promise<string> {
    if (name === 'next') {
      while (this.orders.length === 0) {
        await new Promise<void>((resolve) => {
          this.wake = resolve;
        });
      }
      this.current = this.orders.shift()!;
      return this.current.line;
    }
    const order = this.current!;
    if (name === 'ok') order.done();
    else {
      const said = Buffer.from(name.slice('fail-'.length), 'base64').toString().trim();
      order.failed(new Error(`in the guest: ${order.line}: ${said}`));
    }
    return 'go-on';
  }

  private fail(error: unknown): void {
    this.failure = error;
    for (const order of [...this.orders.splice(0), ...(this.current === null ? [] : [this.current])])
      order.failed(error);
  }
}
