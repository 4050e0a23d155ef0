/** A guest in tests: fills a Request, calls one handler, reads the reply words. This half has files, streams and attributes. */
import * as A from '../fuse/args.ts';
import { Request } from '../fuse/request.ts';
import { ATTR, ENTRY_OUT, ENTRY_OUT_BYTES } from '../fuse/wire/layout.ts';
import { type Handle, MEMBER, NameGuest, type Text } from './guest-names.testing.ts';

export interface Dirent {
  name: Buffer;
  ino: bigint;
  type: number;
  low: number;
  high: number;
  /** READDIRPLUS only; 0: no attributes. */
  node: number;
  attrFlags: number;
}

export class Guest extends NameGuest {
  open(node: number, flags: number, killSuidgid = false): Handle | number {
    const args = Object.assign(new A.OpenArgs(), { flags, killSuidgid });
    const r = this.fs.open(this.begin(node), args);
    return r < 0 ? r : this.handleAt(Request.BODY_WORD);
  }

  opendir(node: number): Handle | number {
    const r = this.fs.opendir(this.begin(node), new A.OpenArgs());
    return r < 0 ? r : this.handleAt(Request.BODY_WORD);
  }

  #lend(bytes: number): void {
    // Two segments with a hole between: bulk data is scattered in real guests.
    const first = bytes >> 1;
    const address = new Float64Array([this.data.address, this.data.address + 2 * 1024 * 1024]);
    this.request.data.set(address, new Uint32Array([first, bytes - first]), 0, 2, 0, bytes);
  }

  /** Data of the last read. */
  taken(bytes: number, size: number): Buffer {
    const first = size >> 1;
    const head = Math.min(bytes, first);
    const u8 = this.data.u8;
    return Buffer.concat([u8.slice(0, head), u8.slice(2 * 1024 * 1024, 2 * 1024 * 1024 + bytes - head)]);
  }

  /** The handler's own result: a count, -errno or PARKED. */
  rawRead(node: number, handle: Handle, offset: number, size: number): number {
    const args = Object.assign(new A.ReadArgs(), { fhLow: handle.low, fhHigh: handle.high, offset, size });
    this.begin(node);
    this.#lend(size);
    return this.fs.read(this.request, args);
  }

  read(node: number, handle: Handle, offset: number, size: number): Buffer | number {
    const r = this.rawRead(node, handle, offset, size);
    return r < 0 ? r : this.taken(r, size);
  }

  write(node: number, handle: Handle, offset: number, text: Text, flags = 0, writeFlags = 0): number {
    const bytes = Buffer.from(text);
    const size = bytes.length;
    const args = Object.assign(new A.WriteArgs(), {
      fhLow: handle.low,
      fhHigh: handle.high,
      offset,
      size,
      flags,
      writeFlags,
    });
    this.begin(node);
    this.#lend(size);
    this.data.u8.set(bytes.subarray(0, size >> 1), 0);
    this.data.u8.set(bytes.subarray(size >> 1), 2 * 1024 * 1024);
    return this.fs.write(this.request, args);
  }

  release(node: number, handle: Handle): number {
    const args = Object.assign(new A.ReleaseArgs(), { fhLow: handle.low, fhHigh: handle.high });
    return this.fs.release(this.begin(node), args);
  }

  releasedir(node: number, handle: Handle): number {
    const args = Object.assign(new A.ReleaseArgs(), { fhLow: handle.low, fhHigh: handle.high });
    return this.fs.releasedir(this.begin(node), args);
  }

  flush(node: number, handle: Handle): number {
    return this.fs.flush(
      this.begin(node),
      Object.assign(new A.FlushArgs(), { fhLow: handle.low, fhHigh: handle.high }),
    );
  }

  fsync(node: number, handle: Handle, isDirectory = false): number {
    const args = Object.assign(new A.FsyncArgs(), { fhLow: handle.low, fhHigh: handle.high });
    const request = this.begin(node);
    return isDirectory ? this.fs.fsyncdir(request, args) : this.fs.fsync(request, args);
  }

  syncfs(node: number): number {
    return this.fs.syncfs(this.begin(node));
  }

  /** One READDIR or READDIRPLUS. */
  readdir(node: number, handle: Handle, low: number, high: number, size: number, plus = false): Dirent[] | number {
    const args = Object.assign(new A.ReadArgs(), {
      fhLow: handle.low,
      fhHigh: handle.high,
      offsetLow: low,
      offsetHigh: high,
      offset: -1,
      size,
    });
    this.begin(node);
    const r = plus ? this.fs.readdirplus(this.request, args) : this.fs.readdir(this.request, args);
    if (r < 0) return r;
    const { u8, u32, view } = this.request.reply;
    const found: Dirent[] = [];
    const head = plus ? ENTRY_OUT_BYTES : 0;
    for (let at = 16; at < 16 + r; ) {
      const d = at + head;
      const bytes = view.getUint32(d + 16, true);
      found.push({
        name: Buffer.from(u8.slice(d + 24, d + 24 + bytes)),
        ino: view.getBigUint64(d, true),
        low: view.getUint32(d + 8, true),
        high: view.getUint32(d + 12, true),
        type: view.getUint32(d + 20, true),
        node: plus ? u32[at >> 2] : 0,
        attrFlags: plus ? u32[(at >> 2) + ENTRY_OUT.ATTR + ATTR.FLAGS] : 0,
      });
      at += head + ((24 + bytes + 7) & ~7);
    }
    return found;
  }

  /** A whole directory, page by page. */
  list(node: number, plus = false, size = 4096): Dirent[] {
    const handle = this.opendir(node);
    if (typeof handle === 'number') throw new Error(`opendir: ${handle}`);
    const all: Dirent[] = [];
    let low = 0;
    let high = 0;
    for (;;) {
      const page = this.readdir(node, handle, low, high, size, plus);
      if (typeof page === 'number') throw new Error(`readdir: ${page}`);
      if (page.length === 0) break;
      all.push(...page);
      ({ low, high } = page[page.length - 1]);
    }
    this.releasedir(node, handle);
    return all;
  }

  statfs(node: number): Uint32Array | number {
    const r = this.fs.statfs(this.begin(node));
    return r < 0 ? r : this.request.reply.u32.slice(Request.BODY_WORD, Request.BODY_WORD + 20);
  }

  setxattr(node: number, name: Text, value: Text, flags = 0): number {
    const args = Object.assign(new A.SetxattrArgs(), { flags });
    const bytes = Buffer.from(value);
    this.begin(node);
    this.putName(args.name, name);
    args.valueAddress = this.request.memory.putText(this.used, bytes);
    args.valueBytes = bytes.length;
    return this.fs.setxattr(this.request, args);
  }

  getxattr(node: number, name: Text, size = 4096): Buffer | number {
    const args = Object.assign(new A.GetxattrArgs(), { size });
    this.begin(node);
    this.putName(args.name, name);
    const r = this.fs.getxattr(this.request, args);
    return r < 0 ? r : this.body(r);
  }

  listxattr(node: number, size = 4096): Buffer | number {
    const r = this.fs.listxattr(this.begin(node), Object.assign(new A.ListxattrArgs(), { size }));
    return r < 0 ? r : this.body(r);
  }

  removexattr(node: number, name: Text): number {
    const args = new A.NameArgs();
    this.begin(node);
    this.putName(args.name, name);
    return this.fs.removexattr(this.request, args);
  }

  fallocate(node: number, handle: Handle, mode: number, offset: number, length: number): number {
    const args = Object.assign(new A.FallocateArgs(), { fhLow: handle.low, fhHigh: handle.high, mode, offset, length });
    return this.fs.fallocate(this.begin(node), args);
  }

  lseek(node: number, handle: Handle, offset: number, whence: number): number {
    const args = Object.assign(new A.LseekArgs(), { fhLow: handle.low, fhHigh: handle.high, offset, whence });
    const r = this.fs.lseek(this.begin(node), args);
    return r < 0 ? r : Number(this.request.reply.view.getBigUint64(16, true));
  }

  copy(
    node: number,
    from: Handle,
    offsetIn: number,
    to: { node: number; handle: Handle },
    offsetOut: number,
    length: number,
  ): number {
    const args = Object.assign(new A.CopyFileRangeArgs(), {
      fhInLow: from.low,
      fhInHigh: from.high,
      offsetIn,
      nodeOutLow: to.node,
      nodeOutHigh: MEMBER,
      fhOutLow: to.handle.low,
      fhOutHigh: to.handle.high,
      offsetOut,
      length,
    });
    return this.fs.copyFileRange(this.begin(node), args);
  }

  access(node: number, mask: number): number {
    return this.fs.access(this.begin(node), Object.assign(new A.AccessArgs(), { mask }));
  }
}
