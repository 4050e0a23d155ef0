/**
 * The mount table as main knows it: what is mounted where, since when, with which configuration.
 *
 * Changes run one after another, those of one path in the order they were asked for; readers look at the table at any
 * time and never wait. A change that fails leaves the table as it was.
 */
import { stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import { AppError, explain } from '../common/app-error.ts';
import { demandAnswer, within } from '../common/file-systems.ts';
import type { MemberSpec } from '../virtiofs/control.ts';
import type { AccessTrace } from './access-trace.ts';
import { ANSWER_MS_MAX, type DeviceAnswer, noAnswer } from './device.ts';
import { daemonError } from './errors.ts';
import { mountPath } from './mount-path.ts';

/** What a client asks for: the members of the API's mount body (kata-contract 4.3). */
export interface MountRequest {
  source: string;
  fsType: string;
  config: string;
  prefetchFiles: readonly string[] | null;
  /** What an earlier run read; fetched first, in its order. */
  prefetchTrace: AccessTrace | null;
}

/** Counters of each file of an image, and which of them its configuration wants (kata-contract 3.4). */
export interface FileAccounting {
  files: boolean;
  pattern: boolean;
  latest: boolean;
  shared: SharedArrayBuffer;
  /** Inode number of the root, which the device thread counts as node 1. */
  root: number;
}

/** A RAFS image that is open on main's side. */
export interface OpenedImage {
  member: Extract<MemberSpec, { kind: 'rafs' }>;
  /** Which file the bootstrap is: equal for the same bytes in the same place. */
  identity: string;
  /** Configuration in v2 shape without secrets, for DaemonInfo. */
  shownConfig: object;
  /** `device.id` of the configuration: the name of its cache metrics. */
  configId: string;
  /** What its configuration asks to be counted of each file; null: nothing. */
  accounting: FileAccounting | null;
  /** Superblock members for `GET /daemon/backend`. */
  superblock: object;
}

/** Where images come from and go to. */
export interface Images {
  /** Returns when what `open` will touch can be looked at. What is wrong with it says `open`. @throws AppError SOURCE_HANGS */
  demandAnswers(bootstrap: string, config: string): Promise<void>;
  /** Opens bootstrap and blobs; `config` is a text of kata-contract 3.3. */
  open(path: string, bootstrap: string, config: string): Promise<OpenedImage>;
  /** The image is mounted: prefetch may begin. Returns at once and never throws. */
  mounted(image: OpenedImage, request: MountRequest): void;
  /** The image is about to be unmounted: whatever works for it in the background ends. */
  ending(image: OpenedImage): void;
  /** Takes back an image that the device thread refused: closes its bootstrap and its blobs. */
  abandon(image: OpenedImage): void;
  /** Closes blobs that the device thread will not touch again. */
  release(blobs: readonly number[]): void;
}

/** The device thread as this table uses it: what it is asked to do it does, may it take hours. */
export interface MountDevice {
  mount(path: string, member: MemberSpec, files: SharedArrayBuffer | null): Promise<DeviceAnswer>;
  remount(path: string, member: MemberSpec, files: SharedArrayBuffer | null): Promise<DeviceAnswer>;
  umount(path: string): Promise<DeviceAnswer>;
}

export interface Mount {
  path: string;
  kind: 'Rafs' | 'PassthroughFs';
  source: string;
  /** As the client sent it: the configuration may hold credentials. */
  request: MountRequest;
  /** UTC, in the shape upstream's nydusctl parses (kata-contract 4.4). */
  mountedTime: string;
  image: OpenedImage | null;
  /** Id under which its requests are counted. */
  member: number;
}

const PASSTHROUGH_NAMES: readonly string[] = ['passthrough_fs', 'passthroughfs', 'passthrough'];
const RAFS_NAME = 'rafs';

export class Mounts {
  private readonly table = new Map<string, Mount>();
  private tail: Promise<unknown> = Promise.resolve();
  /** Path → its last change, while there is one. */
  private readonly pathTails = new Map<string, Promise<void>>();

  constructor(
    private readonly device: MountDevice,
    private readonly images: Images,
    /** Where the kernel has what the device thread serves; null for a VMM. */
    private readonly mountpoint: string | null = null,
    /** How long clients wait for a device thread that is stuck. */
    private readonly answerMs = ANSWER_MS_MAX,
  ) {}

  /** Mounts in the order they were made. */
  list(): IterableIterator<Mount> {
    return this.table.values();
  }

  get(path: string): Mount | undefined {
    return this.table.get(path);
  }

  /** @throws AppError MOUNT_PATH, FS_TYPE, MOUNT_EXISTS, MOUNT_FAILED, PREFETCH_LIST */
  mount(where: string, request: MountRequest): Promise<void> {
    const path = mountPath(where);
    return this.onPath(path, request, async () => {
      const isRafs = checkRequest(path, request);
      if (this.table.has(path)) throw daemonError('MOUNT_EXISTS', { path });
      const image = isRafs ? await this.open(path, request) : null;
      const member = image === null ? await passthrough(path, request.source) : image.member;
      const mounting = this.device.mount(path, member, image?.accounting?.shared ?? null);
      let id: number;
      try {
        id = (await this.inTime(mounting)).member;
      } catch (error) {
        // Until the device thread has answered it may have the image open; what it mounts later nobody knows of.
        const refused = () => (image === null ? undefined : this.images.abandon(image));
        mounting.then(() => this.device.umount(path), refused).catch(() => {});
        throw failed(path, request.source, error);
      }
      const kind = isRafs ? 'Rafs' : 'PassthroughFs';
      const mountedTime = timestamp(new Date());
      this.table.set(path, { path, kind, source: request.source, request, mountedTime, image, member: id });
      if (image !== null) this.images.mounted(image, request);
    });
  }

  /** Swaps the image at `where`: open files keep the old one. @throws as mount, MOUNT_UNKNOWN, MOUNT_NOT_RAFS */
  remount(where: string, request: MountRequest): Promise<void> {
    const path = mountPath(where);
    return this.onPath(path, request, async () => {
      const old = this.table.get(path);
      if (old === undefined) throw daemonError('MOUNT_UNKNOWN', { path });
      if (!checkRequest(path, request) || old.image === null) throw daemonError('MOUNT_NOT_RAFS', { path });
      const image = await this.open(path, request);
      const replaced = ({ blobs, member }: DeviceAnswer) => {
        if (old.image !== null) this.images.ending(old.image);
        this.images.release(blobs);
        const mountedTime = timestamp(new Date());
        this.table.set(path, { ...old, source: request.source, request, mountedTime, image, member });
        this.images.mounted(image, request);
      };
      const refused = (error: unknown) => {
        this.images.abandon(image);
        throw error;
      };
      const remounting = this.device.remount(path, image.member, image.accounting?.shared ?? null);
      try {
        await this.inTime(remounting.then(replaced, refused));
      } catch (error) {
        throw failed(path, request.source, error);
      }
    });
  }

  /** @throws AppError MOUNT_PATH, MOUNT_UNKNOWN */
  umount(where: string): Promise<void> {
    const path = mountPath(where);
    return this.onPath(path, null, async () => {
      const mount = this.table.get(path);
      if (mount === undefined) throw daemonError('MOUNT_UNKNOWN', { path });
      if (mount.image !== null) this.images.ending(mount.image);
      const gone = ({ blobs }: DeviceAnswer) => {
        this.table.delete(path);
        this.images.release(blobs);
      };
      await this.inTime(this.device.umount(path).then(gone));
    });
  }

  /** Runs `look` while no change is under way. */
  between<T>(look: (table: readonly Mount[]) => Promise<T>): Promise<T> {
    return this.inTurn(() => look([...this.table.values()]));
  }

  /** Enters mounts that the device thread has already. */
  adopt(mounts: readonly Mount[]): void {
    for (const mount of mounts) this.table.set(mount.path, mount);
  }

  /** What comes later than that happens all the same. @throws AppError DEVICE_GONE */
  private inTime<T>(answer: Promise<T>): Promise<T> {
    return within(this.answerMs, () => noAnswer(this.answerMs), answer);
  }

  private async open(path: string, request: MountRequest): Promise<OpenedImage> {
    try {
      return await this.images.open(path, request.source, request.config);
    } catch (error) {
      throw failed(path, request.source, error);
    }
  }

  /** Changes of one path in their order. A source that does not answer holds back only those. */
  private onPath<T>(path: string, request: MountRequest | null, change: () => Promise<T>): Promise<T> {
    const before = this.pathTails.get(path) ?? Promise.resolve();
    const turn = before.then(async () => {
      if (request !== null) await this.answering(path, request);
      return this.inTurn(change);
    });
    const tail = turn
      .catch(() => {})
      .then(() => {
        if (this.pathTails.get(path) === tail) this.pathTails.delete(path);
      });
    this.pathTails.set(path, tail);
    return turn;
  }

  /** @throws AppError MOUNT_FAILED when something that will be touched in the change's turn hangs */
  private async answering(path: string, { fsType, source, config }: MountRequest): Promise<void> {
    try {
      await (fsType === RAFS_NAME ? this.images.demandAnswers(source, config) : demandAnswer(source));
      await this.demandForeign(source);
    } catch (error) {
      throw failed(path, source, error);
    }
  }

  /** Behind a source on its own mount the device thread would wait for itself, and everybody else with it. */
  private async demandForeign(source: string): Promise<void> {
    if (this.mountpoint === null) return;
    const deviceOf = (path: string) =>
      stat(path)
        .then(({ dev }) => dev)
        .catch(() => null);
    const [own, other] = await Promise.all([deviceOf(this.mountpoint), deviceOf(source)]);
    if (own !== null && own === other) throw new Error(`it lies on ${this.mountpoint}, which this daemon serves`);
  }

  private inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.tail.then(work);
    this.tail = turn.catch(() => {});
    return turn;
  }
}

/** True for RAFS, false for passthrough. @throws AppError FS_TYPE, PREFETCH_LIST, MOUNT_FAILED */
function checkRequest(path: string, request: MountRequest): boolean {
  // It would be the working directory.
  if (request.source === '') throw daemonError('MOUNT_FAILED', { path, source: '""', reason: 'the source is empty' });
  const isRafs = request.fsType === RAFS_NAME;
  if (!isRafs && !PASSTHROUGH_NAMES.includes(request.fsType)) throw daemonError('FS_TYPE', { fsType: request.fsType });
  const bad = request.prefetchFiles?.find((file) => !file.startsWith('/'));
  if (bad !== undefined) throw daemonError('PREFETCH_LIST', { reason: `${JSON.stringify(bad)} is not absolute` });
  return isRafs;
}

/** Settings of kata-contract 1.17: xattrs on, cache policy auto, writable. */
async function passthrough(path: string, directory: string): Promise<MemberSpec> {
  const source = resolve(directory);
  try {
    if (!(await stat(source)).isDirectory()) throw new Error('not a directory');
  } catch (error) {
    throw failed(path, directory, error);
  }
  return { kind: 'passthrough', source, cache: 'auto', readOnly: false, xattr: true };
}

function failed(path: string, source: string, error: unknown): Error {
  if (error instanceof AppError && error.code === 'MOUNT_FAILED') return error;
  return daemonError('MOUNT_FAILED', { path, source, reason: explain(error) });
}

/** `2026-08-03 08:00:01.120 +00:00:00` */
function timestamp(date: Date): string {
  return `${date.toISOString().slice(0, 23).replace('T', ' ')} +00:00:00`;
}
