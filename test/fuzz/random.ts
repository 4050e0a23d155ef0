/** Seeded random numbers: the same cases on every machine. */

/** Values at which length, index and sign checks go wrong. */
const EDGES = [
  0, 1, 7, 8, 15, 16, 40, 255, 256, 4095, 4096, 4097, 65_535, 65_536, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff,
];

export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** The generator of case `index` of a run: independent of what earlier cases drew. */
  static ofCase(seed: number, index: number): Random {
    const mixed = new Random(Math.imul(seed, 0x9e37_79b1) ^ Math.imul(index + 1, 0x85eb_ca6b));
    mixed.u32();
    return mixed;
  }

  u32(): number {
    this.#state = (this.#state + 0x6d2b_79f5) >>> 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (t ^ (t >>> 14)) >>> 0;
  }

  /** 0..end-1 */
  below(end: number): number {
    return Math.floor((this.u32() / 2 ** 32) * end);
  }

  /** from..to, both included */
  between(from: number, to: number): number {
    return from + this.below(to - from + 1);
  }

  /** True in `percent` of 100 cases. */
  chance(percent: number): boolean {
    return this.below(100) < percent;
  }

  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)]!;
  }

  /** A number a parser may stumble over: an edge, something small, anything. */
  odd32(): number {
    const kind = this.below(3);
    return kind === 0 ? this.pick(EDGES) : kind === 1 ? this.below(64) : this.u32();
  }

  odd64(): bigint {
    return this.chance(70) ? BigInt(this.odd32()) : (BigInt(this.odd32()) << 32n) | BigInt(this.odd32());
  }

  bytes(count: number): Buffer {
    const out = Buffer.alloc(count);
    for (let i = 0; i < count; i++) out[i] = this.u32();
    return out;
  }

  /** A copy of `bytes` with a few bits flipped, bytes set, pieces cut or doubled. */
  mutate(bytes: Buffer, from = 0, to = bytes.length): Buffer {
    const mutant = Buffer.from(bytes);
    for (let n = this.between(1, 6); n > 0 && to > from; n--) {
      const at = this.between(from, to - 1);
      const kind = this.below(4);
      if (kind === 0) mutant[at]! ^= 1 << this.below(8);
      else if (kind === 1) mutant[at] = this.u32();
      else if (kind === 2 && at + 4 <= mutant.length) mutant.writeUInt32LE(this.odd32(), at);
      else if (at + 8 <= mutant.length) mutant.writeBigUInt64LE(this.odd64() & 0xffff_ffff_ffff_ffffn, at);
    }
    if (!this.chance(10)) return mutant;
    const cut = this.below(mutant.length + 1);
    return this.chance(50)
      ? mutant.subarray(0, cut)
      : Buffer.concat([mutant.subarray(0, cut), mutant.subarray(cut >> 1)]);
  }
}
