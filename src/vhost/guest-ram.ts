/**
 * Guest memory as a frontend makes it: one sealed memfd, any number of regions, sparse until touched.
 */
import { close, ftruncate } from '../sys/io.ts';
import { addSeals, MappedRange, memfdCreate, SEAL } from '../sys/memory.ts';
import type { RegionSpec } from './memory.ts';

interface RamRegion extends RegionSpec {
  range: MappedRange;
  /** First byte not handed out by `alloc`. */
  next: number;
}

export class GuestRam {
  readonly regions: readonly RamRegion[];
  readonly fd: number;

  /**
   * @param layout regions in guest physical memory; sizes and addresses in whole pages
   * @throws RangeError when the memory cannot be made
   */
  constructor(layout: readonly { gpa: number; bytes: number }[]) {
    this.fd = memfdCreate('guest-ram');
    let offset = 0;
    for (const { bytes } of layout) offset += bytes;
    if (this.fd < 0 || ftruncate(this.fd, offset) < 0) throw new RangeError('no memfd for guest memory');
    addSeals(this.fd, SEAL.SHRINK | SEAL.GROW);
    offset = 0;
    this.regions = layout.map(({ gpa, bytes }) => {
      const mapped = MappedRange.map(this.fd, offset, bytes);
      if (typeof mapped === 'number') throw new RangeError(`guest memory: errno ${-mapped}`);
      const region = { gpa, bytes, user: mapped.at, offset, fd: this.fd, range: mapped.range, next: gpa };
      offset += bytes;
      return region;
    });
  }

  #regionOf(gpa: number): RamRegion {
    const region = this.regions.find((r) => gpa >= r.gpa && gpa < r.gpa + r.bytes);
    if (region === undefined) throw new RangeError(`${gpa} is not guest memory`);
    return region;
  }

  /** `bytes` of unused memory of region `index`, aligned: its guest address. Never freed. */
  alloc(bytes: number, align = 16, index = 0): number {
    const region = this.regions[index];
    const gpa = Math.ceil(region.next / align) * align;
    region.next = gpa + bytes;
    if (region.next > region.gpa + region.bytes) throw new RangeError('guest memory is used up');
    return gpa;
  }

  /** Address in this process, which is also what rings are announced with. */
  address(gpa: number): number {
    const region = this.#regionOf(gpa);
    return gpa - region.gpa + region.user;
  }

  /** A view of up to 1 MiB (to the end of a region) at `gpa`. */
  bytes(gpa: number, count: number): Uint8Array {
    const address = this.address(gpa);
    const window = this.#regionOf(gpa).range.window(address);
    return new Uint8Array(window.u8.buffer, address - window.base, count);
  }

  /** Copies in, across region borders where they adjoin. */
  write(gpa: number, data: Uint8Array): void {
    for (let done = 0; done < data.length; ) {
      const part = this.#part(gpa + done, data.length - done);
      this.bytes(gpa + done, part).set(data.subarray(done, done + part));
      done += part;
    }
  }

  /** Copies out, across region borders where they adjoin. */
  read(gpa: number, count: number): Uint8Array {
    const data = new Uint8Array(count);
    for (let done = 0; done < count; ) {
      const part = this.#part(gpa + done, count - done);
      data.set(this.bytes(gpa + done, part), done);
      done += part;
    }
    return data;
  }

  #part(gpa: number, count: number): number {
    const region = this.#regionOf(gpa);
    return Math.min(count, region.gpa + region.bytes - gpa, 2 ** 20);
  }

  /** Unmaps and closes; views of it read zeroes afterwards. */
  free(): void {
    for (const { range } of this.regions) if (range.vacate() === 0) range.release();
    close(this.fd);
  }
}
