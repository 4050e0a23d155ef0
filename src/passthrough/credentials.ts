/**
 * Acting as the guest's user: an object is created with the caller's uid and gid, by switching the effective ids of
 * this thread alone and back at once.
 *
 * The guest kernel has checked permissions already (default_permissions), and it knows groups and capabilities that
 * never reach us; a second check here could only refuse what the guest allowed. So CAP_DAC_OVERRIDE is kept while the
 * ids are switched. CAP_FSETID is not: the host then clears set-group-ID bits as it would for that user.
 */
import { INIT } from '../fuse/flags.ts';
import type { Request } from '../fuse/request.ts';
import { capget, capset, effectiveUid, setEffectiveGid, setEffectiveUid, setGroups } from '../sys/credentials.ts';
import { errno } from '../sys/errno.ts';
import { NativeMemory } from '../sys/native-memory.ts';
import { umask, unshareFs } from '../sys/path.ts';

/** Capability numbers (linux/capability.h). */
const CAP = { DAC_OVERRIDE: 1, FSETID: 4, SETGID: 6, SETUID: 7 } as const;
const CAPABILITY_VERSION_3 = 0x2008_0522;
/** "unmapped" in a request of an idmapped session: no user at all, and "unchanged" to setresuid. */
export const NO_ID = 0xffff_ffff;

/** Byte offsets in the scratch: the header, then three sets of 24 bytes (two times effective, permitted, inheritable). */
const HEADER = 0;
const FULL = 16;
const WITHOUT_FSETID = 48;
const AS_USER = 80;
const DATA_WORDS = 6;

class Credentials {
  /** False when the daemon may not switch ids: objects then belong to the daemon's user. */
  readonly switches: boolean;
  readonly #memory = new NativeMemory(4096);
  readonly #hasFsetid: boolean;
  #uidSwitched = false;
  #gidSwitched = false;
  #groupsSet = false;
  #umaskSet = false;

  /** Changes the thread it is made on: its umask becomes 0 and its own: the guest applies its umask itself. */
  constructor() {
    unshareFs();
    umask(0);
    const words = this.#memory.u32;
    words[HEADER] = CAPABILITY_VERSION_3;
    const { address } = this.#memory;
    const known = capget(address + HEADER, address + FULL) === 0;
    for (let i = 0; i < DATA_WORDS; i++) {
      words[WITHOUT_FSETID / 4 + i] = words[FULL / 4 + i];
      words[AS_USER / 4 + i] = words[FULL / 4 + i];
    }
    const effective = words[FULL / 4];
    words[WITHOUT_FSETID / 4] = effective & ~(1 << CAP.FSETID);
    words[AS_USER / 4] = effective & (1 << CAP.DAC_OVERRIDE);
    words[AS_USER / 4 + 3] = 0;
    this.#hasFsetid = known && (effective & (1 << CAP.FSETID)) !== 0;
    const needed = (1 << CAP.SETUID) | (1 << CAP.SETGID);
    this.switches = known && effectiveUid() === 0 && (effective & needed) === needed;
    // The daemon's own groups must not count as the caller's.
    if (this.switches) setGroups(0, 0);
  }

  /**
   * Becomes the caller of `request`, whose umask is `mask`. 0, or -errno with nothing changed. `leave` must follow a 0
   * whatever the call between them answers.
   */
  enter(request: Request, mask: number): number {
    const { uid, gid } = request;
    if (uid === NO_ID || gid === NO_ID) return -errno.EOVERFLOW;
    if (this.#uidSwitched || this.#gidSwitched) this.leave(); // an earlier one failed
    if ((request.negotiated.flags & INIT.DONT_MASK) !== 0 && mask !== 0) {
      this.#umaskSet = true;
      umask(mask);
    }
    if (!this.switches || (uid === 0 && gid === 0)) return 0;
    const failed = this.#switch(uid, gid, request);
    if (failed < 0) this.leave();
    return failed;
  }

  #switch(uid: number, gid: number, request: Request): number {
    if (gid !== 0) {
      const done = setEffectiveGid(gid);
      if (done < 0) return done;
      this.#gidSwitched = true;
    }
    if (uid === 0) return 0;
    if (request.groupCount > 0) {
      const done = setGroups(request.groupCount, request.groupsAddress);
      if (done < 0) return done;
      this.#groupsSet = true;
    }
    const done = setEffectiveUid(uid);
    if (done < 0) return done;
    this.#uidSwitched = true;
    return capset(this.#memory.address + HEADER, this.#memory.address + AS_USER);
  }

  /**
   * Becomes the daemon again.
   * @throws Error when the kernel refuses: the request is answered EIO, and the next `leave` tries again
   */
  leave(): void {
    if (this.#umaskSet) {
      umask(0);
      this.#umaskSet = false;
    }
    if (this.#uidSwitched) {
      // Coming back to uid 0 makes the permitted capabilities effective again; capset restores exactly what was.
      must(setEffectiveUid(0), 'return to uid 0');
      must(capset(this.#memory.address + HEADER, this.#memory.address + FULL), 'restore its capabilities');
      this.#uidSwitched = false;
    }
    if (this.#groupsSet) {
      must(setGroups(0, 0), 'drop the groups of a caller');
      this.#groupsSet = false;
    }
    if (this.#gidSwitched) {
      must(setEffectiveGid(0), 'return to gid 0');
      this.#gidSwitched = false;
    }
  }

  /** While CAP_FSETID is gone, writing and truncating clear set-ID bits as for any other user (KILLPRIV_V2). */
  dropFsetid(): void {
    if (this.#hasFsetid)
      must(capset(this.#memory.address + HEADER, this.#memory.address + WITHOUT_FSETID), 'drop CAP_FSETID');
  }

  restoreFsetid(): void {
    if (this.#hasFsetid)
      must(capset(this.#memory.address + HEADER, this.#memory.address + FULL), 'take CAP_FSETID back');
  }
}

let ofThread: Credentials | null = null;

/** The credentials of this thread; made on first use. */
export function threadCredentials(): Credentials {
  ofThread ??= new Credentials();
  return ofThread;
}

function must(result: number, what: string): void {
  if (result < 0) throw new Error(`the device thread cannot ${what} (errno ${-result})`);
}
