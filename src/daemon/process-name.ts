/**
 * pidof and its like compare the first word of a command line (kata-contract 1.3). The kernel puts the interpreter there
 * and its options, so these are taken out of the process's own memory:
 *
 *     /usr/bin/node --option /opt/nydusd virtiofs --sock S   ─►   /opt/nydusd virtiofs --sock S
 */
import { readFileSync } from 'node:fs';
import { copyMemory, fillMemory } from '../sys/io.ts';
import { NativeMemory } from '../sys/native-memory.ts';

/** Number of the field `arg_start` in /proc/self/stat, less the two before the state. */
const ARG_START = 48 - 3;

/** Without effect where /proc does not say what the words are and where. */
export function dropInterpreter(): void {
  let words: Buffer;
  let stat: string;
  try {
    words = readFileSync('/proc/self/cmdline');
    stat = readFileSync('/proc/self/stat', 'latin1');
  } catch {
    return; // no /proc, and so nobody who would look there
  }
  const start = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[ARG_START]);
  let from = 0;
  for (let i = 0; i <= process.execArgv.length; i++) from = words.indexOf(0, from) + 1;
  if (!(start > 0) || from === 0 || from >= words.length) return;
  const kept = words.length - from;
  const memory = new NativeMemory(kept);
  memory.u8.set(words.subarray(from));
  copyMemory(start, memory.address, kept);
  fillMemory(start + kept, 0, from);
  memory.free();
}
