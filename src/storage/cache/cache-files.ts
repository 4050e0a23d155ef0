/**
 * The files of one blob in the cache directory (rafs-format 6, kata-contract 5.5): made, checked, and made anew.
 *
 *   <id>.blob.data            sparse, chunks at their uncompressed offsets; or else
 *   <id>.blob.raw             sparse, stored bytes at their compressed offsets (`compressed`)
 *   <id>.blob.data.chunk_map  which of them are there
 *   <id>.blob.meta            chunk table (`blob-meta.ts`)
 *   nydusd-ts/<id>.blob.lock  ours, empty: byte ranges of it are locked by processes that fetch
 *   nydusd-ts/<id>.blob.boot  ours: which bits no longer count (`boot-marker.ts`)
 *
 * A directory that is full, read-only or gone fails neither mounts nor reads: `dataFd` then names /dev/null, no chunk is
 * ready, and every fetch tries to attach the files again; dup3 puts the real file below the number the device thread
 * already has. Wrong files are unlinked and never truncated, since others may have them mapped.
 */
import {
  closeSync,
  constants,
  existsSync,
  fstatSync,
  ftruncateSync,
  futimesSync,
  mkdirSync,
  openSync,
  statSync,
} from 'node:fs';
import { join } from 'node:path';
import { errnoName } from '../../sys/errno.ts';
import { dupOver, tryLock, unlock } from '../../sys/lock.ts';
import { storageError } from '../errors.ts';
import { BootMarker } from './boot-marker.ts';
import { withUnused } from './cache-evict.ts';
import { cacheError, createSized, keptOpen, makeFolder } from './cache-io.ts';
import {
  type BlobFile,
  cacheFile,
  DIR_MODE,
  FILE_MODE,
  OWN_FOLDER,
  openIfThere,
  unlinkIfThere,
} from './cache-names.ts';
import { LOCK_OPEN_AT } from './chunk-locks.ts';
import { ChunkMap, checkChunkMap, chunkMapBytes, initChunkMap, mapBits, newReadyBits } from './chunk-map.ts';

const { O_RDWR, O_RDONLY, O_CREAT } = constants;

/** Opening holds the lock for some ten system calls; after this long it goes on without. */
const OPEN_LOCK_TRIES = 50;
const OPEN_LOCK_PAUSE_MS = 1;

/** How far `attach` got. */
export type CacheState = 'writable' | 'read-only' | 'none';

/** What of a blob decides about its files. */
export interface CacheForm {
  chunkCount: number;
  /** Keep stored bytes, which no device thread can read. */
  isRaw: boolean;
  /** Of the data file. */
  fileBytes: number;
  /** Bits of other processes count only once their chunk was checked here. */
  validate: boolean;
}

export class CacheFiles {
  /** Never changes its number; what it names may change: /dev/null or a read-only file for the real one, a cut file for a new one. */
  readonly dataFd: number;
  readonly ready: SharedArrayBuffer;
  readonly metaPath: string;
  state: CacheState = 'none';
  map: ChunkMap;
  /** -1 while there is none. */
  lockFd = -1;
  readonly dataPath: string;
  private readonly mapPath: string;
  private readonly oldMapPath: string;
  private readonly lockPath: string;
  private readonly bootPath: string;
  /** Of the other form, with which this one would share its map. */
  private readonly otherPath: string;
  private readonly chunkCount: number;
  readonly isRaw: boolean;

  constructor(
    private readonly workDir: string,
    blobId: string,
    private readonly form: CacheForm,
  ) {
    const { chunkCount, isRaw } = form;
    const pathOf = (file: BlobFile) => cacheFile(workDir, blobId, file);
    this.dataPath = pathOf(isRaw ? 'raw' : 'data');
    this.otherPath = pathOf(isRaw ? 'data' : 'raw');
    this.mapPath = pathOf('map');
    this.oldMapPath = pathOf('oldMap');
    this.metaPath = pathOf('meta');
    this.lockPath = pathOf('lock');
    this.bootPath = pathOf('boot');
    this.chunkCount = chunkCount;
    this.isRaw = isRaw;
    this.ready = newReadyBits(chunkCount);
    this.dataFd = openSync('/dev/null', O_RDONLY);
    this.map = new ChunkMap(-1, false, this.ready, chunkCount);
  }

  /**
   * Opens or creates the files as far as the directory allows; does nothing when they are writable already.
   * @throws NO_SPACE, READ_ONLY or CACHE_IO when chunks cannot be written; what is there can be read all the same
   */
  attach(): void {
    if (this.state === 'writable') return;
    try {
      mkdirSync(this.workDir, { recursive: true, mode: DIR_MODE });
      makeFolder(join(this.workDir, OWN_FOLDER));
      this.openLock();
      this.withOpenLock(() => this.openWritable());
      this.noteUse();
    } catch (error) {
      if (this.state === 'none') this.openReadOnly();
      throw cacheError(this.dataPath, error);
    }
  }

  /**
   * A data file that somebody cut is given up: what its bits promise is gone, and the next write would make zeros of it.
   * No chunk is ready then, and `attach` makes the files anew. Cheap enough for every fetch.
   */
  renewIfCut(): void {
    if (this.state === 'none' || fstatSync(this.dataFd).size === this.form.fileBytes) return;
    const bits = new Uint8Array(this.ready);
    for (let byte = 0; byte < bits.length; byte++) Atomics.store(bits, byte, 0);
    this.map.close();
    this.map = new ChunkMap(-1, false, this.ready, this.chunkCount);
    this.state = 'none';
    // A cut to length 0 looks like a file just made, whose map is no other's: this one's is stale.
    try {
      if (statSync(this.dataPath).ino === fstatSync(this.dataFd).ino) {
        this.unlinkMaps();
        unlinkIfThere(this.dataPath);
      }
    } catch {
      // Not there or not to be removed: `attach` says what is wrong.
    }
  }

  get isWritable(): boolean {
    return this.state === 'writable';
  }

  /** For those who look for the longest unused: data is read without a trace where access times are off. */
  private noteUse(): void {
    try {
      if (this.lockFd >= 0) futimesSync(this.lockFd, new Date(), new Date());
    } catch {
      // Only an order of removal depends on it.
    }
  }

  /** Unlinks nothing: the next user finds the chunks. */
  close(): void {
    this.noteUse();
    this.map.close();
    closeSync(this.dataFd);
    if (this.lockFd >= 0) closeSync(this.lockFd);
    this.lockFd = -1;
    this.state = 'none';
  }

  /** False when the blob was evicted while this process waited: whoever comes next makes another lock file. */
  private isLockNamed(): boolean {
    return statSync(this.lockPath, { throwIfNoEntry: false })?.ino === fstatSync(this.lockFd).ino;
  }

  private renewLock(): void {
    closeSync(this.lockFd);
    this.lockFd = -1;
    this.openLock();
  }

  private openLock(): void {
    if (this.lockFd < 0) this.lockFd = openSync(this.lockPath, O_RDWR | O_CREAT, FILE_MODE);
  }

  /** Serialises creation among our processes, so that two that find a broken file do not unlink each other's new one. */
  private withOpenLock(run: () => void): void {
    const pause = new Int32Array(new SharedArrayBuffer(4));
    for (let tries = 0; tries < OPEN_LOCK_TRIES; tries++) {
      if (tryLock(this.lockFd, LOCK_OPEN_AT, 1) !== 0) Atomics.wait(pause, 0, 0, OPEN_LOCK_PAUSE_MS);
      else if (this.isLockNamed()) break;
      else this.renewLock();
    }
    try {
      run();
    } finally {
      unlock(this.lockFd, LOCK_OPEN_AT, 1);
    }
  }

  /** Without its data a map promises zeros: to us, and under its older name to nydusd 2.2. */
  private unlinkMaps(): void {
    unlinkIfThere(this.mapPath);
    unlinkIfThere(this.oldMapPath);
  }

  /** Bits mean one form: files of the other go when nobody uses them. */
  private removeOtherForm(): void {
    if (!existsSync(this.otherPath)) return;
    const isRemoved = withUnused([this.mapPath, this.oldMapPath, this.otherPath], () => {
      this.unlinkMaps();
      unlinkIfThere(this.otherPath);
    });
    if (isRemoved) return;
    const rule = 'used by a daemon whose cache is compressed when this one is not, or the other way round';
    throw storageError('CACHE_FILE', { path: this.otherPath, rule });
  }

  private openWritable(): void {
    const { fileBytes } = this.form;
    this.removeOtherForm();
    let data = openIfThere(this.dataPath, O_RDWR);
    if (data >= 0 && ![0, fileBytes].includes(fstatSync(data).size)) {
      closeSync(data);
      unlinkIfThere(this.dataPath);
      data = -1;
    }
    // Bits without their data would serve zeros: a map outlives its data file when a cleaner removed only the latter.
    if (data < 0 || fstatSync(data).size !== fileBytes) this.unlinkMaps();
    if (data < 0) data = createSized(this.dataPath, fileBytes);
    let map = -1;
    try {
      // Another daemon has just created it and comes to its length next.
      if (fstatSync(data).size === 0) ftruncateSync(data, fileBytes);
      map = this.openMap();
      const marker = BootMarker.read(this.bootPath, this.chunkCount, true);
      this.adopt(data, map, true, marker ?? BootMarker.start(this.bootPath, mapBits(map, this.chunkCount)));
      map = -1;
    } finally {
      closeSync(data);
      if (map >= 0) closeSync(map);
    }
  }

  private openMap(): number {
    const found = openIfThere(this.mapPath, O_RDWR);
    const isUsable = found >= 0 && keptOpen(found, () => checkChunkMap(found, this.chunkCount) === null);
    if (found >= 0 && !isUsable) {
      closeSync(found);
      unlinkIfThere(this.mapPath);
    }
    const fd = isUsable ? found : createSized(this.mapPath, chunkMapBytes(this.chunkCount));
    keptOpen(fd, () => initChunkMap(fd, this.chunkCount));
    return fd;
  }

  /** Serves what another daemon has cached, when nothing can be written. Never throws. */
  private openReadOnly(): void {
    let data = -1;
    let map = -1;
    if (existsSync(this.otherPath)) return;
    try {
      data = openIfThere(this.dataPath, O_RDONLY);
      map = openIfThere(this.mapPath, O_RDONLY);
      const isWhole = data >= 0 && fstatSync(data).size === this.form.fileBytes;
      if (!isWhole || map < 0 || fstatSync(map).size === 0 || checkChunkMap(map, this.chunkCount) !== null) return;
      const marker = BootMarker.read(this.bootPath, this.chunkCount, false);
      this.adopt(data, map, false, marker ?? BootMarker.unwritten(mapBits(map, this.chunkCount)));
      map = -1;
    } catch {
      // Not even readable: the caller throws the reason why nothing can be written.
    } finally {
      if (data >= 0) closeSync(data);
      if (map >= 0) closeSync(map);
    }
  }

  /**
   * Puts `data` below `dataFd`, then shows the device thread the bits. Bits that came from another data file would
   * now stand for holes, so a file that was replaced meanwhile is refused until the image is mounted anew.
   */
  private adopt(data: number, map: number, isWritable: boolean, marker: BootMarker): void {
    if (this.state === 'read-only' && fstatSync(data).ino !== fstatSync(this.dataFd).ino) {
      throw storageError('CACHE_FILE', {
        path: this.dataPath,
        rule: 'replaced since it was opened; mount the image again',
      });
    }
    const result = dupOver(data, this.dataFd);
    if (result < 0) throw storageError('CACHE_IO', { path: this.dataPath, call: 'dup3', errno: errnoName(-result) });
    this.map.close();
    const { validate, isRaw } = this.form;
    const trust = { isDirect: !isRaw, trustsOthers: !validate && !isRaw, marker };
    this.map = new ChunkMap(map, isWritable, this.ready, this.chunkCount, trust);
    this.state = isWritable ? 'writable' : 'read-only';
  }
}
