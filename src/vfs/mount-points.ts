/**
 * Mounting and unmounting, and the way from a nodeid to its member. `Union` puts the file system on top.
 *
 * Called on the device thread between requests, never from within one: ending a member answers its parked requests,
 * and there is only one Request object to answer them with.
 */
import type { Request } from '../fuse/request.ts';
import { IN_HEADER } from '../fuse/wire/layout.ts';
import type { Arena } from '../sys/arena.ts';
import { errno } from '../sys/errno.ts';
import { type Member, type Mounted, Mounts, unmounted } from './mounts.ts';
import { PSEUDO, ROOT_LOCAL } from './node-ids.ts';
import { PseudoFs } from './pseudo-fs.ts';
import { joinPath, PseudoTree, splitPath } from './pseudo-tree.ts';
import { Refusing } from './refusing.ts';
import { BARE, RootHandles } from './root-handles.ts';
import type { MemberSpec } from './spec.ts';
import { type SavedMount, STATE_VERSION, type UnionState } from './state.ts';

/** No guest gives back as many lookups. */
const LOOKUPS_UNKNOWN = 2 ** 52;

/** One line of `list()`. */
export interface MountInfo {
  id: number;
  path: string;
  kind: string;
  /** Replaced by a remount; it goes when the guest has given everything back. */
  retired: boolean;
  lookups: number;
  handles: number;
}

export class MountPoints {
  /**
   * Called when a member is gone, before its descriptors are closed: the transport answers the requests parked there
   * (`failParkedOf(memberId, -ESTALE)`), so that an unmount never waits for a dead registry.
   */
  onMemberGone: (memberId: number) => void = () => {};

  protected readonly tree: PseudoTree;
  protected readonly pseudo: PseudoFs;
  protected readonly mounts: Mounts;
  protected readonly rootHandles: RootHandles;
  /** The member on "/", which answers for nodeid 1. */
  protected rootMember: Mounted | null = null;
  readonly #pseudoRoute: Mounted;
  readonly #staleRoute: Mounted;
  /** The member of the last request: the next one is mostly for the same. */
  #recent: Mounted;
  #retiredCount = 0;

  /** Opens the pseudo directories and the mount table kept in `arena`. @throws ARENA_* of src/sys/arena.ts */
  constructor(readonly arena: Arena) {
    this.tree = new PseudoTree(arena);
    this.pseudo = new PseudoFs(this.tree);
    this.mounts = new Mounts(arena);
    this.rootHandles = new RootHandles(arena);
    this.#pseudoRoute = unmounted(this.pseudo);
    this.#staleRoute = unmounted(new Refusing(-errno.ESTALE));
    this.#recent = this.#staleRoute;
  }

  /** An id for the next member, for tables it makes before it is mounted. 0: 2^32 members were mounted; no more fit. */
  newMemberId(): number {
    return this.mounts.newId();
  }

  /** Whether `path` could be mounted now: 0, -EINVAL for what is no path, -EEXIST when something is mounted there. */
  check(path: string): number {
    const names = splitPath(path);
    if (names === null) return -errno.EINVAL;
    const slot = this.tree.find(names);
    return slot >= 0 && this.tree.member(slot) !== PSEUDO ? -errno.EEXIST : 0;
  }

  /**
   * Mounts `member` at `path`; the union owns it from then on. Lookups see it at once, guests within MOUNT_VALID_MS.
   * @returns 0; -EINVAL, -EEXIST as `check`; -ENFILE when a table is full. On an error the member stays the caller's.
   */
  mount(path: string, member: Member, spec: MemberSpec | null = null, id: number = this.newMemberId()): number {
    const checked = this.check(path);
    if (checked < 0) return checked;
    this.collect();
    const names = splitPath(path) as Uint8Array[];
    const slot = id === 0 ? -1 : this.tree.findOrMake(names);
    if (slot < 0) return -errno.ENFILE;
    const mounted = this.mounts.add(id, member, spec, joinPath(names), slot);
    if (mounted === null) {
      this.tree.prune(slot);
      return -errno.ENFILE;
    }
    this.#cover(slot, mounted);
    return 0;
  }

  /**
   * Puts `member` in the place of what is mounted at `path`. Lookups see the new one at once; nodes and handles of the
   * old one keep working until the guest has given back all of them.
   * @returns 0; -EINVAL, -ENOENT (nothing mounted there), -ENFILE. On an error the member stays the caller's.
   */
  remount(path: string, member: Member, spec: MemberSpec | null = null, id: number = this.newMemberId()): number {
    this.collect();
    const slot = this.#mountedSlot(path);
    if (slot < 0) return slot;
    const old = this.mounts.get(this.tree.member(slot)) as Mounted;
    const mounted = id === 0 ? null : this.mounts.add(id, member, spec, old.path, slot);
    if (mounted === null) return -errno.ENFILE;
    this.#retire(old);
    this.#cover(slot, mounted);
    this.collect();
    return 0;
  }

  /**
   * Ends what is mounted at `path`, older remounted generations included: parked requests are answered, descriptors
   * closed, nodes and handles the guest still has are ESTALE. Mounts below `path` stay.
   * @returns 0; -EINVAL, -ENOENT
   */
  umount(path: string): number {
    const slot = this.#mountedSlot(path);
    if (slot < 0) return slot;
    const mounted = this.mounts.get(this.tree.member(slot)) as Mounted;
    for (const other of [...this.mounts.values()]) {
      if (other === mounted || (other.retired && other.path === mounted.path)) this.#end(other);
    }
    return 0;
  }

  /** Ends retired members the guest has given back wholly. The device thread calls it once per turn. */
  collect(): void {
    if (this.#retiredCount === 0) return;
    for (const mounted of [...this.mounts.values()]) {
      if (mounted.retired && mounted.lookups === 0 && mounted.handles === 0) this.#end(mounted);
    }
  }

  /** All members, in the order they were mounted. */
  list(): MountInfo[] {
    return [...this.mounts.values()].map((m) => ({
      id: m.id,
      path: m.path,
      kind: m.spec?.kind ?? 'other',
      retired: m.retired,
      lookups: m.lookups,
      handles: m.handles,
    }));
  }

  /** What another process needs besides the arena to have the same mounts; see state.ts. */
  dump(): UnionState {
    return {
      version: STATE_VERSION,
      mounts: [...this.mounts.values()].map((m) => ({
        id: m.id,
        path: m.path,
        retired: m.retired,
        spec: m.spec,
        saved: m.fs.dump?.() ?? null,
      })),
    };
  }

  /**
   * Puts a member back where the arena's tables have it. For `restoreUnion`.
   * @returns false when they do not have it there
   */
  adopt(saved: SavedMount, member: Member): boolean {
    const names = splitPath(saved.path);
    const slot = saved.retired || names === null ? -1 : this.tree.find(names);
    if (!saved.retired && (slot < 0 || this.tree.member(slot) !== saved.id)) return false;
    const mounted = this.mounts.adopt(saved.id, member, saved.spec, saved.path, slot);
    if (mounted === null) return false;
    if (saved.retired) this.#retire(mounted);
    else this.#cover(slot, mounted);
    return true;
  }

  /**
   * The tables are as they were saved, and the guest went on since: up to `numbers` of each kind may be in its hands
   * that they do not know of, so these are never given out again; and how much it holds is not known any more, so that
   * a member retired from now on stays until it is unmounted.
   */
  assumeLater(numbers: number): void {
    this.mounts.skipIds(numbers);
    this.tree.skipIds(numbers);
    this.rootHandles.skipNumbers(numbers);
    for (const mounted of this.mounts.values()) mounted.addLookups(LOOKUPS_UNKNOWN);
  }

  /** Frees what the tables have of members nobody adopted. */
  dropOrphans(): void {
    this.mounts.freeOrphans();
    for (const slot of this.tree.mountPoints()) {
      if (this.mounts.get(this.tree.member(slot)) !== undefined) continue;
      this.tree.setMember(slot, PSEUDO);
      this.tree.prune(slot);
    }
  }

  /**
   * The guest starts anew: mounts stay, what it held is void, and nothing keeps retired members any more: they go with the
   * next `collect`, which may not be here, within the INIT or DESTROY that says so.
   */
  reset(): void {
    this.rootHandles.clear();
    for (const mounted of this.mounts.values()) {
      mounted.clear();
      mounted.fs.reset();
    }
  }

  /** Ends every member. */
  destroy(): void {
    for (const mounted of [...this.mounts.values()]) this.#end(mounted);
  }

  /**
   * The member a request goes to. For nodeid 1 with a member on "/" the request is turned into one for that member's
   * root, its private copy included: parked, it then belongs to that member.
   */
  protected find(request: Request): Mounted {
    const high = request.nodeHigh;
    if (high === this.#recent.id && high !== PSEUDO) return this.#recent;
    if (high === PSEUDO) {
      if (this.rootMember === null || request.nodeLow !== ROOT_LOCAL) return this.#pseudoRoute;
      request.nodeHigh = this.rootMember.id;
      request.memory.u32[IN_HEADER.NODEID + 1] = this.rootMember.id;
      return this.rootMember;
    }
    const mounted = this.mounts.get(high);
    if (mounted === undefined) return this.#staleRoute;
    this.#recent = mounted;
    return mounted;
  }

  /**
   * As find, for requests on a directory handle: on nodeid 1 the handle says which member it was opened on, and `args`
   * get that member's own. The pseudo root's own handle is {0, 0}.
   */
  protected findByHandle(request: Request, args: { fhLow: number; fhHigh: number }): Mounted {
    if (request.nodeLow !== ROOT_LOCAL || !this.#onRoot(request.nodeHigh)) return this.find(request);
    if (args.fhLow === BARE) {
      request.nodeHigh = args.fhHigh;
      request.memory.u32[IN_HEADER.NODEID + 1] = request.nodeHigh;
      args.fhLow = args.fhHigh = 0;
      return this.find(request);
    }
    const slot = this.rootHandles.find(args.fhLow, args.fhHigh);
    if (slot < 0) return args.fhLow === 0 && args.fhHigh === 0 ? this.#pseudoRoute : this.#staleRoute;
    request.nodeHigh = this.rootHandles.member(slot);
    request.memory.u32[IN_HEADER.NODEID + 1] = request.nodeHigh;
    args.fhLow = this.rootHandles.low(slot);
    args.fhHigh = this.rootHandles.high(slot);
    return this.find(request);
  }

  /** True for nodeid 1, also of a request that was parked after `find` had named its member. */
  #onRoot(nodeHigh: number): boolean {
    return nodeHigh === PSEUDO || this.mounts.get(nodeHigh)?.path === '/';
  }

  /** Member a node in an argument belongs to: as the upper word of the nodeid, but for the root. */
  protected memberOf(nodeLow: number, nodeHigh: number): number {
    return nodeHigh === PSEUDO && nodeLow === ROOT_LOCAL && this.rootMember !== null ? this.rootMember.id : nodeHigh;
  }

  #cover(slot: number, mounted: Mounted): void {
    this.tree.setMember(slot, mounted.id);
    if (slot === this.tree.root) this.rootMember = mounted;
  }

  #retire(mounted: Mounted): void {
    mounted.retire();
    this.#retiredCount++;
  }

  /** Slot of the mount point at `path`, or -errno. */
  #mountedSlot(path: string): number {
    const names = splitPath(path);
    if (names === null) return -errno.EINVAL;
    const slot = this.tree.find(names);
    return slot < 0 || this.tree.member(slot) === PSEUDO ? -errno.ENOENT : slot;
  }

  /** From here on the member's nodes are unknown; then its parked requests end, then its descriptors. */
  #end(mounted: Mounted): void {
    if (mounted.retired) this.#retiredCount--;
    else {
      this.tree.setMember(mounted.pseudo, PSEUDO);
      this.tree.prune(mounted.pseudo);
    }
    if (this.rootMember === mounted) this.rootMember = null;
    this.#recent = this.#staleRoute;
    this.mounts.remove(mounted);
    this.onMemberGone(mounted.id);
    mounted.fs.destroy();
  }
}
