/** What a check found: the broken rule in words, for the log and the error's facts; null when all is well. */
export type Broken = string | null;

/** The rule with the byte of the bootstrap where what breaks it lies. */
export function atByte(offset: number, rule: string): string {
  return `byte ${offset}: ${rule}`;
}
