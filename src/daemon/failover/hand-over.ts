/**
 * From one daemon to the next (kata-contract 4.6): leaving everything with the supervisor, and going on with it.
 *
 *     running   mounts, device ──► state.ts ──► supervisor.ts        after every mount and umount, when asked (sendfd)
 *     next one  supervisor ──► images opened again ──► device, mounts     all of it or nothing (takeover)
 *
 * Loaded when the first client asks for it.
 */
import { fstatSync, readlinkSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { explain } from '../../common/app-error.ts';
import type { Logger } from '../../common/log.ts';
import { close } from '../../sys/io.ts';
import type { Device } from '../device.ts';
import { daemonError } from '../errors.ts';
import type { Settings } from '../image-settings.ts';
import type { LazyImages } from '../images.ts';
import type { Mount, Mounts, OpenedImage } from '../mounts.ts';
import { decodeState, encodeState, type SavedDaemon, type SavedMount } from './state.ts';
import { fetchState, leaveNothing, leaveState } from './supervisor.ts';

/** Our own device thread answers at once, unless it hangs. */
const STAT_MS_MAX = 1000;

/** What a daemon's own command line has for an image. */
export interface OwnConfig {
  text: string;
  /** What its environment changes of it. */
  settings: Settings;
}

/** What is handed over, and where to. */
export interface HandOver {
  supervisor: string;
  mountpoint: string;
  device: Device;
  mounts: Mounts;
  images: LazyImages;
  log: Logger;
  /** The configuration that our own command line has for an image, which may be newer than the saved one; or null. */
  ownConfig(path: string, source: string): OwnConfig | null;
}

/**
 * Leaves descriptor and state with the supervisor.
 * @param isServing requests are answered, so that the kernel can be made to know the root (`showRoot`)
 * @throws AppError SUPERVISOR, DEVICE
 */
export async function save(parts: HandOver, isServing: boolean): Promise<void> {
  const { supervisor, mountpoint, device, mounts, images } = parts;
  try {
    if (isServing) await showRoot(mountpoint);
    const { fd, state } = await mounts.between(async (table) => {
      const saved = await device.save();
      const state: SavedDaemon = { mountpoint, device: saved.device, mounts: table.map((m) => savedMount(m, images)) };
      return { fd: saved.fd, state };
    });
    await leaveState(supervisor, fd, encodeState(state));
  } catch (error) {
    leaveNothing(supervisor);
    throw error;
  }
}

/** Has the kernel learn the attributes of the root, which it keeps when we are gone (`InitPolicy.rootAttrMs`). */
export async function showRoot(mountpoint: string): Promise<void> {
  await Promise.race([stat(mountpoint).catch(() => {}), sleep(STAT_MS_MAX, undefined, { ref: false })]);
}

function savedMount({ path, member, request, mountedTime, image }: Mount, images: LazyImages): SavedMount {
  if (image === null) throw daemonError('STATE', { reason: `${path} is no image` });
  return { path, member, request, mountedTime, identity: image.identity, changed: images.changedOf(image) };
}

/**
 * Goes on with what the supervisor keeps: afterwards everything is as it was, but not served yet.
 * @throws AppError SUPERVISOR, STATE, DEVICE, MOUNT_FAILED, SOURCE_HANGS; nothing is kept then
 */
export async function restore(parts: HandOver): Promise<void> {
  const { device, mounts, images, log } = parts;
  const opened: OpenedImage[] = [];
  let fd = -1;
  try {
    const fetched = await fetchState(parts.supervisor);
    fd = fetched.fd;
    const state = decodeState(fetched.bytes);
    checkPlace(state, fd, parts.mountpoint);
    const { union } = state.device;
    if (union.mounts.length !== state.mounts.length) throw daemonError('STATE', { reason: 'its mounts do not add up' });
    const table: Mount[] = [];
    for (const { id, path } of union.mounts) {
      const saved = state.mounts.find(({ member }) => member === id);
      if (saved?.path !== path) throw daemonError('STATE', { reason: `it does not say what is mounted on ${path}` });
      const image = await reopen(saved, parts);
      opened.push(image);
      const { request, mountedTime, member } = saved;
      table.push({ path, kind: 'Rafs', source: request.source, request, mountedTime, image, member });
    }
    const specs = union.mounts.map((mount, i) => ({ ...mount, spec: opened[i]!.member }));
    const files = opened.map(({ accounting }) => accounting?.shared ?? null);
    const { bootstrapFds = [] } = await device.restore(
      fd,
      { ...state.device, union: { ...union, mounts: specs } },
      files,
    );
    for (const [i, image] of opened.entries()) image.member.bootstrapFd = bootstrapFds[i]!;
    mounts.adopt(table);
    log.info(`took over ${parts.mountpoint} with ${table.length} mounts`);
  } catch (error) {
    for (const image of opened) images.abandon(image);
    if (fd >= 0) close(fd);
    log.error(`cannot take over ${parts.mountpoint}: ${explain(error)}`);
    throw error;
  }
}

function checkPlace({ mountpoint }: SavedDaemon, fd: number, ours: string): void {
  if (mountpoint !== ours) throw daemonError('STATE', { reason: `it is of the daemon on ${mountpoint}` });
  const file = readlinkSync(`/proc/self/fd/${fd}`);
  if (!fstatSync(fd).isCharacterDevice() || !file.endsWith('/fuse')) {
    throw daemonError('STATE', { reason: `the descriptor that came with it is ${file}, not /dev/fuse` });
  }
}

/** The image of a saved mount, opened again. Of another file the kernel's node numbers would mean something else. */
async function reopen(saved: SavedMount, parts: HandOver): Promise<OpenedImage> {
  const { path, request, identity, changed } = saved;
  const own = parts.ownConfig(path, request.source);
  const renewed = own === null || own.text === request.config ? null : own;
  const config = renewed?.text ?? request.config;
  await parts.images.demandAnswers(request.source, config);
  const image = await parts.images.open(path, request.source, config);
  try {
    if (image.identity !== identity) {
      const reason = 'the file was replaced or written since it was mounted';
      throw daemonError('MOUNT_FAILED', { path, source: request.source, reason });
    }
    await parts.images.change(path, renewed?.settings ?? changed);
    return image;
  } catch (error) {
    parts.images.abandon(image);
    throw error;
  }
}
