/**
 * Descriptor chains with one defect each: the rows of protocols 2.5, with the reaction named there. Row 13 (a head twice)
 * and row 19 (a region removed) need requests in flight: see `flight-cases.ts`; rows 14 and 15 need the flipper.
 */
import { DESC, DESC_BYTES } from '../../src/vhost/split.ts';
import { expect } from './finding.ts';
import { heads } from './opcode-cases.ts';
import type { Random } from './random.ts';
import { GUARD_GPA, QUEUE_SIZE, RAM_BYTES, RAM_GPA, requestBytes, type Session } from './session.ts';

/** `break`: the ring is declared broken; `zero`: the head comes back with 0 bytes; `ok`: a good answer. */
type Reaction = 'break' | 'zero' | 'ok';

interface Defect {
  row: string;
  reaction: Reaction;
  /** Puts the chain on the ring; returns the heads made available. */
  build(session: Session, random: Random): number[];
}

const GETATTR = 3;
const REPLY_BYTES = 120;
const GETATTR_BYTES = 56;

function getattr(session: Session): number {
  const gpa = session.take(GETATTR_BYTES, 8);
  session.ram.write(gpa, requestBytes(GETATTR, session.unique(), 1n, Buffer.alloc(16)));
  return gpa;
}

/** A good request of two descriptors. */
function good(session: Session, at: readonly number[], indirect = false): number {
  return session.chain(
    [
      { gpa: getattr(session), bytes: GETATTR_BYTES, writable: false },
      { gpa: session.take(REPLY_BYTES, 8), bytes: REPLY_BYTES, writable: true },
    ],
    at,
    indirect,
  );
}

/** A request whose indirect descriptor is written by hand. */
function indirect(session: Session, bytes: number, flags: number, table: number): number[] {
  session.ring.setDescriptor(0, table, bytes, flags, 1);
  session.ring.setDescriptor(1, session.take(REPLY_BYTES), REPLY_BYTES, DESC.WRITE, 0);
  return [0];
}

/** A chain of a good request and one more descriptor. */
function withRange(session: Session, gpa: number, bytes: number, writable: boolean): number[] {
  session.ring.setDescriptor(0, getattr(session), GETATTR_BYTES, DESC.NEXT, 1);
  session.ring.setDescriptor(1, gpa, bytes, writable ? DESC.WRITE : 0, 0);
  return [0];
}

export const DEFECTS: Record<string, Defect> = {
  'avail.idx jumps': {
    row: '1',
    reaction: 'break',
    build: (session, random) => {
      session.ring.forceAvailIdx(session.ring.availIdx + QUEUE_SIZE + random.between(1, 60_000 - QUEUE_SIZE));
      return [];
    },
  },
  'head outside the table': {
    row: '2',
    reaction: 'break',
    build: (_, random) => [random.between(QUEUE_SIZE, 65_535)],
  },
  loop: {
    row: '3',
    reaction: 'break',
    build: (session, random) => {
      const ring = heads(random, random.between(1, 8));
      for (const [i, at] of ring.entries()) {
        session.ring.setDescriptor(at, getattr(session), GETATTR_BYTES, DESC.NEXT, ring[(i + 1) % ring.length]!);
      }
      return [ring[0]!];
    },
  },
  'next outside the table': {
    row: '4',
    reaction: 'zero',
    build: (session, random) => {
      session.ring.setDescriptor(3, getattr(session), GETATTR_BYTES, DESC.NEXT, random.between(QUEUE_SIZE, 65_535));
      return [3];
    },
  },
  'next outside an indirect table': {
    row: '4',
    reaction: 'zero',
    build: (session, random) => {
      const table = session.take(2 * DESC_BYTES, 16);
      session.ring.setIndirect(table, 0, getattr(session), GETATTR_BYTES, DESC.NEXT, random.between(2, 65_535));
      return indirect(session, 2 * DESC_BYTES, DESC.INDIRECT, table);
    },
  },
  'indirect inside indirect': {
    row: '5',
    reaction: 'zero',
    build: (session) => {
      const table = session.take(2 * DESC_BYTES, 16);
      session.ring.setIndirect(table, 0, table, 2 * DESC_BYTES, DESC.INDIRECT, 0);
      return indirect(session, 2 * DESC_BYTES, DESC.INDIRECT, table);
    },
  },
  'indirect and next': {
    row: '6',
    reaction: 'zero',
    build: (session) => indirect(session, DESC_BYTES, DESC.INDIRECT | DESC.NEXT, session.take(DESC_BYTES, 16)),
  },
  'indirect of a bad length': {
    row: '7',
    reaction: 'zero',
    build: (session, random) => {
      const bytes = random.pick([
        0,
        1,
        15,
        17,
        32_769 * 16,
        0xffff_fff0,
        16 * random.between(1, 9) + random.between(1, 15),
      ]);
      return indirect(session, bytes, DESC.INDIRECT, session.take(DESC_BYTES, 16));
    },
  },
  'indirect table outside memory': {
    row: '8',
    reaction: 'zero',
    build: (session, random) =>
      indirect(
        session,
        4 * DESC_BYTES,
        DESC.INDIRECT,
        random.pick([0, RAM_GPA - 16, RAM_GPA + RAM_BYTES - 32, 2 ** 40]),
      ),
  },
  'loop in an indirect table': {
    row: '3',
    reaction: 'zero',
    build: (session) => {
      const table = session.take(2 * DESC_BYTES, 16);
      for (const i of [0, 1]) session.ring.setIndirect(table, i, getattr(session), GETATTR_BYTES, DESC.NEXT, 1 - i);
      return indirect(session, 2 * DESC_BYTES, DESC.INDIRECT, table);
    },
  },
  'readable after writable': {
    row: '9',
    reaction: 'zero',
    build: (session) => {
      session.ring.setDescriptor(0, getattr(session), GETATTR_BYTES, DESC.NEXT, 1);
      session.ring.setDescriptor(1, session.take(REPLY_BYTES), REPLY_BYTES, DESC.NEXT | DESC.WRITE, 2);
      session.ring.setDescriptor(2, session.take(16), 16, 0, 0);
      return [0];
    },
  },
  'reply outside memory': {
    row: '10',
    reaction: 'zero',
    build: (session, random) => {
      const end = RAM_GPA + RAM_BYTES;
      const gpa = random.pick([
        0,
        RAM_GPA - REPLY_BYTES,
        end - random.between(1, REPLY_BYTES - 1),
        end,
        2 ** 45,
        GUARD_GPA - 8,
      ]);
      return withRange(session, gpa, REPLY_BYTES, true);
    },
  },
  'request outside memory': {
    row: '10',
    reaction: 'zero',
    build: (session, random) => {
      const end = RAM_GPA + RAM_BYTES;
      const gpa = random.pick([0, RAM_GPA - 8, end - random.between(1, 63), end, 2 ** 52]);
      session.ring.setDescriptor(0, gpa, 64, DESC.NEXT, 1);
      session.ring.setDescriptor(1, session.take(REPLY_BYTES), REPLY_BYTES, DESC.WRITE, 0);
      return [0];
    },
  },
  'address and length overflow': {
    row: '10',
    reaction: 'zero',
    build: (session, random) => {
      const low = random.between(0xffff_0000, 0xffff_ffff);
      const table = session.take(2 * DESC_BYTES, 16);
      session.ring.setIndirect(table, 0, getattr(session), GETATTR_BYTES, DESC.NEXT, 1);
      const words = new Uint32Array([low, 0xffff_ffff, 0x1_0000 + random.below(1000), DESC.WRITE]);
      session.ram.write(table + DESC_BYTES, new Uint8Array(words.buffer));
      return indirect(session, 2 * DESC_BYTES, DESC.INDIRECT, table);
    },
  },
  'descriptors of length 0': {
    row: '11',
    reaction: 'ok',
    build: (session) => {
      const empty = (writable: boolean) => ({ gpa: session.take(16), bytes: 0, writable });
      const request = { gpa: getattr(session), bytes: GETATTR_BYTES, writable: false };
      const reply = { gpa: session.take(REPLY_BYTES, 8), bytes: REPLY_BYTES, writable: true };
      return [session.chain([empty(false), request, empty(false), empty(true), reply, empty(true)], [0], true)];
    },
  },
  'too many bytes': {
    row: '12',
    reaction: 'zero',
    build: (session) => {
      const whole = { gpa: RAM_GPA, bytes: RAM_BYTES, writable: false };
      const request = { gpa: getattr(session), bytes: GETATTR_BYTES, writable: false };
      return [session.chain([request, whole, whole, whole], [0], true)];
    },
  },
  'no reply part': {
    row: '16',
    reaction: 'zero',
    build: (session) => {
      session.ring.setDescriptor(0, getattr(session), GETATTR_BYTES, 0, 0);
      return [0];
    },
  },
  'reply part below 16 bytes': {
    row: '17',
    reaction: 'zero',
    build: (session, random) => withRange(session, session.take(16), random.between(1, 15), true),
  },
  'request below 40 bytes': {
    row: '15',
    reaction: 'zero',
    build: (session, random) => {
      session.ring.setDescriptor(0, getattr(session), random.between(1, 39), DESC.NEXT, 1);
      session.ring.setDescriptor(1, session.take(REPLY_BYTES), REPLY_BYTES, DESC.WRITE, 0);
      return [0];
    },
  },
  'full ring': {
    row: '18',
    reaction: 'ok',
    build: (session) => Array.from({ length: QUEUE_SIZE }, (_, i) => good(session, [i], true)),
  },
};

export type DefectName = keyof typeof DEFECTS;
export const DEFECT_NAMES = Object.keys(DEFECTS);

/** Runs one defect. True: the ring is broken, as it has to be, and the session is spent. */
export function chainCase(session: Session, random: Random, name: string): boolean {
  const defect = DEFECTS[name]!;
  session.resetArena();
  const made = defect.build(session, random);
  session.submit(made);
  const count = defect.reaction === 'break' ? Number.POSITIVE_INFINITY : made.length;
  const { used, broken } = session.collect(count);
  if (defect.reaction === 'break') {
    expect(broken, () => `row ${defect.row}: the ring was not declared broken; used ${JSON.stringify(used)}`);
    expect(used.length === 0, () => `row ${defect.row}: heads of a broken ring were used: ${JSON.stringify(used)}`);
    return true;
  }
  expect(!broken, () => `row ${defect.row}: the ring was declared broken`);
  const sorted = used.map(({ head }) => head).sort((a, b) => a - b);
  const isOnce = JSON.stringify(sorted) === JSON.stringify([...made].sort((a, b) => a - b));
  expect(isOnce, () => `row ${defect.row}: heads ${made.join()} available, used ${sorted.join()}`);
  for (const { bytes } of used) {
    const wanted = defect.reaction === 'zero' ? 0 : REPLY_BYTES;
    expect(bytes === wanted, () => `row ${defect.row}: used.len ${bytes} instead of ${wanted}`);
  }
  return false;
}
