/**
 * Requests: every opcode with arguments that nearly make sense, in chains of every legal shape, and some that lie about
 * lengths. Oracle: the head comes back once, the reply is well formed, nothing outside its writable bytes changed, and a
 * nodeid never means two files.
 */
import { OPS, type OpName } from '../../src/fuse/opcodes.ts';
import { IN_HEADER_BYTES, OUT_HEADER_BYTES } from '../../src/fuse/wire/layout.ts';
import { BODIES, type Known } from './bodies.ts';
import { expect } from './finding.ts';
import type { Random } from './random.ts';
import { type Buffers, decodeReply, QUEUE_SIZE, requestBytes, type Session } from './session.ts';

export const OP_NAMES = Object.keys(OPS) as OpName[];
const NODES_KEPT = 64;
const RED_ZONE = 0x5c;
const RED_BYTES = 32;
/** Of what follows the arguments: ten times the device's private copy. */
const LONG_BYTES_MAX = 1_400_000;
const LONG_FILLING = 0x6b;

/** Nodes and handles seen, for requests that get further. One per session; `owners` lives as long as the daemon. */
export class Seen {
  readonly #nodes: bigint[] = [1n];
  readonly #handles: bigint[] = [0n];

  constructor(readonly owners: Map<bigint, string>) {}

  known(random: Random): Known {
    return {
      random,
      node: () => (random.chance(90) ? random.pick(this.#nodes) : random.odd64()),
      fh: () => (random.chance(85) ? random.pick(this.#handles) : random.odd64()),
    };
  }

  /** Learns from a reply; a nodeid that comes again for another inode is a finding. */
  learn(op: OpName, body: Buffer): void {
    if (ENTRY_OPS.has(op) && body.length >= 128) this.#entry(body);
    if (op === 'CREATE' && body.length >= 144) this.#keep(this.#handles, body.readBigUInt64LE(128));
    if ((op === 'OPEN' || op === 'OPENDIR') && body.length >= 16) this.#keep(this.#handles, body.readBigUInt64LE(0));
  }

  #entry(body: Buffer): void {
    const nodeid = body.readBigUInt64LE(0);
    if (nodeid === 0n) return;
    const owner = `${body.readBigUInt64LE(40)} type ${body.readUInt32LE(100) >> 12}`;
    const before = this.owners.get(nodeid) ?? owner;
    expect(before === owner, () => `nodeid ${nodeid} was inode ${before} and is inode ${owner} now`);
    this.owners.set(nodeid, owner);
    this.#keep(this.#nodes, nodeid);
  }

  #keep(list: bigint[], value: bigint): void {
    if (list.includes(value)) return;
    if (list.length >= NODES_KEPT) list.splice(1, 1);
    list.push(value);
  }
}

const ENTRY_OPS: ReadonlySet<OpName> = new Set<OpName>(['LOOKUP', 'CREATE', 'MKDIR', 'MKNOD', 'SYMLINK', 'LINK']);
/** After these the session is another one. */
export const ENDS_SESSION: ReadonlySet<string> = new Set(['INIT', 'DESTROY']);

/** A request of `op`, mostly well formed. */
function request(op: OpName, known: Known, unique: bigint): Buffer {
  const { random } = known;
  const node = random.chance(3) ? 0n : known.node();
  let args = BODIES[op](known);
  if (random.chance(6)) args = args.subarray(0, random.below(args.length + 1));
  if (random.chance(4)) args = Buffer.concat([args, random.bytes(random.between(1, 64))]);
  if (random.chance(4)) args = random.mutate(args);
  // All of it readable, so that its header may tell the truth: more than the device has room for.
  if (random.chance(6)) args = Buffer.concat([args, Buffer.alloc(random.between(1000, LONG_BYTES_MAX), LONG_FILLING)]);
  const bytes = requestBytes(OPS[op].op, unique, node, args, random.chance(4) ? random.odd32() : undefined);
  bytes.writeUInt32LE(random.pick([0, 0, 0, 1000, 65_534]), 24);
  bytes.writeUInt32LE(random.pick([0, 0, 1000]), 28);
  if (random.chance(3)) bytes.writeUInt16LE(random.below(65_536), 36);
  return bytes;
}

interface Part {
  gpa: number;
  bytes: number;
}

/** Cuts `total` bytes of memory into up to `most` parts, each with a gap around it. */
function parts(session: Session, random: Random, total: number, most: number): Part[] {
  const list: Part[] = [];
  for (let left = total; left > 0; ) {
    const bytes = list.length === most - 1 || random.chance(50) ? left : random.between(1, Math.min(left, 300));
    list.push({ gpa: session.take(bytes, random.chance(50) ? 8 : 1), bytes });
    left -= bytes;
  }
  return list;
}

/** Distinct descriptor indexes. */
export function heads(random: Random, count: number): number[] {
  const all = Array.from({ length: QUEUE_SIZE }, (_, i) => i);
  return Array.from({ length: count }, () => all.splice(random.below(all.length), 1)[0]!);
}

function replyRoom(op: OpName, random: Random): number {
  if (OPS[op].reply === 'none') return random.chance(90) ? 0 : random.below(200);
  if (random.chance(4)) return random.below(OUT_HEADER_BYTES);
  return OUT_HEADER_BYTES + (random.chance(85) ? 80_000 : random.below(200));
}

/** One request of `op` on the case's queue. */
export function opcodeCase(session: Session, seen: Seen, random: Random, op: OpName): void {
  session.resetArena();
  const unique = session.unique();
  const bytes = request(op, seen.known(random), unique);
  const room = replyRoom(op, random);
  const readable = parts(session, random, bytes.length, 8);
  const writable = parts(session, random, room, 8);
  let done = 0;
  for (const part of readable) {
    session.ram.write(part.gpa, bytes.subarray(done, done + part.bytes));
    done += part.bytes;
  }
  for (const part of writable) session.ram.bytes(part.gpa - RED_BYTES, part.bytes + 2 * RED_BYTES).fill(RED_ZONE);
  const buffers: Buffers[] = [
    ...readable.map((part) => ({ ...part, writable: false })),
    ...writable.map((part) => ({ ...part, writable: true })),
  ];
  const head = session.chain(buffers, heads(random, buffers.length), random.chance(60));
  session.submit([head]);
  const { used, broken } = session.collect(1);
  expect(!broken, () => `${op}: the ring of a legal chain was declared broken`);
  expect(used.length === 1, () => `${op}: ${used.length} used entries for one head`);
  expect(used[0]!.head === head, () => `${op}: used head ${used[0]!.head}, available was ${head}`);
  check(session, seen, op, { bytes, unique, writable, room, usedBytes: used[0]!.bytes });
}

interface Answer {
  bytes: Buffer;
  unique: bigint;
  writable: readonly Part[];
  room: number;
  usedBytes: number;
}

function check(session: Session, seen: Seen, op: OpName, answer: Answer): void {
  const { usedBytes, room, writable } = answer;
  expect(usedBytes <= room, () => `${op}: used.len ${usedBytes}, room for ${room}`);
  for (const part of writable) {
    const zones = [part.gpa - RED_BYTES, part.gpa + part.bytes];
    const isRed = zones.every((at) => session.ram.bytes(at, RED_BYTES).every((byte) => byte === RED_ZONE));
    expect(isRed, () => `${op}: bytes beside a writable descriptor changed`);
  }
  const isShort = room < OUT_HEADER_BYTES || answer.bytes.length < IN_HEADER_BYTES;
  if (OPS[op].reply === 'none' || isShort) {
    // A FORGET that is malformed may be answered with an error where there is room for one.
    expect(usedBytes === 0 || usedBytes === OUT_HEADER_BYTES, () => `${op}: used.len ${usedBytes}`);
    return;
  }
  const out = Buffer.concat(writable.map((part) => Buffer.from(session.ram.read(part.gpa, part.bytes))));
  const { error, body } = decodeReply(out.subarray(0, usedBytes), usedBytes, answer.unique);
  if (error === 0) seen.learn(op, body);
}

/** A number no opcode has. */
export function unknownOpcodeCase(session: Session, random: Random): void {
  session.resetArena();
  const op = random.pick([0, 7, 19, 54, 55, 100, 4096, 0x7fff_ffff, 0xffff_ffff, random.between(54, 0xffff_ffff)]);
  const bytes = requestBytes(op, session.unique(), 1n, random.bytes(random.below(200)));
  const request = session.take(bytes.length);
  session.ram.write(request, bytes);
  const reply = session.take(256);
  const buffers = [
    { gpa: request, bytes: bytes.length, writable: false },
    { gpa: reply, bytes: 256, writable: true },
  ];
  session.submit([session.chain(buffers, [0, 1], true)]);
  const { used } = session.collect(1);
  expect(used.length === 1, () => `opcode ${op}: ${used.length} used entries`);
  const usedBytes = used[0]!.bytes;
  const out = decodeReply(Buffer.from(session.ram.read(reply, usedBytes)), usedBytes, bytes.readBigUInt64LE(8));
  expect(out.error !== 0, () => `opcode ${op} succeeded`);
}
