/** Medians and spreads over alternations, and what may be concluded from them. */

/** Value at `part` (0..1) of the sorted `values`. */
export function quantile(values: Float64Array | readonly number[], part: number): number {
  const sorted = Float64Array.from(values).sort();
  if (sorted.length === 0) return Number.NaN;
  const at = (sorted.length - 1) * part;
  const low = Math.floor(at);
  const high = Math.min(low + 1, sorted.length - 1);
  return sorted[low] + (sorted[high] - sorted[low]) * (at - low);
}

export function median(values: Float64Array | readonly number[]): number {
  return quantile(values, 0.5);
}

/** Interquartile range. */
export function spread(values: Float64Array | readonly number[]): number {
  return quantile(values, 0.75) - quantile(values, 0.25);
}

/** Ours against a peer's within each alternation, then the median; `spread` is that of the ratios. */
export interface Ratio {
  ratio: number;
  spread: number;
}

/** @param peer of the first alternations, not always of all */
export function ratioOf(ours: readonly number[], peer: readonly number[]): Ratio {
  const ratios = peer.map((value, i) => ours[i] / value);
  return { ratio: median(ratios), spread: spread(ratios) };
}

/** A difference below the spread of the ratios is a tie. */
export function verdict({ ratio, spread: width }: Ratio): 'below' | 'tie' | 'above' {
  if (Math.abs(ratio - 1) <= width) return 'tie';
  return ratio < 1 ? 'below' : 'above';
}
