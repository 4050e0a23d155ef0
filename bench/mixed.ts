/** What a pod asks of a fresh daemon: names, attributes, opens and small reads in turn, of the hot set. */
import { OPS } from '../src/fuse/opcodes.ts';
import { IN_HEADER_BYTES } from '../src/fuse/wire/layout.ts';
import type { BenchClient, Node } from './client.ts';
import { ATTR_BYTES, ENTRY_BYTES, ENTRY_SIZE_WORD, NAME_BYTES, putIo, Workload } from './rows.ts';
import { fileName, HOT_FILE_BYTES, HOT_FILES } from './tree.ts';

export const FIRST_REQUESTS = 5000;

/** Steps of one file; each has a chain of its own. */
const LOOKUP = 0;
const GETATTR = 1;
const OPEN = 2;
const READ = 3;
const RELEASE = 4;
const STEPS = 5;
const READ_BYTES = 4096;
const FILE_BLOCKS = HOT_FILE_BYTES / READ_BYTES;

export function firstWorkload(client: BenchClient, root: Node): Workload {
  return new Mixed(client, root);
}

class Mixed extends Workload {
  readonly name = 'mixed';
  private dir: Node = { low: 0, high: 0 };
  private step = LOOKUP;
  private file = 0;
  private readonly node: Node = { low: 0, high: 0 };
  private readonly fh: Node = { low: 0, high: 0 };

  prepare(): void {
    this.dir = this.client.walk(this.root, 'hot');
    this.shapeAll(LOOKUP, { args: NAME_BYTES, reply: ENTRY_BYTES });
    this.shapeAll(GETATTR, { args: 16, reply: ATTR_BYTES });
    this.shapeAll(OPEN, { args: 8, reply: 16 });
    this.shapeAll(READ, { args: 40, reply: 0, outData: READ_BYTES });
    this.shapeAll(RELEASE, { args: 24, reply: 0 });
  }

  next(slot: number): void {
    const { client, node, fh } = this;
    const args = client.args[slot];
    const { u32 } = client;
    if (this.step === LOOKUP) {
      this.file = this.random(HOT_FILES);
      client.putName(slot, fileName(this.file));
      client.queue(slot, LOOKUP, OPS.LOOKUP.op, this.dir.low, this.dir.high, IN_HEADER_BYTES + NAME_BYTES);
      return;
    }
    u32.fill(0, args, args + 10);
    if (this.step === GETATTR) client.queue(slot, GETATTR, OPS.GETATTR.op, node.low, node.high, IN_HEADER_BYTES + 16);
    else if (this.step === OPEN) client.queue(slot, OPEN, OPS.OPEN.op, node.low, node.high, IN_HEADER_BYTES + 8);
    else if (this.step === READ) {
      putIo(client, slot, fh, READ_BYTES);
      u32[args + 2] = this.random(FILE_BLOCKS) * READ_BYTES;
      client.queue(slot, READ, OPS.READ.op, node.low, node.high, IN_HEADER_BYTES + 40);
    } else {
      u32[args] = fh.low;
      u32[args + 1] = fh.high;
      client.queue(slot, RELEASE, OPS.RELEASE.op, node.low, node.high, IN_HEADER_BYTES + 24);
    }
  }

  check(slot: number): void {
    const { client, node, fh } = this;
    const { u32 } = client;
    const body = client.body[slot];
    this.expect(slot, client.errorOf(slot) === 0);
    if (this.step === LOOKUP) {
      this.expect(slot, u32[body + ENTRY_SIZE_WORD] === HOT_FILE_BYTES);
      node.low = u32[body];
      node.high = u32[body + 1];
    } else if (this.step === OPEN) {
      fh.low = u32[body];
      fh.high = u32[body + 1];
    } else if (this.step === READ) {
      // Every byte of a hot file is its number and one.
      this.expect(slot, u32[client.page(slot, 0)] === (this.file + 1) * 0x01010101);
    } else if (this.step === RELEASE) {
      client.reapForgets();
      client.forget(node.low, node.high);
    }
    this.step = (this.step + 1) % STEPS;
  }
}
