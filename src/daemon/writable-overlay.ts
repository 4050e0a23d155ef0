/**
 * `overlay` of a configuration (kata-contract 3.5): a FUSE mount of an image that can be written to. The kernel's
 * overlayfs does it; our file system is its lower directory and nowhere else to be seen:
 *
 *     image ── FUSE ──► hidden directory ── lowerdir ──► overlay on the mount point, upper_dir and work_dir beside it
 *
 * The overlay keeps the FUSE mount alive, so that its directory goes at once, and the daemon ends with the overlay.
 */
import { mkdtempSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { codeOf } from '../common/app-error.ts';
import type { Logger } from '../common/log.ts';
import type { OverlayConfig } from '../storage/config/config.ts';
import { errno, errnoText } from '../sys/errno.ts';
import { MNT_DETACH, MS, mount, umount } from '../sys/mount.ts';
import { daemonError } from './errors.ts';

export class WritableOverlay {
  /** Where the FUSE file system is to be mounted. */
  readonly lower = mkdtempSync(join(tmpdir(), 'nydusd-lower-'));
  private isHidden = true;

  /** @param readOnly no `--writable`: the upper directory shows, and stays as it is */
  constructor(
    private readonly mountpoint: string,
    private readonly readOnly: boolean,
    private readonly directories: OverlayConfig,
    private readonly log: Logger,
  ) {}

  /** The image is mounted on `lower`: puts the overlay on the mount point. @throws AppError OVERLAY */
  cover(): void {
    const { upperDir, workDir } = this.directories;
    const refuse = (reason: string) => daemonError('OVERLAY', { mountpoint: this.mountpoint, reason });
    const odd = [this.lower, upperDir, workDir].find((path) => /[,:\\]/.test(path));
    if (odd !== undefined) throw refuse(`${odd}: commas, colons and backslashes have a meaning of their own there`);
    const data = `lowerdir=${this.lower},upperdir=${upperDir},workdir=${workDir}`;
    const mounted = mount('overlay', this.mountpoint, 'overlay', this.readOnly ? MS.RDONLY : 0, data);
    if (mounted < 0) throw refuse(`${errnoText(mounted)}; upper ${upperDir}, work ${workDir}`);
    this.isHidden = false;
    this.removeLower();
  }

  async stop(): Promise<void> {
    if (this.isHidden) return this.removeLower();
    const done = umount(this.mountpoint, MNT_DETACH);
    if (done < 0 && done !== -errno.EINVAL) this.log.warn(`umount of ${this.mountpoint}: ${errnoText(done)}`);
  }

  private removeLower(): void {
    umount(this.lower, MNT_DETACH);
    try {
      rmdirSync(this.lower);
    } catch (error) {
      this.log.warn(`cannot remove ${this.lower}: ${codeOf(error)}`);
    }
  }
}
