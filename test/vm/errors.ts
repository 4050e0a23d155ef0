/** Errors of the VM harness: each ends a test, so each carries what a reader needs to see why. */
import { defineErrors } from '../../src/common/app-error.ts';

interface Facts {
  VM_PART_MISSING: { part: string; hint: string };
  VM_COMMAND: { command: string; status: number | null; output: string };
  VM_PANIC: { guest: string; line: string; tail: string };
  VM_EXIT: { guest: string; why: string; tail: string };
  VM_TIMEOUT: { guest: string; waitingFor: string; timeoutMs: number; tail: string };
  VM_FRAME: { head: string };
  VM_CASE: { guest: string; name: string; output: string; tail: string };
  VM_QMP: { command: string; answer: string };
  VM_DAEMON: { what: string; log: string };
}

const tailed = (text: string, tail: string) =>
  `${text}\n--- end of the console ---\n${tail}\n--------------------------`;

export const vmError = defineErrors<Facts>({
  VM_PART_MISSING: { retryable: false, say: (f) => `${f.part} is missing; ${f.hint}` },
  VM_COMMAND: { retryable: false, say: (f) => `${f.command} ended with ${f.status}: ${f.output.trim()}` },
  VM_PANIC: { retryable: false, say: (f) => tailed(`${f.guest} guest: ${f.line}`, f.tail) },
  VM_EXIT: { retryable: false, say: (f) => tailed(`${f.guest} guest ended before its script did (${f.why})`, f.tail) },
  VM_TIMEOUT: {
    retryable: false,
    say: (f) => tailed(`${f.guest} guest: no ${f.waitingFor} within ${f.timeoutMs} ms`, f.tail),
  },
  VM_FRAME: { retryable: false, say: (f) => `the guest sent something that is no frame: ${JSON.stringify(f.head)}` },
  VM_CASE: { retryable: false, say: (f) => tailed(`${f.guest} guest, case "${f.name}":\n${f.output.trim()}`, f.tail) },
  VM_QMP: { retryable: false, say: (f) => `QEMU refused ${f.command}: ${f.answer}` },
  VM_DAEMON: { retryable: false, say: (f) => `${f.what}\n--- daemon log ---\n${f.log}` },
});
