/** What is counted over all scenarios. */
export interface Counts {
  /** Files or replies with wrong bytes. */
  wrongBytes: number;
  /** Reads that still fail a second after the fault was lifted. */
  sticky: number;
  /** Complete chunks that were fetched again. */
  refetched: number;
  /** Files that got an errno while the fault lasted. */
  errors: number;
  /** From the end of the fault until everything reads right. */
  recoveryMs: number;
}

export const noCounts = (): Counts => ({ wrongBytes: 0, sticky: 0, refetched: 0, errors: 0, recoveryMs: 0 });
