/** Somebody who reads every byte and knows what it has to be: through our frontend, or through the kernel's FUSE client. */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { FuseClient, readArgs } from '../../src/virtiofs/testing/fuse-client.ts';
import { type Counts, noCounts } from './counts.ts';
import type { Expected } from './images.ts';

/** Longer than the deadline of a demand read: what comes later is a hang. */
export const ANSWER_MS = 25_000;
/** Reads that still fail this long after the fault was lifted are sticky. */
const STICKY_MS = 1000;
const READ_BYTES = 128 * 1024;
/** Of one file at a time: descriptors and the thread pool are the limits. */
const FLOOD_FILES = 40;

export abstract class Reader {
  /** Reads a whole file: its content, or null when a read failed. @throws when nothing comes in time */
  protected abstract content(file: Expected): Promise<Buffer | null>;
  /** Starts reads of the beginnings of many files and waits for none. */
  abstract flood(files: readonly Expected[]): Promise<void>;
  abstract close(): void;

  /** True when all of `files` read right; what does not is counted. */
  async readAll(counts: Counts, files: readonly Expected[]): Promise<boolean> {
    let isRight = true;
    for (const file of files) {
      const content = await this.content(file);
      const isSame = content !== null && createHash('sha256').update(content).digest('hex') === file.sha256;
      if (content === null) counts.errors++;
      else if (!isSame) counts.wrongBytes++;
      isRight &&= isSame;
    }
    return isRight;
  }

  /** After the fault is lifted: everything reads right within `STICKY_MS`, or what failed is sticky. */
  async recover(counts: Counts, files: readonly Expected[]): Promise<void> {
    const from = performance.now();
    const trial = noCounts();
    for (;;) {
      const startedAt = performance.now();
      if (await this.readAll(trial, files)) break;
      // Only what begins late enough and fails is sticky; a slow machine is not.
      if (startedAt - from < STICKY_MS) continue;
      counts.sticky++;
      break;
    }
    counts.wrongBytes += trial.wrongBytes;
    counts.recoveryMs = Math.max(counts.recoveryMs, performance.now() - from);
  }
}

/** The guest's side of a vhost-user daemon; the image lies at /i. */
export class FrontendReader extends Reader {
  private readonly client: FuseClient;

  /** @param isPeer nydusd is less exact than ours has to be */
  constructor(socket: string, isPeer: boolean) {
    super();
    this.client = new FuseClient(socket, { timeoutMs: ANSWER_MS, queueSize: 256, ignoresUsedLength: isPeer });
    this.client.init();
  }

  /** All READs of the file are in flight at once. */
  protected async content(file: Expected): Promise<Buffer | null> {
    const { client } = this;
    const { node, fh } = this.open(file);
    const parts = new Map<number, number>();
    for (let at = 0; at < file.size; at += READ_BYTES) {
      parts.set(client.submit('READ', readArgs(fh, at, READ_BYTES), { nodeid: node, replyBytes: READ_BYTES }), at);
    }
    const content = Buffer.alloc(file.size);
    let isWhole = true;
    for (let left = parts.size; left > 0; left--) {
      const got = client.wait();
      if (got === null) throw new Error(`a READ of ${file.path} is not answered within ${ANSWER_MS} ms`);
      if (got.reply.error !== 0) isWhole = false;
      else got.reply.body.copy(content, parts.get(got.head)!);
    }
    const release = Buffer.alloc(24);
    release.writeBigUInt64LE(fh, 0);
    client.call('RELEASE', release, { nodeid: node });
    return isWhole ? content : null;
  }

  private open(file: Expected): { node: bigint; fh: bigint } {
    const node = this.client.walk(`/i/${file.path}`);
    const fh = this.client.open(node);
    if (typeof fh !== 'bigint') throw new Error(`open ${file.path}: ${fh}`);
    return { node, fh };
  }

  async flood(files: readonly Expected[]): Promise<void> {
    const opened = files.slice(0, FLOOD_FILES).map((file) => this.open(file));
    for (const { node, fh } of opened) {
      this.client.submit('READ', readArgs(fh, 0, READ_BYTES), { nodeid: node, replyBytes: READ_BYTES });
    }
  }

  close(): void {
    this.client.close();
  }
}

/** Files below a mount point. O_DIRECT: every read is the daemon's to answer, not the page cache's. */
export class HostReader extends Reader {
  constructor(private readonly root: string) {
    super();
  }

  protected async content(file: Expected): Promise<Buffer | null> {
    const timer = new AbortController();
    const late = sleep(ANSWER_MS, 'late' as const, { signal: timer.signal });
    late.catch(() => {});
    const got = await Promise.race([late, this.whole(file).catch(errnoOnly)]);
    timer.abort();
    if (got === 'late') throw new Error(`reading ${file.path} takes more than ${ANSWER_MS} ms`);
    return got;
  }

  private async whole(file: Expected): Promise<Buffer> {
    const handle = await this.open(file);
    try {
      const content = Buffer.alloc(file.size);
      for (let done = 0; done < file.size; ) {
        const { bytesRead } = await handle.read(content, done, file.size - done, done);
        if (bytesRead === 0) break;
        done += bytesRead;
      }
      return content;
    } finally {
      await handle.close();
    }
  }

  private open(file: Expected): Promise<fs.promises.FileHandle> {
    return fs.promises.open(path.join(this.root, 'i', file.path), fs.constants.O_RDONLY | fs.constants.O_DIRECT);
  }

  async flood(files: readonly Expected[]): Promise<void> {
    for (const file of files.slice(0, FLOOD_FILES)) void this.whole(file).catch(errnoOnly);
  }

  close(): void {}
}

/** A failed read is what is being tested; anything else is the harness's own fault. */
function errnoOnly(error: unknown): null {
  if ((error as NodeJS.ErrnoException).errno === undefined) throw error;
  return null;
}
