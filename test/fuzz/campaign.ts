/** A run of the fuzzer: which case comes when, what holds after each, and the counts of the report. */
import path from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { OPS } from '../../src/fuse/opcodes.ts';
import { chainCase, DEFECT_NAMES } from './chain-cases.ts';
import { expect, Finding } from './finding.ts';
import { FLIGHT_NAMES, FLIGHTS, open, SPENT, walk } from './flight-cases.ts';
import { FLIP_TARGETS, Flipper, flipCase, nameFlipCase, opcodeFlipCase } from './flips.ts';
import { MESSAGE_NAMES, messageCase, unknownMessageCase } from './message-cases.ts';
import { compareWithModel } from './model.ts';
import { args, type Caller } from './model-guest.ts';
import { ENDS_SESSION, OP_NAMES, opcodeCase, Seen, unknownOpcodeCase } from './opcode-cases.ts';
import { ORDER_NAMES, ORDERS } from './order-cases.ts';
import { PARSER_NAMES, PARSERS } from './parser-cases.ts';
import { Random } from './random.ts';
import { FLIPPED_FILE, Rig } from './rig.ts';
import { ANSWER_MS, Guest, QUEUES, Session } from './session.ts';

export interface CampaignOptions {
  seed: number;
  /** Number of the first case. */
  first: number;
  cases: number;
  seconds: number;
  /** Cases whose kind and subject do not contain this are left out. */
  only: string;
  /** Factor of the times within which answers must come. */
  patience: number;
  print(line: string): void;
}

/** Between two looks at what the daemon holds. */
const BASELINE_CASES = 1000;
const RSS_GROWTH_BYTES_MAX = 8 * 2 ** 20;
/** V8's heaps and malloc's arenas reach their working size in this many rounds of a thousand. */
const WARM_UP_ROUNDS = 15;
/** Sessions are renewed this often even when nothing broke them. */
const SESSION_CASES = 200;
const UNKNOWN = 'unknown';
const NAME_FLIPS = 'names';
const OPCODE_FLIPS = 'opcodes';
const O_RDWR = 2;
/** Cases of 800 requests each: an order that the processor breaks shows once in some 25,000 on a busy machine. */
const WARM_UP_CASES = 100;
const MODEL = 'of a share';
const MODEL_RUNS = 1;

/** One turn: opcodes get half of the cases. Every list is walked in order, so that none of it is left out. */
const TURN = 'OOCMOPRCMOFOOMPOFMODFOXMPOOX';
const KINDS = {
  O: 'opcode',
  C: 'chain',
  M: 'message',
  P: 'parser',
  F: 'flip',
  X: 'flight',
  R: 'order',
  D: 'model',
} as const;
type Kind = (typeof KINDS)[keyof typeof KINDS];

const SUBJECTS: Record<Kind, readonly string[]> = {
  opcode: [...OP_NAMES, UNKNOWN],
  chain: DEFECT_NAMES,
  message: [...MESSAGE_NAMES, UNKNOWN],
  parser: PARSER_NAMES,
  flip: [...FLIP_TARGETS, NAME_FLIPS, OPCODE_FLIPS],
  flight: FLIGHT_NAMES,
  order: ORDER_NAMES,
  model: [MODEL],
};

/** Kind and subject of case `index`: a pure function, so that a case can be repeated by its number. */
export function caseAt(index: number): { kind: Kind; subject: string } {
  const letters = [...TURN];
  const letter = letters[index % TURN.length] as keyof typeof KINDS;
  const perTurn = letters.filter((other) => other === letter).length;
  const before = letters.slice(0, index % TURN.length).filter((other) => other === letter).length;
  const kind = KINDS[letter];
  const subjects = SUBJECTS[kind];
  return { kind, subject: subjects[(Math.floor(index / TURN.length) * perTurn + before) % subjects.length]! };
}

/** Cases after which every subject has had its turn. */
export const CASES_FOR_ALL: number = (() => {
  const seen = new Set<string>();
  const all = Object.values(SUBJECTS).reduce((sum, list) => sum + list.length, 0);
  for (let i = 0; ; i++) {
    const { kind, subject } = caseAt(i);
    if (seen.add(`${kind} ${subject}`).size === all) return i + 1;
  }
})();

export class Campaign {
  readonly counts = new Map<string, number>();
  private readonly guest = new Guest();
  private readonly flipper = new Flipper(this.guest);
  private readonly owners = new Map<bigint, string>();
  private readonly answerMs: number;
  private session: Session | null = null;
  private seen = new Seen(this.owners);
  private sessionCases = 0;
  private index: number;
  /** Cases run. */
  private done = 0;

  private constructor(
    private readonly options: CampaignOptions,
    private readonly rig: Rig,
  ) {
    this.index = options.first;
    this.answerMs = ANSWER_MS * options.patience;
    for (const [kind, subjects] of Object.entries(SUBJECTS)) {
      for (const subject of subjects) this.counts.set(`${kind} ${subject}`, 0);
    }
  }

  static async start(options: CampaignOptions): Promise<Campaign> {
    options.print(`fuzz: seed ${options.seed}, ${CASES_FOR_ALL} cases for one of each`);
    return new Campaign(options, await Rig.start());
  }

  /** @throws Finding */
  async run(): Promise<void> {
    const { first, cases, seconds } = this.options;
    const until = performance.now() + seconds * 1000;
    const from = performance.now();
    await this.warmUp();
    let rounds = 0;
    for (; this.index < first + cases && performance.now() < until; this.index++) {
      const { kind, subject } = caseAt(this.index);
      if (!`${kind} ${subject}`.includes(this.options.only)) continue;
      await this.one();
      if (++this.done % BASELINE_CASES !== 0) continue;
      if (++rounds > WARM_UP_ROUNDS) await this.checkBaseline(from);
      else await this.settle(from);
    }
    this.closeSession();
    this.report(performance.now() - from);
  }

  /** What is opened once and kept (chunk tables, HTTP, io_uring) is open before anything is counted. */
  private async warmUp(): Promise<void> {
    for (const flight of ['cold reads', 'bad digest']) await FLIGHTS[flight]!(this.open(), this.rig, new Random(1));
    this.model(new Random(1));
    const session = this.open();
    const node = walk(session, `/share/${FLIPPED_FILE}`);
    session.call(QUEUES.PROBE, OPS.FSYNC.op, node, args(open(session, node), 0, 0), 0);
    // Compiled code, too: only there does the processor reorder what the sources put in order.
    for (let i = 0; i < WARM_UP_CASES; i++) await ORDERS['interrupt asked for']!(session, this.rig, new Random(i));
    this.closeSession();
    await this.rig.takeBaseline();
  }

  /** Memory still settles; descriptors must be back from the first round on. */
  private async settle(from: number): Promise<void> {
    await this.checkBaseline(from, Number.POSITIVE_INFINITY);
    await this.rig.takeBaseline();
  }

  private async checkBaseline(from: number, growthBytesMax = RSS_GROWTH_BYTES_MAX): Promise<void> {
    this.closeSession();
    const held = await this.rig.assertBaseline(growthBytesMax);
    this.options.print(`${this.done} cases in ${Math.round((performance.now() - from) / 1000)} s: ${held}`);
  }

  private async one(): Promise<void> {
    const { kind, subject } = caseAt(this.index);
    const random = Random.ofCase(this.options.seed, this.index);
    try {
      await this.runCase(kind, subject, random);
      this.count(`${kind} ${subject}`);
    } catch (error) {
      // A dead daemon says more than the connection it lost.
      await nextTurn();
      this.rig.assertAlive();
      throw error;
    }
    this.guest.assertGuard();
    if (this.session !== null) this.session.probe(this.isOver);
    else this.open();
    if (this.isOver || ++this.sessionCases >= SESSION_CASES) this.closeSession();
    this.rig.assertCanary();
    // Lets the daemon's output be read.
    await nextTurn();
  }

  /** The case may have ended the FUSE session or broken its ring. */
  private isOver = false;

  private async runCase(kind: Kind, subject: string, random: Random): Promise<void> {
    this.isOver = false;
    switch (kind) {
      case 'opcode':
        if (subject === UNKNOWN) return unknownOpcodeCase(this.open(), random);
        this.isOver = ENDS_SESSION.has(subject);
        return opcodeCase(this.open(), this.seen, random, subject as (typeof OP_NAMES)[number]);
      case 'chain':
        this.isOver = chainCase(this.open(), random, subject);
        return;
      case 'message': {
        this.closeSession();
        const { guest, answerMs } = this;
        const socket = this.rig.daemon.sock;
        if (subject === UNKNOWN) return unknownMessageCase(socket, random, answerMs);
        const name = subject as (typeof MESSAGE_NAMES)[number];
        let isFirst = true;
        return messageCase(guest, socket, random, name, answerMs, (sent) => {
          if (!isFirst) this.count(`message ${sent}`);
          isFirst = false;
        });
      }
      case 'parser':
        return PARSERS[subject]!(this.rig, this.open(), random);
      case 'flip':
        this.flip(subject, random);
        return;
      case 'flight':
        this.isOver = SPENT.has(subject);
        return FLIGHTS[subject]!(this.open(), this.rig, random);
      case 'order':
        return ORDERS[subject]!(this.open(), this.rig, random);
      case 'model':
        this.model(random);
    }
  }

  private model(random: Random): void {
    const session = this.open();
    const caller: Caller = {
      call: (name, nodeid, body, replyBytes) => {
        const { op, reply } = OPS[name];
        if (reply !== 'none') return session.call(QUEUES.PROBE, op, nodeid, body, replyBytes);
        session.tell(op, nodeid, body);
        return { error: 0, body: Buffer.alloc(0) };
      },
    };
    try {
      const dir = path.join(this.rig.dir, 'model');
      compareWithModel(caller, walk(session, '/model'), dir, { seed: random.u32(), numRuns: MODEL_RUNS });
    } catch (error) {
      throw new Finding((error as Error).message);
    }
  }

  private flip(subject: string, random: Random): void {
    const session = this.open();
    if (subject === NAME_FLIPS) {
      nameFlipCase(session, this.flipper, random, walk(session, '/share'));
    } else if (subject === OPCODE_FLIPS) {
      const node = walk(session, `/share/${FLIPPED_FILE}`);
      opcodeFlipCase(session, this.flipper, random, node, open(session, node, O_RDWR));
    } else {
      this.isOver = true;
      flipCase(session, this.flipper, random, subject as (typeof FLIP_TARGETS)[number]);
    }
  }

  private open(): Session {
    this.session ??= new Session(this.guest, this.rig.daemon.sock, this.answerMs);
    return this.session;
  }

  private closeSession(): void {
    this.session?.close();
    this.session = null;
    this.seen = new Seen(this.owners);
    this.sessionCases = 0;
  }

  private count(what: string): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + 1);
  }

  private report(ms: number): void {
    const { done } = this;
    this.options.print(`${done} cases in ${(ms / 1000).toFixed(1)} s, ${this.flipper.flips} bytes flipped, no finding`);
    for (const [kind, subjects] of Object.entries(SUBJECTS)) {
      if (!kind.includes(this.options.only.split(' ')[0]!)) continue;
      const list = subjects.map((subject) => `${subject} ${this.counts.get(`${kind} ${subject}`)}`);
      this.options.print(`  ${kind}: ${list.join(', ')}`);
    }
    const left = [...this.counts].filter(([, count]) => count === 0).map(([what]) => what);
    const isComplete = done < CASES_FOR_ALL || this.options.only !== '' || left.length === 0;
    expect(isComplete, () => `no case of ${left.join(', ')}`);
  }

  /** The line that repeats the case under way, with the cases that led to it when it needs them. */
  repeatLine(): string {
    const { seed, first } = this.options;
    const { kind, subject } = caseAt(this.index);
    const alone = `npm run fuzz -- --seed ${seed} --first ${this.index} --cases 1`;
    return `${alone}   (${kind} ${subject})\nor with what came before: npm run fuzz -- --seed ${seed} --first ${first} --cases ${this.index - first + 1}`;
  }

  async end(): Promise<void> {
    this.closeSession();
    await this.flipper.end();
    this.rig.end();
  }
}
