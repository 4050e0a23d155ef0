/**
 * Which chunks of a file to bring in before its reader comes to them. Looked at only when a read finds chunks missing.
 * A file that fits into one window comes with its first missing chunk: programs map their libraries and touch them from
 * end to end in no order. In a longer one a reader that goes straight on meets its next missing chunk where the last
 * window ended, or near, and gets one twice as long. Never beyond the file, so that nothing is fetched that it does not have.
 */

/** Readers that are told apart; a new one takes the place of the one that came first. */
const STREAMS = 16;
/** The first window, and the longest: at 100 MB/s 80 ms, of which a round trip is a small part. */
const WINDOW_BYTES_MIN = 1 << 20;
const WINDOW_BYTES_MAX = 8 << 20;
/** Chunks in one window: each costs main and device thread some 20 µs. */
const WINDOW_CHUNKS_MAX = 256;
/** Storage's own read-ahead may have carried the reader this far past the window. */
const SLACK_BYTES = 4 << 20;
/** No node: inode numbers start at 1 and no record lies at the first byte. */
const NONE = 0;

export class ReadAhead {
  /** The window found last: chunks `from` to `to`, exclusive. */
  from = 0;
  to = 0;
  private readonly node = new Float64Array(STREAMS).fill(NONE);
  private readonly start = new Float64Array(STREAMS);
  private readonly end = new Float64Array(STREAMS);
  private readonly window = new Float64Array(STREAMS);
  private oldest = 0;

  constructor(private readonly chunkSize: number) {}

  /**
   * A read of `node` misses its chunk `first`, and gets those up to `end`, exclusive.
   * @param chunks of the whole file
   * @returns true when `from` and `to` name chunks to bring in behind them
   */
  missed(node: number, first: number, end: number, chunks: number): boolean {
    const stream = this.node.indexOf(node);
    const isShort = chunks <= Math.min(WINDOW_CHUNKS_MAX, WINDOW_BYTES_MAX / this.chunkSize);
    if (stream < 0) {
      this.from = isShort ? 0 : first;
      this.to = isShort ? chunks : end;
      this.begin(this.oldest, node, this.from, this.to);
      this.oldest = (this.oldest + 1) % STREAMS;
      return isShort;
    }
    if (isShort) return false;
    const middle = (this.start[stream] + this.end[stream]) / 2;
    const isOnItsWay = first >= this.start[stream] && first < middle;
    if (isOnItsWay) return false;
    if (first < middle || first > this.end[stream] + SLACK_BYTES / this.chunkSize) {
      this.begin(stream, node, first, end);
      return false;
    }
    this.window[stream] = Math.min(WINDOW_BYTES_MAX, Math.max(WINDOW_BYTES_MIN, this.window[stream] * 2));
    const count = Math.min(WINDOW_CHUNKS_MAX, Math.ceil(this.window[stream] / this.chunkSize));
    this.from = Math.max(end, this.end[stream]);
    this.to = Math.min(chunks, this.from + count);
    this.start[stream] = first;
    this.end[stream] = Math.max(end, this.to);
    return this.from < this.to;
  }

  private begin(stream: number, node: number, first: number, end: number): void {
    this.node[stream] = node;
    this.start[stream] = first;
    this.end[stream] = end;
    this.window[stream] = 0;
  }
}
