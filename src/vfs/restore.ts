/** Making a union again from its arena and its state; the picture is in state.ts. */
import type { Arena } from '../sys/arena.ts';
import type { Member } from './mounts.ts';
import { brokenState, type SavedMount, type UnionState, unionError } from './state.ts';
import { Union } from './union.ts';

/**
 * A union that goes on where the one behind `state` stopped. Tables of members the state does not name are left to
 * nobody: their mounts are dropped, as if unmounted.
 * @param arena that union's own, attached or loaded
 * @param open makes the member of a saved mount (`createMember` with `mount.saved`)
 * @throws UNION_STATE when state and arena do not fit; what `open` throws. Members opened so far are destroyed then.
 */
export function restoreUnion(arena: Arena, state: UnionState, open: (mount: SavedMount) => Member): Union {
  const reason = brokenState(state);
  if (reason !== null) throw unionError('UNION_STATE', { reason });
  const union = new Union(arena);
  try {
    for (const mount of state.mounts) {
      const member = open(mount);
      if (union.adopt(mount, member)) continue;
      member.destroy();
      throw unionError('UNION_STATE', { reason: `the tables have no member ${mount.id} at ${mount.path}` });
    }
  } catch (error) {
    union.destroy();
    throw error;
  }
  union.dropOrphans();
  return union;
}
