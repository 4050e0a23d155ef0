/** The kinds of file systems that can be mounted: one row each, exhaustive over MemberSpec. */
import type { Logger } from '../common/log.ts';
import { DescriptorBudget, Passthrough, type PassthroughState } from '../passthrough/index.ts';
import { Rafs } from '../rafs/file-system.ts';
import type { WantedChunk } from '../storage/types.ts';
import type { Arena } from '../sys/arena.ts';
import type { Member } from './mounts.ts';
import type { MemberSpec } from './spec.ts';

/** What members get from the thread they live on. */
export interface MemberEnvironment {
  /** Id the member is going to have (`Union.newMemberId`): names its tables. */
  id: number;
  arena: Arena;
  log: Logger;
  /** Asks main for chunks of an open blob; it completes `ticket` with 0 or -errno. */
  fetch: (ticket: number, blobHandle: number, chunks: WantedChunk[], isPartial: boolean) => void;
  /** Descriptors all passthrough members share; the thread's own unless given. */
  budget?: DescriptorBudget;
}

type Factory<S extends MemberSpec> = (spec: S, environment: MemberEnvironment, saved: unknown) => Member;

const MEMBERS: { [K in MemberSpec['kind']]: Factory<Extract<MemberSpec, { kind: K }>> } = {
  passthrough: (spec, { id, arena, log, budget = threadBudget() }, saved) => {
    // Its tables and, in the same process, its descriptors are still there: only the object is new.
    if (saved !== null) return Passthrough.load(saved as PassthroughState, arena, budget);
    const { source, cache, readOnly, xattr } = spec;
    const share = new Passthrough({ source, cache, readOnly, xattr }, { arena, tables: `m${id}`, budget });
    if (!share.actsAsCaller) log.warn(`${source}: new files belong to the daemon's user, for want of privilege`);
    return share;
  },
  // A node is its place in the bootstrap: nothing was saved, nothing is missing.
  rafs: ({ bootstrapPath, kind: _, ...image }, { log, fetch }) =>
    new Rafs({ ...image, label: bootstrapPath, fetch, log }),
};

let budget: DescriptorBudget | null = null;

function threadBudget(): DescriptorBudget {
  budget ??= DescriptorBudget.ofProcess();
  return budget;
}

/**
 * Opens the file system `spec` describes, not yet mounted.
 * @param saved what its `dump` gave, to go on with the tables it has in the arena; null for a new one
 * @throws AppError of its room (SHARE_*, rafs errors, ARENA_*); descriptors in `spec` are the caller's then
 */
export function createMember(spec: MemberSpec, environment: MemberEnvironment, saved: unknown = null): Member {
  const create = MEMBERS[spec.kind] as Factory<MemberSpec>;
  return create(spec, environment, saved);
}
