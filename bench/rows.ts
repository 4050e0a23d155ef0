/** The rows: what a guest asks, again and again. Every reply is checked; READ's content at one word per reply. */
import { OPS } from '../src/fuse/opcodes.ts';
import { IN_HEADER_BYTES } from '../src/fuse/wire/layout.ts';
import { errno } from '../src/sys/errno.ts';
import { type BenchClient, type Node, type Shape, SLOTS } from './client.ts';
import {
  BIG_BYTES,
  bigWord,
  fileName,
  HOT_FILE_BYTES,
  HOT_FILES,
  LARGE_DIRS,
  LARGE_FILES_PER_DIR,
  LIST_FILES,
  largeDir,
  WRITE_BYTES,
} from './tree.ts';

export const NAME_BYTES = fileName(0).length + 1;
export const ENTRY_BYTES = 128;
export const ATTR_BYTES = 104;
const O_RDONLY = 0;
const O_WRONLY = 1;
const O_RDWR = 2;
const O_CREAT = 0o100;
const O_EXCL = 0o200;
const S_IFREG = 0o100644;
/** Words of an entry_out: attributes at 10, their size at 2. */
export const ENTRY_SIZE_WORD = 12;
const ATTR_SIZE_WORD = 6;

/** What a row asks of a file system; one instance per subject. `next` and `check` allocate nothing. */
export abstract class Workload {
  abstract readonly name: string;
  readonly #random = Uint32Array.of(0x9e3779b9);

  constructor(
    readonly client: BenchClient,
    readonly root: Node,
  ) {}

  /** Looks up and opens what the row needs, and shapes the chains. */
  abstract prepare(): void;
  /** Writes the next request of `slot` and queues it. */
  abstract next(slot: number): void;
  /** Checks the reply in `slot`. @throws when it is wrong */
  abstract check(slot: number): void;
  /** False: what `slot` asks next belongs to the same measured request. */
  isWhole(_slot: number): boolean {
    return true;
  }
  finish(): void {}

  /** A number below `count`; the same sequence for every subject. */
  protected random(count: number): number {
    let x = this.#random[0];
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#random[0] = x;
    return this.#random[0] % count;
  }

  protected shapeAll(k: number, shape: Shape): void {
    for (let slot = 0; slot < SLOTS; slot++) this.client.shape(slot, k, shape);
  }

  protected expect(slot: number, good: boolean): void {
    if (!good && !this.client.trusting)
      throw new Error(`${this.name}: wrong reply in slot ${slot}, error ${this.client.errorOf(slot)}`);
  }

  /** Writes `f` and six digits at byte `at` of guest memory. */
  protected putFileName(at: number, index: number): void {
    const { u8 } = this.client;
    u8[at] = 0x66;
    for (let i = 6; i > 0; i--) {
      const rest = Math.floor(index / 10);
      u8[at + i] = 0x30 + index - rest * 10;
      index = rest;
    }
    u8[at + 7] = 0;
  }
}

/** GETATTR of nodes held since `prepare`. */
class Getattr extends Workload {
  readonly name: string;
  private readonly low: Uint32Array;
  private readonly high: Uint32Array;

  constructor(
    client: BenchClient,
    root: Node,
    private readonly count: number,
  ) {
    super(client, root);
    this.name = 'GETATTR';
    this.low = new Uint32Array(count);
    this.high = new Uint32Array(count);
  }

  prepare(): void {
    let dir = this.client.walk(this.root, dirOf(0, this.count));
    for (let i = 0; i < this.count; i++) {
      if (i > 0 && i % LARGE_FILES_PER_DIR === 0) dir = this.client.walk(this.root, dirOf(i, this.count));
      const node = this.client.walk(dir, fileName(i));
      this.low[i] = node.low;
      this.high[i] = node.high;
    }
    this.shapeAll(0, { args: 16, reply: ATTR_BYTES });
    const { client } = this;
    for (let slot = 0; slot < SLOTS; slot++) client.u32.fill(0, client.args[slot], client.args[slot] + 4);
  }

  next(slot: number): void {
    const i = this.random(this.count);
    this.client.queue(slot, 0, OPS.GETATTR.op, this.low[i], this.high[i], IN_HEADER_BYTES + 16);
  }

  check(slot: number): void {
    const { client } = this;
    const size = client.errorOf(slot) === 0 ? client.u32[client.body[slot] + ATTR_SIZE_WORD] : -1;
    this.expect(slot, size === (this.count === HOT_FILES ? HOT_FILE_BYTES : 0));
  }

  override finish(): void {
    for (let i = 0; i < this.count; i++) this.client.forget(this.low[i], this.high[i]);
  }
}

/** Directory of object `index` in a set of `count`. */
function dirOf(index: number, count: number): string {
  return count === HOT_FILES ? 'hot' : largeDir(index);
}

/** LOOKUP, and FORGET of what it found. */
class Lookup extends Workload {
  readonly name: string;
  private readonly low = new Uint32Array(LARGE_DIRS);
  private readonly high = new Uint32Array(LARGE_DIRS);

  constructor(
    client: BenchClient,
    root: Node,
    private readonly count: number,
  ) {
    super(client, root);
    this.name = 'LOOKUP+FORGET';
  }

  prepare(): void {
    for (let d = 0; d < this.dirs; d++) {
      const node = this.client.walk(this.root, dirOf(d * LARGE_FILES_PER_DIR, this.count));
      this.low[d] = node.low;
      this.high[d] = node.high;
    }
    this.shapeAll(0, { args: NAME_BYTES, reply: ENTRY_BYTES });
  }

  private get dirs(): number {
    return this.count === HOT_FILES ? 1 : Math.ceil(this.count / LARGE_FILES_PER_DIR);
  }

  next(slot: number): void {
    const { client } = this;
    const i = this.random(this.count);
    const d = this.count === HOT_FILES ? 0 : Math.floor(i / LARGE_FILES_PER_DIR);
    this.putFileName(client.args[slot] * 4, i);
    client.queue(slot, 0, OPS.LOOKUP.op, this.low[d], this.high[d], IN_HEADER_BYTES + NAME_BYTES);
  }

  check(slot: number): void {
    const { client } = this;
    const body = client.body[slot];
    const { u32 } = client;
    const good = client.errorOf(slot) === 0 && (u32[body] !== 0 || u32[body + 1] !== 0);
    this.expect(slot, good && u32[body + ENTRY_SIZE_WORD] === (this.count === HOT_FILES ? HOT_FILE_BYTES : 0));
    client.reapForgets();
    client.forget(u32[body], u32[body + 1]);
  }

  override finish(): void {
    for (let d = 0; d < this.dirs; d++) this.client.forget(this.low[d], this.high[d]);
  }
}

/** LOOKUP of names that are not there: ENOENT, or an entry without node. */
class Absent extends Workload {
  readonly name = 'LOOKUP absent';
  private dir: Node = { low: 0, high: 0 };

  prepare(): void {
    this.dir = this.client.walk(this.root, 'hot');
    this.shapeAll(0, { args: NAME_BYTES, reply: ENTRY_BYTES });
  }

  next(slot: number): void {
    const { client } = this;
    this.putFileName(client.args[slot] * 4, 100 + this.random(1000));
    client.queue(slot, 0, OPS.LOOKUP.op, this.dir.low, this.dir.high, IN_HEADER_BYTES + NAME_BYTES);
  }

  check(slot: number): void {
    const { client } = this;
    const error = client.errorOf(slot);
    const body = client.body[slot];
    const negative = error === 0 && client.u32[body] === 0 && client.u32[body + 1] === 0;
    this.expect(slot, error === -errno.ENOENT || negative);
  }
}

/** OPEN and RELEASE in turn. */
class OpenRelease extends Workload {
  readonly name = 'OPEN+RELEASE';
  private readonly nodes: Node[] = [];
  private readonly opened = new Uint8Array(SLOTS);
  private readonly at = new Uint32Array(SLOTS);

  prepare(): void {
    for (let i = 0; i < HOT_FILES; i++) this.nodes.push(this.client.walk(this.root, `hot/${fileName(i)}`));
    this.shapeAll(0, { args: 8, reply: 16 });
    this.shapeAll(1, { args: 24, reply: 0 });
  }

  next(slot: number): void {
    const { client } = this;
    const args = client.args[slot];
    const { u32 } = client;
    if (this.opened[slot] === 0) {
      this.at[slot] = this.random(HOT_FILES);
      const node = this.nodes[this.at[slot]];
      u32[args] = O_RDONLY;
      u32[args + 1] = 0;
      client.queue(slot, 0, OPS.OPEN.op, node.low, node.high, IN_HEADER_BYTES + 8);
      return;
    }
    const node = this.nodes[this.at[slot]];
    const body = client.body[slot];
    u32[args] = u32[body];
    u32[args + 1] = u32[body + 1];
    for (let i = 2; i < 6; i++) u32[args + i] = 0;
    client.queue(slot, 1, OPS.RELEASE.op, node.low, node.high, IN_HEADER_BYTES + 24);
  }

  check(slot: number): void {
    this.expect(slot, this.client.errorOf(slot) === 0);
    this.opened[slot] ^= 1;
  }

  /** What a run left open. */
  override finish(): void {
    const { client } = this;
    for (let slot = 0; slot < SLOTS; slot++) {
      if (this.opened[slot] === 0) continue;
      const body = client.body[slot];
      const fh = { low: client.u32[body], high: client.u32[body + 1] };
      client.release('RELEASE', this.nodes[this.at[slot]], fh);
      this.opened[slot] = 0;
    }
    for (const node of this.nodes) client.forget(node.low, node.high);
    this.nodes.length = 0;
  }
}

/** READ of big.bin. */
class Read extends Workload {
  readonly name: string;
  private node: Node = { low: 0, high: 0 };
  private fh: Node = { low: 0, high: 0 };
  private position = 0;
  private readonly offsets = new Uint32Array(SLOTS);

  constructor(
    client: BenchClient,
    root: Node,
    private readonly bytes: number,
    private readonly sequential: boolean,
  ) {
    super(client, root);
    this.name = `READ ${sizeText(bytes)}${sequential ? ' sequential' : ''}`;
  }

  prepare(): void {
    this.node = this.client.walk(this.root, 'big.bin');
    this.fh = this.client.open('OPEN', this.node, O_RDONLY);
    this.shapeAll(0, { args: 40, reply: 0, outData: this.bytes });
    for (let slot = 0; slot < SLOTS; slot++) putIo(this.client, slot, this.fh, this.bytes);
  }

  next(slot: number): void {
    const { client } = this;
    const blocks = BIG_BYTES / this.bytes;
    const block = this.sequential ? this.position++ % blocks : this.random(blocks);
    this.offsets[slot] = block * this.bytes;
    client.u32[client.args[slot] + 2] = this.offsets[slot];
    client.queue(slot, 0, OPS.READ.op, this.node.low, this.node.high, IN_HEADER_BYTES + 40);
  }

  check(slot: number): void {
    const { client } = this;
    const good = client.errorOf(slot) === 0 && client.replyBytes(slot) === 16 + this.bytes;
    const sample = (this.random(this.bytes / 4096) * 4096) >>> 0;
    const word = good ? client.u32[client.page(slot, sample)] : 0;
    this.expect(slot, good && word === bigWord((this.offsets[slot] + sample) / 4));
  }

  override finish(): void {
    this.client.release('RELEASE', this.node, this.fh);
    this.client.forget(this.node.low, this.node.high);
  }
}

/** read_in and write_in but for the offset. */
export function putIo(client: BenchClient, slot: number, fh: Node, bytes: number): void {
  const args = client.args[slot];
  client.u32.fill(0, args, args + 10);
  client.u32[args] = fh.low;
  client.u32[args + 1] = fh.high;
  client.u32[args + 4] = bytes;
}

function sizeText(bytes: number): string {
  return bytes >= 2 ** 20 ? `${bytes / 2 ** 20} MiB` : `${bytes / 1024} KiB`;
}

/** WRITE over write.bin. */
class Write extends Workload {
  readonly name: string;
  private node: Node = { low: 0, high: 0 };
  private fh: Node = { low: 0, high: 0 };

  constructor(
    client: BenchClient,
    root: Node,
    private readonly bytes: number,
  ) {
    super(client, root);
    this.name = `WRITE ${sizeText(bytes)}`;
  }

  prepare(): void {
    this.node = this.client.walk(this.root, 'write.bin');
    this.fh = this.client.open('OPEN', this.node, O_WRONLY);
    this.shapeAll(0, { args: 40, reply: 8, inData: this.bytes });
    for (let slot = 0; slot < SLOTS; slot++) putIo(this.client, slot, this.fh, this.bytes);
  }

  next(slot: number): void {
    const { client } = this;
    client.u32[client.args[slot] + 2] = this.random(WRITE_BYTES / this.bytes) * this.bytes;
    client.queue(slot, 0, OPS.WRITE.op, this.node.low, this.node.high, IN_HEADER_BYTES + 40 + this.bytes);
  }

  check(slot: number): void {
    const { client } = this;
    this.expect(slot, client.errorOf(slot) === 0 && client.u32[client.body[slot]] === this.bytes);
  }

  override finish(): void {
    this.client.release('RELEASE', this.node, this.fh);
    this.client.forget(this.node.low, this.node.high);
  }
}

const LIST_BYTES = 128 * 1024;

/**
 * READDIRPLUS through 1,000 entries to the end, which is one measured request: how much a reply holds is up to the daemon.
 * Each slot has its own handle.
 */
class ReadDirPlus extends Workload {
  readonly name = 'READDIRPLUS 1000';
  private node: Node = { low: 0, high: 0 };
  private readonly handles: Node[] = [];
  private readonly cookie = new Uint32Array(SLOTS * 2);
  private readonly entries = new Uint32Array(SLOTS);

  prepare(): void {
    this.node = this.client.walk(this.root, 'list');
    for (let slot = 0; slot < SLOTS; slot++) this.handles.push(this.client.open('OPENDIR', this.node, O_RDONLY));
    this.shapeAll(0, { args: 40, reply: 0, outData: LIST_BYTES });
    for (let slot = 0; slot < SLOTS; slot++) putIo(this.client, slot, this.handles[slot], LIST_BYTES);
  }

  next(slot: number): void {
    const { client } = this;
    const args = client.args[slot];
    client.u32[args + 2] = this.cookie[slot * 2];
    client.u32[args + 3] = this.cookie[slot * 2 + 1];
    client.queue(slot, 0, OPS.READDIRPLUS.op, this.node.low, this.node.high, IN_HEADER_BYTES + 40);
  }

  check(slot: number): void {
    const { client } = this;
    this.expect(slot, client.errorOf(slot) === 0);
    const bytes = client.replyBytes(slot) - 16;
    if (bytes === 0) {
      this.expect(slot, this.entries[slot] >= LIST_FILES);
      this.entries[slot] = 0;
      this.cookie[slot * 2] = 0;
      this.cookie[slot * 2 + 1] = 0;
      return;
    }
    let last = 0;
    for (let at = 0; at < bytes; ) {
      last = at;
      this.entries[slot]++;
      at += (ENTRY_BYTES + 24 + this.word(slot, at + ENTRY_BYTES + 16) + 7) & ~7;
    }
    this.cookie[slot * 2] = this.word(slot, last + ENTRY_BYTES + 8);
    this.cookie[slot * 2 + 1] = this.word(slot, last + ENTRY_BYTES + 12);
  }

  override isWhole(slot: number): boolean {
    return this.entries[slot] === 0;
  }

  /** Word at byte `at` of the reply's pages. */
  private word(slot: number, at: number): number {
    return this.client.u32[this.client.page(slot, at) + (at % 4096) / 4];
  }

  override finish(): void {
    for (const fh of this.handles) this.client.release('RELEASEDIR', this.node, fh);
  }
}

const CREATE = 0;
const RELEASE = 1;
const UNLINK = 2;

/** CREATE, RELEASE, UNLINK and FORGET of one name after the other. */
class CreateUnlink extends Workload {
  readonly name = 'CREATE+UNLINK';
  private dir: Node = { low: 0, high: 0 };
  private readonly step = new Uint8Array(SLOTS);
  private readonly made = new Uint32Array(SLOTS * 4);

  prepare(): void {
    this.dir = this.client.walk(this.root, 'tmp');
    this.shapeAll(CREATE, { args: 16 + NAME_BYTES, reply: ENTRY_BYTES + 16 });
    this.shapeAll(RELEASE, { args: 24, reply: 0 });
    this.shapeAll(UNLINK, { args: NAME_BYTES, reply: 0 });
  }

  next(slot: number): void {
    const { client, dir, made } = this;
    const args = client.args[slot];
    const { u32 } = client;
    const step = this.step[slot];
    if (step === CREATE) {
      u32[args] = O_RDWR | O_CREAT | O_EXCL;
      u32[args + 1] = S_IFREG;
      u32[args + 2] = 0o022;
      u32[args + 3] = 0;
      this.putFileName(args * 4 + 16, client.number * SLOTS + slot);
      client.queue(slot, CREATE, OPS.CREATE.op, dir.low, dir.high, IN_HEADER_BYTES + 16 + NAME_BYTES);
    } else if (step === RELEASE) {
      u32[args] = made[slot * 4 + 2];
      u32[args + 1] = made[slot * 4 + 3];
      for (let i = 2; i < 6; i++) u32[args + i] = 0;
      client.queue(slot, RELEASE, OPS.RELEASE.op, made[slot * 4], made[slot * 4 + 1], IN_HEADER_BYTES + 24);
    } else {
      this.putFileName(args * 4, client.number * SLOTS + slot);
      client.queue(slot, UNLINK, OPS.UNLINK.op, dir.low, dir.high, IN_HEADER_BYTES + NAME_BYTES);
    }
  }

  check(slot: number): void {
    const { client, made } = this;
    this.expect(slot, client.errorOf(slot) === 0);
    const step = this.step[slot];
    this.step[slot] = step === UNLINK ? CREATE : step + 1;
    if (step === CREATE) {
      const body = client.body[slot];
      made[slot * 4] = client.u32[body];
      made[slot * 4 + 1] = client.u32[body + 1];
      made[slot * 4 + 2] = client.u32[body + ENTRY_BYTES / 4];
      made[slot * 4 + 3] = client.u32[body + ENTRY_BYTES / 4 + 1];
    } else if (step === UNLINK) {
      client.reapForgets();
      client.forget(made[slot * 4], made[slot * 4 + 1]);
    }
  }

  /** Ends what a run left half done. */
  override finish(): void {
    const { client } = this;
    for (let slot = 0; slot < SLOTS; slot++) {
      while (this.step[slot] !== CREATE) {
        this.next(slot);
        client.ring.submit();
        if (client.ring.waitUsed(5000) !== slot) throw new Error(`${this.name}: no reply`);
        this.check(slot);
      }
    }
  }
}

class Statfs extends Workload {
  readonly name = 'STATFS';

  prepare(): void {
    this.shapeAll(0, { args: 0, reply: 80 });
  }

  next(slot: number): void {
    this.client.queue(slot, 0, OPS.STATFS.op, this.root.low, this.root.high, IN_HEADER_BYTES);
  }

  check(slot: number): void {
    const { client } = this;
    this.expect(slot, client.errorOf(slot) === 0 && client.u32[client.body[slot] + 10] > 0);
  }
}

export interface Row {
  name: string;
  writes: boolean;
  /** File or directory of the share whose data it works on, if any. */
  data: string | null;
  make(client: BenchClient, root: Node): Workload;
}

const KIB = 1024;

/** @param largeCount objects of the large set */
export function rows(largeCount: number): Row[] {
  const row = (name: string, make: Row['make'], data: string | null = null): Row => ({
    name,
    writes: name.startsWith('WRITE') || name.startsWith('CREATE'),
    data,
    make,
  });
  const read = (name: string, bytes: number, sequential: boolean): Row =>
    row(name, (c, r) => new Read(c, r, bytes, sequential), 'big.bin');
  const write = (name: string, bytes: number): Row => row(name, (c, r) => new Write(c, r, bytes), 'write.bin');
  return [
    row('GETATTR', (c, r) => new Getattr(c, r, HOT_FILES)),
    row('LOOKUP+FORGET', (c, r) => new Lookup(c, r, HOT_FILES)),
    row('LOOKUP absent', (c, r) => new Absent(c, r)),
    row('OPEN+RELEASE', (c, r) => new OpenRelease(c, r)),
    read('READ 4 KiB', 4 * KIB, false),
    read('READ 4 KiB sequential', 4 * KIB, true),
    read('READ 128 KiB', 128 * KIB, false),
    read('READ 128 KiB sequential', 128 * KIB, true),
    read('READ 1 MiB', KIB * KIB, false),
    read('READ 1 MiB sequential', KIB * KIB, true),
    write('WRITE 4 KiB', 4 * KIB),
    write('WRITE 128 KiB', 128 * KIB),
    row('READDIRPLUS 1000', (c, r) => new ReadDirPlus(c, r), 'list'),
    row('CREATE+UNLINK', (c, r) => new CreateUnlink(c, r)),
    row('STATFS', (c, r) => new Statfs(c, r)),
    row('GETATTR large', (c, r) => new Getattr(c, r, largeCount)),
    row('LOOKUP+FORGET large', (c, r) => new Lookup(c, r, largeCount)),
  ];
}
