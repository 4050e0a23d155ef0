/**
 * The union as data: what goes, besides the arena, to the process that continues it.
 *
 *     this process            arena (descriptor, or dumpArena) ───► Arena.attach / loadArena
 *     union.dump() ─────────► UnionState, structured-clonable  ───► restoreUnion: every member opened on its old tables
 *
 * Nodeids, handles and counts are in the arena; the state only says which member is made of what.
 */
import { defineErrors } from '../common/app-error.ts';
import type { MemberSpec } from './spec.ts';

export const STATE_VERSION = 1;

export interface SavedMount {
  id: number;
  path: string;
  retired: boolean;
  spec: MemberSpec | null;
  /** The member's own `dump`, null when it has none. */
  saved: unknown;
}

export interface UnionState {
  version: number;
  mounts: SavedMount[];
}

interface Facts {
  UNION_STATE: { reason: string };
}

export const unionError = defineErrors<Facts>({
  UNION_STATE: { retryable: false, say: (f) => `saved mounts cannot be used: ${f.reason}` },
});

/** The broken rule of a state that came from outside, or null. */
export function brokenState(state: UnionState): string | null {
  if (typeof state !== 'object' || state === null) return 'not an object';
  if (state.version !== STATE_VERSION) return `version ${state.version}, this one is ${STATE_VERSION}`;
  if (!Array.isArray(state.mounts)) return 'no list of mounts';
  const seen = new Set<number>();
  for (const mount of state.mounts) {
    if (typeof mount !== 'object' || mount === null) return 'a mount that is no object';
    if (!Number.isInteger(mount.id) || mount.id < 1 || mount.id > 0xffff_ffff) return `member id ${mount.id}`;
    if (seen.has(mount.id)) return `member id ${mount.id} twice`;
    if (typeof mount.path !== 'string' || typeof mount.retired !== 'boolean') return `member ${mount.id} has no place`;
    seen.add(mount.id);
  }
  return null;
}
