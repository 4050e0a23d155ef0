/** Test set-up shared by this room: a frontend and an echo device of one thread, joined by a socket pair. */
import { readFileSync } from 'node:fs';
import { close } from '../sys/io.ts';
import { SOCK, socketpair } from '../sys/socket.ts';
import type { BackendOptions } from './backend-owner.ts';
import { DriverRing } from './driver-ring.ts';
import { ECHO_OPTIONS, EchoDevice } from './echo-device.ts';
import { type FeatureSet, featureSet, PROTOCOL, VIRTIO } from './features.ts';
import { Frontend } from './frontend.ts';
import { GuestRam } from './guest-ram.ts';

export const ALL_VIRTIO = featureSet(
  VIRTIO.INDIRECT_DESC,
  VIRTIO.EVENT_IDX,
  VIRTIO.PROTOCOL_FEATURES,
  VIRTIO.VERSION_1,
);
export const ALL_PROTOCOL = featureSet(...Object.values(PROTOCOL));
export const MIB = 2 ** 20;

export interface Joined {
  frontend: Frontend;
  device: EchoDevice;
  /** Lets the device do all it can without waiting. */
  pump: () => void;
  end: () => void;
}

/** A frontend and a device that have not exchanged a byte. */
export function join(options: Partial<BackendOptions> = {}): Joined {
  const ends = new Int32Array(2);
  if (socketpair(SOCK.STREAM, ends) !== 0) throw new RangeError('socketpair');
  const frontend = new Frontend(ends[0]);
  const device = new EchoDevice(ends[1], { ...ECHO_OPTIONS, ...options });
  const pump = (): void => {
    if (device.backend.open) device.turn(0);
  };
  frontend.pump = pump;
  const end = (): void => {
    frontend.close();
    pump();
    if (device.backend.open) throw new Error('the device did not notice the hang-up');
    device.free();
  };
  return { frontend, device, pump, end };
}

export interface Running extends Joined {
  ram: GuestRam;
  rings: DriverRing[];
}

export interface RunningOptions extends Partial<BackendOptions> {
  layout?: readonly { gpa: number; bytes: number }[];
  sizes?: readonly number[];
  virtio?: FeatureSet;
  protocol?: FeatureSet;
  base?: number;
}

/** Negotiated, memory shared, rings started and enabled. */
export function running(options: RunningOptions = {}): Running {
  const joined = join(options);
  const virtio = options.virtio ?? ALL_VIRTIO;
  joined.frontend.negotiate(virtio, options.protocol ?? ALL_PROTOCOL);
  const ram = new GuestRam(options.layout ?? [{ gpa: 0, bytes: 64 * MIB }]);
  joined.frontend.shareMemory(ram);
  const base = options.base ?? 0;
  const rings = (options.sizes ?? [16, 64]).map((size) => new DriverRing(ram, size, { base }));
  const withEnable = ((joined.frontend.features.low >>> VIRTIO.PROTOCOL_FEATURES) & 1) === 1;
  for (const [i, ring] of rings.entries()) {
    ring.eventIdx = ((joined.frontend.features.low >>> VIRTIO.EVENT_IDX) & 1) === 1;
    joined.frontend.startRing(i, ring, base, withEnable);
  }
  const end = (): void => {
    joined.end();
    for (const ring of rings) ring.close();
    ram.free();
  };
  return { ...joined, ram, rings, end };
}

/** Sends `data` through `ring` and returns what came back. */
export function echo(run: Running, ring: DriverRing, data: Uint8Array, indirect = true): Uint8Array {
  const from = run.ram.alloc(data.length);
  const to = run.ram.alloc(data.length);
  run.ram.write(from, data);
  const chain = [
    { gpa: from, bytes: data.length, writable: false },
    { gpa: to, bytes: data.length, writable: true },
  ];
  const head = indirect ? ring.addIndirect(chain) : ring.addDirect(chain);
  ring.submit();
  const used = ring.waitUsed(1000, run.pump);
  if (used !== head) throw new Error(`head ${used} came back, not ${head}`);
  return run.ram.read(to, ring.usedBytes);
}

export const mapCount = (): number => readFileSync('/proc/self/maps', 'utf8').split('\n').length;

/** Closes both ends of what `pipe` or `socketpair` made. */
export function closeAll(fds: Iterable<number>): void {
  for (const fd of fds) close(fd);
}
