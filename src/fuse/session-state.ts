/**
 * A session as plain data, so that another process can go on with it: what INIT agreed on, and the requests that are
 * parked. Inodes, handles and mounts are in the arena of the union below (`src/vfs/restore.ts`).
 *
 * A parked request is saved as its bytes and runs again from the start over there: reads and syncs may run twice. What
 * may not is never parked.
 */
import { type AppError, defineErrors } from '../common/app-error.ts';
import { PARKED_MAX } from './park-table.ts';
import type { Negotiated } from './request.ts';
import type { Session } from './session.ts';
import { STAT } from './stats-layout.ts';

const VERSION = 1;

/** Structured-clonable. */
export interface SessionState {
  version: number;
  negotiated: Negotiated;
  parked: { bytes: Uint8Array; transport: unknown }[];
}

interface Facts {
  SESSION_STATE: { reason: string };
}

const sessionError = defineErrors<Facts>({
  SESSION_STATE: { retryable: false, say: ({ reason }) => `the saved FUSE session cannot be continued: ${reason}` },
});

/** What `restoreSession` needs to go on with `session`. Requests the kernel is still working on are included: they run again. */
export function dumpSession(session: Session): SessionState {
  const parked: SessionState['parked'] = [];
  for (let slot = 0; slot < PARKED_MAX && parked.length < session.parked.count; slot++) {
    if (!session.parked.inUse(slot)) continue;
    parked.push({ bytes: session.parked.savedBytesOf(slot), transport: session.transportOf(slot) });
  }
  return { version: VERSION, negotiated: { ...session.request.negotiated }, parked };
}

/**
 * Goes on with a saved session: `session` is new and its file system already restored. Parked requests run again at once.
 * @returns how many were taken over
 * @throws SESSION_STATE when the state is of another version, or the session is not new
 */
export function restoreSession(session: Session, state: SessionState): number {
  if (state.version !== VERSION) throw refuse(`version ${state.version}, this one is ${VERSION}`);
  if (session.initialized || session.parked.count > 0) throw refuse('the session here has already begun');
  Object.assign(session.request.negotiated, state.negotiated);
  session.stats.values[STAT.initDone] = 1;
  const slots: number[] = [];
  for (const { bytes, transport } of state.parked) {
    const slot = session.parked.adopt(bytes);
    if (slot < 0) throw refuse(`a parked request of ${bytes.length} bytes`);
    if (session.adoptTransport(slot, transport)) slots.push(slot);
    else session.parked.release(slot);
  }
  for (const slot of slots) session.runAdopted(slot);
  return slots.length;
}

function refuse(reason: string): AppError {
  return sessionError('SESSION_STATE', { reason });
}
