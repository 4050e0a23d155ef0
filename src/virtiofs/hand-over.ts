/**
 * Saving what a device thread serves over /dev/fuse, and going on with it in another process (kata-contract 4.6).
 *
 *     saveDevice ──► SavedDevice ──► supervisor ──► SavedDevice, specs filled in by main ──► restoreUnion, restoreSession
 *
 * A save is as old as the last mount or umount, the guest went on since. That costs nothing for images: their nodes and
 * handles are places in the bootstrap, and unanswered requests come again from the kernel. A host directory is held
 * open by descriptors, and only one descriptor travels, that of /dev/fuse: it cannot be handed over.
 */
import { defineErrors } from '../common/app-error.ts';
import type { DevFuse } from '../fuse/dev-fuse.ts';
import { dumpSession, restoreSession } from '../fuse/session-state.ts';
import { dumpArena, loadArena } from '../sys/arena-dump.ts';
import { errnoText } from '../sys/errno.ts';
import { close, dupCloexec } from '../sys/io.ts';
import { createMember, type MemberEnvironment } from '../vfs/members.ts';
import type { Member } from '../vfs/mounts.ts';
import { restoreUnion } from '../vfs/restore.ts';
import type { RafsSpec } from '../vfs/spec.ts';
import type { Union } from '../vfs/union.ts';
import type { SavedDevice } from './control.ts';

/** Numbers (of members, of pseudo directories) that may have been given out after a save: far more than one client mounts between two. */
const LATER_NUMBERS = 65_536;

interface Facts {
  HAND_OVER: { reason: string };
}

const handOverError = defineErrors<Facts>({
  HAND_OVER: { retryable: false, say: ({ reason }) => `this daemon cannot be handed over: ${reason}` },
});

/** @throws HAND_OVER when something is mounted that cannot travel, or the kernel's session has not begun */
export function saveDevice(union: Union, fuse: DevFuse): SavedDevice {
  if (!fuse.session.initialized) throw handOverError('HAND_OVER', { reason: 'the kernel has not sent INIT' });
  const { version, mounts } = union.dump();
  const share = mounts.find(({ spec }) => spec?.kind === 'passthrough');
  if (share !== undefined) {
    const reason = `${share.path} is a host directory, whose open files are descriptors of this process`;
    throw handOverError('HAND_OVER', { reason });
  }
  // A replaced image is served to those who have it open only as long as this process lives.
  const travelling = mounts.filter(({ retired }) => !retired).map((mount) => ({ ...mount, spec: null, saved: null }));
  return {
    session: { ...dumpSession(fuse.session), parked: [] },
    union: { version, mounts: travelling },
    arena: dumpArena(union.arena),
  };
}

export interface RestoredDevice {
  union: Union;
  /** The bootstraps as the union has them open, in the order of the saved mounts; those of the specs are closed. */
  bootstrapFds: number[];
}

/**
 * The union behind `saved`, served by `fuse`, whose session has not begun, from now on. Each saved mount has its spec
 * again, with descriptors of this process, which the union takes over.
 * @throws ARENA_*, UNION_STATE, SESSION_STATE, HAND_OVER, errors of members. Nothing is kept then, the descriptors are the caller's.
 */
export function restoreDevice(
  saved: SavedDevice,
  environment: Omit<MemberEnvironment, 'id' | 'arena'>,
  fuse: DevFuse,
): RestoredDevice {
  const arena = loadArena(saved.arena);
  const bootstrapFds: number[] = [];
  let union: Union | null = null;
  try {
    union = restoreUnion(arena, saved.union, ({ id, path, spec }) => {
      if (spec?.kind !== 'rafs') throw handOverError('HAND_OVER', { reason: `${path} is no image` });
      const { member, bootstrapFd } = restoreImage(spec, { ...environment, id, arena });
      bootstrapFds.push(bootstrapFd);
      return member;
    });
    union.assumeLater(LATER_NUMBERS);
    restoreSession(fuse.session, saved.session);
  } catch (error) {
    union?.destroy();
    arena.close();
    throw error;
  }
  fuse.session.fs = union;
  for (const { spec } of saved.union.mounts) if (spec?.kind === 'rafs') close(spec.bootstrapFd);
  return { union, bootstrapFds };
}

/** With a descriptor of its own: when a later mount fails, all of them are still the caller's. */
function restoreImage(spec: RafsSpec, environment: MemberEnvironment): { member: Member; bootstrapFd: number } {
  const bootstrapFd = dupCloexec(spec.bootstrapFd);
  if (bootstrapFd < 0) throw handOverError('HAND_OVER', { reason: `${spec.bootstrapPath}: ${errnoText(bootstrapFd)}` });
  try {
    return { member: createMember({ ...spec, bootstrapFd }, environment), bootstrapFd };
  } catch (error) {
    close(bootstrapFd);
    throw error;
  }
}
