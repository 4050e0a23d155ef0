/**
 * What a daemon leaves with its supervisor, as bytes (kata-contract 4.6).
 *
 *     magic 8 │ version u32 │ bytes of the body u32 │ SHA-256 of the body 32 │ body: JSON
 *
 * It holds credentials, since the successor has to open the same images: it goes to the supervisor's socket and nowhere
 * else, no line of a log shows any of it. Whatever is not exactly this is refused before anything is done with it.
 */
import { createHash } from 'node:crypto';
import type { SavedDevice } from '../../virtiofs/control.ts';
import { daemonError } from '../errors.ts';
import type { Settings } from '../image-settings.ts';
import type { MountRequest } from '../mounts.ts';

/** One mount as its client asked for it. */
export interface SavedMount {
  path: string;
  /** Member id, the upper word of its node numbers. */
  member: number;
  request: MountRequest;
  mountedTime: string;
  /** Which file the bootstrap was: node numbers are places in it. */
  identity: string;
  /** What the API changed of the configuration since. */
  changed: Settings;
}

export interface SavedDaemon {
  /** Where the kernel has the file system. */
  mountpoint: string;
  device: SavedDevice;
  mounts: SavedMount[];
}

const MAGIC = Buffer.from('NYDUSTSF');
/** Grows with every change that an older or newer daemon would misread. */
export const STATE_VERSION = 1;
const VERSION_AT = 8;
const LENGTH_AT = 12;
const DIGEST_AT = 16;
const HEAD_BYTES = 48;
/** 4,096 mounts with 16 KiB of configuration each. */
export const STATE_BYTES_MAX = 64 * 1024 * 1024;

/** @throws AppError STATE when a successor would refuse it for its length */
export function encodeState(state: SavedDaemon): Buffer<ArrayBuffer> {
  const arena = Buffer.from(state.device.arena).toString('base64');
  const body = Buffer.from(JSON.stringify({ ...state, device: { ...state.device, arena } }));
  if (HEAD_BYTES + body.length > STATE_BYTES_MAX) {
    throw daemonError('STATE', { reason: `${body.length} bytes are more than a successor reads (${STATE_BYTES_MAX})` });
  }
  const head = Buffer.alloc(HEAD_BYTES);
  MAGIC.copy(head);
  head.writeUInt32LE(STATE_VERSION, VERSION_AT);
  head.writeUInt32LE(body.length, LENGTH_AT);
  digest(body).copy(head, DIGEST_AT);
  return Buffer.concat([head, body]);
}

/** @throws AppError STATE with what is wrong with the bytes */
export function decodeState(bytes: Buffer): SavedDaemon {
  const refuse = (reason: string) => daemonError('STATE', { reason });
  if (bytes.length === 0) throw refuse('the supervisor has none');
  if (!bytes.subarray(0, VERSION_AT).equals(MAGIC)) throw refuse('it was not saved by this nydusd but by another one');
  if (bytes.length < HEAD_BYTES) throw refuse(`it is cut off after ${bytes.length} bytes`);
  const version = bytes.readUInt32LE(VERSION_AT);
  if (version !== STATE_VERSION) throw refuse(`it has version ${version}, this nydusd reads ${STATE_VERSION}`);
  const body = bytes.subarray(HEAD_BYTES);
  const length = bytes.readUInt32LE(LENGTH_AT);
  if (body.length !== length) throw refuse(`it should have ${length} bytes and has ${body.length}`);
  if (!digest(body).equals(bytes.subarray(DIGEST_AT, HEAD_BYTES))) throw refuse('its checksum is wrong');
  const state = JSON.parse(body.toString('utf8')) as Omit<SavedDaemon, 'device'> & {
    device: Omit<SavedDevice, 'arena'> & { arena: string };
  };
  return { ...state, device: { ...state.device, arena: Buffer.from(state.device.arena, 'base64') } };
}

function digest(body: Buffer): Buffer {
  return createHash('sha256').update(body).digest();
}
