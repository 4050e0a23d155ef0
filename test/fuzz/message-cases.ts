/**
 * vhost-user messages: each of the table in each state of a session, right and wrong in size, descriptors, flags and
 * content. Oracle: what breaks a rule of the table is refused or ends the connection, what does not is answered or ends
 * it, nothing hangs; afterwards a new session works.
 */

import { close, ftruncate } from '../../src/sys/io.ts';
import { memfdCreate } from '../../src/sys/memory.ts';
import { eventfd, POLL, pollOne } from '../../src/sys/wait.ts';
import { featureSet, hasFeature, intersect, PROTOCOL, VIRTIO } from '../../src/vhost/features.ts';
import {
  Frontend,
  FrontendError,
  features,
  memTable,
  messageBytes,
  readFeatureSet,
  singleRegion,
} from '../../src/vhost/frontend.ts';
import {
  checkMessage,
  FLAG,
  MESSAGES,
  type MessageName,
  type MessageSpec,
  PAYLOAD_BYTES_MAX,
} from '../../src/vhost/messages.ts';
import { expect } from './finding.ts';
import type { Random } from './random.ts';
import { type Guest, Session } from './session.ts';

export const MESSAGE_NAMES = Object.keys(MESSAGES) as MessageName[];
const PROTOCOL_WANTED = featureSet(
  PROTOCOL.MQ,
  PROTOCOL.REPLY_ACK,
  PROTOCOL.CONFIGURE_MEM_SLOTS,
  PROTOCOL.STATUS,
  PROTOCOL.RESET_DEVICE,
  PROTOCOL.CONFIG,
  PROTOCOL.BACKEND_REQ,
);
const MESSAGES_PER_CASE = 6;
/** End of file, or a reset where the backend left bytes of ours unread. */
const HUNG_UP = /hung up|errno 104/;

/** Where a session stands when the message comes. */
type Stage = 'fresh' | 'negotiated' | 'running';

interface Sent {
  name: string;
  id: number;
  flags: number;
  payload: Buffer;
  announced: number;
  fds: number[];
}

function view(bytes: Buffer): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

function index(random: Random): number {
  return random.chance(70) ? random.below(3) : random.pick([3, 8, 63, 64, 65, 255, 256, 1024, random.u32()]);
}

/** A payload as a frontend might send it, or nearly so. */
function payloadOf(name: MessageName, spec: MessageSpec, guest: Guest, random: Random): Buffer {
  const [region] = guest.ram.regions;
  switch (name) {
    case 'SET_MEM_TABLE':
      return Buffer.from(memTable(guest.ram.regions.slice(0, random.below(3)), random.between(2, 8)));
    case 'ADD_MEM_REG':
    case 'REM_MEM_REG':
      return Buffer.from(singleRegion(random.chance(50) ? region! : oddRegion(random)));
    case 'SET_VRING_NUM':
      return state(index(random), random.chance(60) ? 2 ** random.below(17) : random.odd32());
    case 'SET_VRING_BASE':
    case 'GET_VRING_BASE':
      return state(index(random), random.odd32());
    case 'SET_VRING_ENABLE':
      return state(index(random), random.below(3));
    case 'SET_VRING_KICK':
    case 'SET_VRING_CALL':
    case 'SET_VRING_ERR':
      return state(index(random) & 0x1ff, random.chance(95) ? 0 : random.u32());
    case 'SET_FEATURES':
    case 'SET_PROTOCOL_FEATURES':
      return Buffer.from(features({ low: random.chance(50) ? 0 : 1 << random.below(32), high: random.below(3) }));
    default: {
      const [min, max] = spec.bytes;
      return random.bytes(random.chance(80) ? min : random.between(min, Math.min(max, min + 300)));
    }
  }
}

function state(at: number, num: number): Buffer {
  const out = Buffer.alloc(8);
  out.writeUInt32LE(at >>> 0, 0);
  out.writeUInt32LE(num >>> 0, 4);
  return out;
}

function oddRegion(random: Random) {
  const page = 4096;
  const odd = (): number =>
    random.chance(70) ? random.below(64) * page : random.u32() * random.pick([1, page, 2 ** 20]);
  return { gpa: odd(), bytes: odd(), user: odd(), offset: odd(), fd: -1 };
}

/** Descriptors of many kinds; the caller closes them. */
function descriptors(count: number, random: Random, guest: Guest): number[] {
  return Array.from({ length: count }, () => {
    if (random.chance(50)) return eventfd();
    const fd = memfdCreate('fuzz');
    ftruncate(fd, random.pick([0, 1, 4096, 2 ** 20, guest.ram.regions[0]!.bytes]));
    return fd;
  });
}

function make(name: MessageName, guest: Guest, random: Random): Sent {
  const spec: MessageSpec = MESSAGES[name];
  let payload = payloadOf(name, spec, guest, random);
  if (random.chance(15)) payload = random.mutate(payload);
  if (random.chance(8)) payload = payload.subarray(0, random.below(payload.length + 1));
  if (random.chance(8)) payload = Buffer.concat([payload, random.bytes(random.between(1, 64))]);
  payload = payload.subarray(0, PAYLOAD_BYTES_MAX);
  const usual = name === 'SET_MEM_TABLE' && payload.length >= 4 ? Math.min(8, payload.readUInt32LE(0)) : spec.fds[1];
  const count = random.chance(80) ? usual : random.below(40);
  const flags = random.chance(92) ? FLAG.VERSION | (random.chance(60) ? FLAG.NEED_REPLY : 0) : random.odd32();
  const announced = random.chance(95) ? payload.length : random.odd32();
  return { name, id: spec.id, flags, payload, announced, fds: descriptors(count, random, guest) };
}

function broken(sent: Sent, name: MessageName, frontend: Frontend): boolean {
  if ((sent.flags & 3) !== FLAG.VERSION || (sent.flags & FLAG.REPLY) !== 0) return true;
  if (sent.announced !== sent.payload.length) return true;
  const spec: MessageSpec = MESSAGES[name];
  if (spec.needs !== null && !hasFeature(frontend.protocol, PROTOCOL[spec.needs]) && name !== 'ADD_MEM_REG')
    return true;
  return checkMessage(spec, view(sent.payload), sent.payload.length, sent.fds.length) !== null;
}

/** The connection's end within its time. */
function endsWithin(frontend: Frontend, ms: number): boolean {
  try {
    frontend.timeoutMs = ms;
    for (;;) frontend.receive().fds.forEach(close);
  } catch (error) {
    return error instanceof FrontendError && HUNG_UP.test(error.message);
  }
}

function shown({ flags, announced, payload, fds }: Sent): string {
  return `flags ${flags}, ${announced} bytes announced, payload ${payload.toString('hex')}, ${fds.length} descriptors`;
}

type Outcome = 'answered' | 'refused' | 'ended';

/** What the backend does with a message: answers, refuses, or ends the connection. @throws Finding when it does nothing */
function outcome(frontend: Frontend, sent: Sent, answerMs: number): Outcome {
  const spec = MESSAGES[sent.name as MessageName] as MessageSpec;
  if (frontend.sendRaw(messageBytes(sent.id, sent.flags, sent.payload, sent.announced), sent.fds) < 0) return 'ended';
  const acked = hasFeature(frontend.protocol, PROTOCOL.REPLY_ACK) && (sent.flags & FLAG.NEED_REPLY) !== 0;
  const isWhole = sent.announced === sent.payload.length;
  if (!isWhole) return sent.announced > PAYLOAD_BYTES_MAX ? ended() : misaligned();
  // Whether this one is acknowledged depends on what it turns on or off.
  const isEither = sent.name === 'SET_PROTOCOL_FEATURES';
  if (spec.reply === 'regular' || (acked && !isEither)) return answer();
  // Silence is right; a question behind it tells a living connection from a dead one.
  if (frontend.sendRaw(messageBytes(MESSAGES.GET_FEATURES.id, FLAG.VERSION, new Uint8Array(0))) < 0) return 'ended';
  return answer(MESSAGES.GET_FEATURES.id);

  function answer(id = sent.id): Outcome {
    try {
      frontend.timeoutMs = answerMs;
      let reply = frontend.receive();
      if (isEither && reply.id === sent.id) {
        const isRefused = view(Buffer.from(reply.payload)).getUint32(0, true) !== 0;
        reply = frontend.receive();
        if (isRefused) return 'refused';
      }
      reply.fds.forEach(close);
      expect(reply.id === id, () => `${sent.name} answered with message ${reply.id}`);
      const isNack =
        id === sent.id && spec.reply === 'ack' && view(Buffer.from(reply.payload)).getUint32(0, true) !== 0;
      return isNack ? 'refused' : 'answered';
    } catch (error) {
      if (!(error instanceof FrontendError)) throw error;
      expect(HUNG_UP.test(error.message), () => `${sent.name}: ${error.message}`);
      return 'ended';
    }
  }
  /** The rest never comes, or is the beginning of another message: hanging up is ours to do. */
  function misaligned(): Outcome {
    return 'ended';
  }
  function ended(): Outcome {
    expect(endsWithin(frontend, answerMs), () => `${sent.name} with a wrong length did not end the connection`);
    return 'ended';
  }
}

function connect(
  stage: Stage,
  guest: Guest,
  socketPath: string,
  answerMs: number,
): { frontend: Frontend; end(): void } {
  if (stage === 'running') {
    const session = new Session(guest, socketPath, answerMs);
    return { frontend: session.frontend, end: () => session.close() };
  }
  const frontend = Frontend.connect(socketPath);
  frontend.timeoutMs = answerMs;
  if (stage === 'negotiated') {
    frontend.must('SET_OWNER');
    const offered = readFeatureSet(frontend.request('GET_PROTOCOL_FEATURES').payload);
    const protocol = intersect(offered, PROTOCOL_WANTED);
    frontend.must('SET_PROTOCOL_FEATURES', features(protocol));
    frontend.protocol = protocol;
    frontend.must('SET_FEATURES', features(featureSet(VIRTIO.VERSION_1, VIRTIO.PROTOCOL_FEATURES)));
  }
  return { frontend, end: () => frontend.close() };
}

/** A short conversation that begins with `name`; `count` is told of every message sent. */
export function messageCase(
  guest: Guest,
  socketPath: string,
  random: Random,
  first: MessageName,
  answerMs: number,
  count: (name: MessageName) => void,
): void {
  const stage = random.pick<Stage>(['fresh', 'negotiated', 'negotiated', 'running']);
  const { frontend, end } = connect(stage, guest, socketPath, answerMs);
  try {
    for (let i = 0; i < MESSAGES_PER_CASE; i++) {
      const name = i === 0 ? first : random.pick(MESSAGE_NAMES);
      const sent = make(name, guest, random);
      const isBroken = broken(sent, name, frontend);
      const was = frontend.protocol;
      count(name);
      let got: Outcome;
      try {
        got = outcome(frontend, sent, answerMs);
      } finally {
        sent.fds.forEach(close);
      }
      expect(
        !(isBroken && got === 'answered'),
        () => `${name} breaks a rule and was accepted (${stage}): ${shown(sent)}`,
      );
      if (got === 'ended') return;
      if (name === 'SET_PROTOCOL_FEATURES' && got === 'answered') frontend.protocol = readFeatureSet(sent.payload);
      expect(was !== null, () => 'unreachable');
      // Hung on a channel of its own or a ring that started: the connection still answers.
      if (pollOne(frontend.socket, POLL.IN, 0) > 0) return;
    }
  } finally {
    end();
  }
}

/** An id no message has. */
export function unknownMessageCase(socketPath: string, random: Random, answerMs: number): void {
  const frontend = Frontend.connect(socketPath);
  try {
    const id = random.pick([0, 46, 47, 100, 0x7fff_ffff, 0xffff_ffff, random.between(46, 0xffff_ffff)]);
    frontend.sendRaw(messageBytes(id, FLAG.VERSION, random.bytes(random.below(200))));
    expect(endsWithin(frontend, answerMs), () => `message ${id} did not end the connection`);
  } finally {
    frontend.close();
  }
}
