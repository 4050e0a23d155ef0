/** What a check found: the broken rule in words, for the log and the error's facts; null when all is well. */
export type Broken = string | null;
