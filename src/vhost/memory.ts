/**
 * Guest memory: the regions a frontend shares, and the translation of guest addresses to raw addresses (protocols 1.4,
 * 1.16, 2.5 rows 10, 19 and 20).
 *
 *     guest physical    |--- region 0 ---|      |--- region 1 ---|--- region 2 ---|
 *                              │ address(gpa, bytes)
 *     our addresses     |--- mapping ---|    (windows of 1 GiB inside, see sys/memory.ts)
 *
 * Regions come and go while requests run. What is given to the kernel with guest addresses holds a pin; a removed
 * region turns into anonymous zeroes at once, and its addresses are used again only after the last older pin is gone.
 * JavaScript may keep a `Window` of a removed region: it sees those zeroes.
 */
import { errnoText } from '../sys/errno.ts';
import { fileSizeBytes, MADV, MappedRange, madvise, NO_WINDOW, WINDOW_STEP_BYTES, type Window } from '../sys/memory.ts';
import { type Broken, MEM_SLOTS_MAX } from './messages.ts';

/** One region as the frontend describes it; all numbers are whole and below 2^53. */
export interface RegionSpec {
  gpa: number;
  bytes: number;
  /** The frontend's own virtual address: ring addresses are given in these. */
  user: number;
  /** Offset in the file behind `fd`. */
  offset: number;
  /** Stays the caller's; the mapping does not need it. */
  fd: number;
}

interface Region extends RegionSpec {
  at: number;
  range: MappedRange;
}

/** Removed ranges, and how many pins of the time before their removal are left. */
interface Retired {
  epoch: number;
  pins: number;
  ranges: MappedRange[];
}

const TABLE_STRIDE = 3;

export class GuestMemory {
  #regions: Region[] = [];
  /** Per region, sorted: first gpa, gpa behind the last byte, first address. Read by the chain walker. */
  readonly table = new Float64Array(MEM_SLOTS_MAX * TABLE_STRIDE);
  #count = 0;
  #last = 0;
  #window: Window = NO_WINDOW;
  readonly #wanted = new Float64Array(1);
  #epoch = 0;
  #pins = 0;
  #retired: Retired[] = [];

  /** Regions mapped now. */
  get regionCount(): number {
    return this.#count;
  }

  /** Bytes of guest memory mapped now. */
  get totalBytes(): number {
    return this.#regions.reduce((sum, region) => sum + region.bytes, 0);
  }

  /**
   * Raw address of `bytes` >= 1 bytes of guest memory at `gpa`; 0 when they are not wholly inside one region. Ranges that
   * cross into an adjacent region are split by the caller with `bytesFrom`.
   */
  address(gpa: number, bytes: number): number {
    const table = this.table;
    let at = this.#last;
    if (!(gpa >= table[at] && gpa < table[at + 1])) {
      this.#wanted[0] = gpa;
      at = this.locate(this.#wanted, 0);
      if (at < 0) return 0;
      this.#last = at;
    }
    return gpa + bytes <= table[at + 1] ? gpa - table[at] + table[at + 2] : 0;
  }

  /** Bytes from `gpa` to the end of its region, 0 outside every region. */
  bytesFrom(gpa: number): number {
    this.#wanted[0] = gpa;
    const at = this.locate(this.#wanted, 0);
    return at < 0 ? 0 : this.table[at + 1] - gpa;
  }

  /** Position in `table` of the region that holds the guest address `gpas[i]`, -1 when none does. */
  locate(gpas: Float64Array, i: number): number {
    const gpa = gpas[i];
    const table = this.table;
    let low = 0;
    let high = this.#count - 1;
    while (low <= high) {
      const middle = (low + high) >>> 1;
      const at = middle * TABLE_STRIDE;
      if (gpa >= table[at + 1]) low = middle + 1;
      else if (gpa >= table[at]) return at;
      else high = middle - 1;
    }
    return -1;
  }

  /** Raw address of a range given in the frontend's virtual addresses (ring parts), 0 when not inside one region. */
  userAddress(user: number, bytes: number): number {
    for (const region of this.#regions) {
      if (user >= region.user && user + bytes <= region.user + region.bytes) return user - region.user + region.at;
    }
    return 0;
  }

  /**
   * Typed views that hold the byte at `address` and, unless the region ends before, 1 MiB from there on. `address` comes
   * from `address()`; a view stays usable until the memory table changes.
   */
  window(address: number): Window {
    this.#wanted[0] = address;
    return this.windowAt(this.#wanted, 0);
  }

  /**
   * `window(addresses[i])`. For request paths: a number above 2^31 passed to a function that is not inlined becomes 16
   * bytes of garbage, a position in an array does not. The same goes for `locate`.
   */
  windowAt(addresses: Float64Array, i: number): Window {
    const address = addresses[i];
    const window = this.#window;
    if (address >= window.base && address < window.reach) return window;
    this.#wanted[0] = address;
    return this.#openWindow();
  }

  #openWindow(): Window {
    const address = this.#wanted[0];
    for (let i = 0; i < this.#count; i++) {
      const range = this.#regions[i].range;
      const offset = address - range.address;
      if (offset < 0 || offset >= range.bytes) continue;
      this.#window = range.windowAt(Math.floor(offset / WINDOW_STEP_BYTES));
      return this.#window;
    }
    throw new RangeError(`address ${address} is not guest memory`);
  }

  /** Holds all addresses handed out so far. The result goes to `unpin` once, when no system call uses them any more. */
  pin(): number {
    this.#pins++;
    return this.#epoch;
  }

  /** True while no region has gone since `pin`: what was written to addresses of that time is in guest memory. */
  isCurrent(pin: number): boolean {
    return pin === this.#epoch;
  }

  unpin(pin: number): void {
    if (pin === this.#epoch) this.#pins--;
    else this.#unpinRetired(pin);
  }

  #unpinRetired(pin: number): void {
    const retired = this.#retired.find((entry) => entry.epoch === pin);
    if (retired === undefined || retired.pins === 0) throw new RangeError(`pin ${pin} is not held`);
    retired.pins--;
    this.#releaseUnpinned();
  }

  #releaseUnpinned(): void {
    while (this.#retired.length > 0 && this.#retired[0].pins === 0) {
      for (const range of this.#retired.shift()?.ranges ?? []) range.release();
    }
  }

  /** Maps one more region (ADD_MEM_REG). The broken rule, or null when it is mapped. */
  add(spec: RegionSpec): Broken {
    const mapped = mapRegion(spec, this.#regions);
    if (typeof mapped === 'string') return mapped;
    this.#regions.push(mapped);
    this.#index();
    return null;
  }

  /** Unmaps the region with exactly this place and size (REM_MEM_REG). */
  remove(gpa: number, bytes: number, user: number): Broken {
    const at = this.#regions.findIndex((r) => r.gpa === gpa && r.bytes === bytes && r.user === user);
    if (at < 0) return 'no such region';
    const [region] = this.#regions.splice(at, 1);
    this.#index();
    this.#retire([region]);
    return null;
  }

  /** Replaces all regions (SET_MEM_TABLE). When a rule is broken nothing changes. */
  replace(specs: readonly RegionSpec[]): Broken {
    const fresh: Region[] = [];
    for (const spec of specs) {
      const mapped = mapRegion(spec, fresh);
      if (typeof mapped === 'string') {
        for (const { range } of fresh) if (range.vacate() === 0) range.release();
        return mapped;
      }
      fresh.push(mapped);
    }
    const old = this.#regions;
    this.#regions = fresh;
    this.#index();
    this.#retire(old);
    return null;
  }

  /** Removes everything: the frontend is gone. */
  clear(): void {
    this.replace([]);
  }

  #retire(regions: readonly Region[]): void {
    const ranges: MappedRange[] = [];
    // A range that cannot be overmapped (no mapping left to the process) is given up: leaked, never reused.
    for (const { range } of regions) if (range.vacate() === 0) ranges.push(range);
    this.#retired.push({ epoch: this.#epoch, pins: this.#pins, ranges });
    this.#epoch++;
    this.#pins = 0;
    this.#releaseUnpinned();
  }

  #index(): void {
    this.#regions.sort((a, b) => a.gpa - b.gpa);
    this.#count = this.#regions.length;
    this.table.fill(0);
    for (const [i, region] of this.#regions.entries()) {
      this.table[i * TABLE_STRIDE] = region.gpa;
      this.table[i * TABLE_STRIDE + 1] = region.gpa + region.bytes;
      this.table[i * TABLE_STRIDE + 2] = region.at;
    }
    this.#last = 0;
    this.#window = NO_WINDOW;
  }
}

function overlap(startA: number, startB: number, bytesA: number, bytesB: number): boolean {
  return startA < startB + bytesB && startB < startA + bytesA;
}

/** Checks a region against its neighbours and its file, then maps it. The broken rule instead when there is one. */
function mapRegion(spec: RegionSpec, others: readonly Region[]): Region | string {
  if (others.length >= MEM_SLOTS_MAX) return `more than ${MEM_SLOTS_MAX} regions`;
  for (const other of others) {
    if (overlap(spec.gpa, other.gpa, spec.bytes, other.bytes)) return 'region overlaps another one in guest memory';
    if (overlap(spec.user, other.user, spec.bytes, other.bytes)) return 'region overlaps another one in user addresses';
  }
  const sizeBytes = fileSizeBytes(spec.fd);
  if (sizeBytes < 0) return `region file: ${errnoText(sizeBytes)}`;
  if (sizeBytes < spec.offset + spec.bytes) return `region file of ${sizeBytes} bytes ends before the region`;
  const mapped = MappedRange.map(spec.fd, spec.offset, spec.bytes);
  if (typeof mapped === 'number') return `region cannot be mapped: ${errnoText(mapped)}`;
  // Guest memory has no place in a core file of this process.
  madvise(mapped.range.address, mapped.range.bytes, MADV.DONTDUMP);
  return { ...spec, at: mapped.at, range: mapped.range };
}
