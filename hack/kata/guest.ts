/** What a sandbox's guest does, and the guest that needs no VMM: our vhost-user frontend, speaking FUSE itself. */
import assert from 'node:assert/strict';
import { errno, errnoText } from '../../src/sys/errno.ts';
import { FuseClient } from '../../src/virtiofs/testing/fuse-client.ts';
import type { Image } from './image.ts';

export interface SandboxGuest {
  /** The VMM connects to the vhost-user socket, the guest mounts and sees /containers. */
  attach(sock: string): Promise<void>;
  /** The container's root is made and used: a file of the image is read, `written` with the id is written. */
  runs(cid: string, image: Image): Promise<void>;
  /** The agent takes the container's root away. */
  leaves(cid: string): Promise<void>;
  /** After DELETE: the image is seen no more, and what was looked up is forgotten. */
  forgets(cid: string): Promise<void>;
  /** The VMM ends. Harmless when it has not begun. */
  end(): void;
}

export class FrontendGuest implements SandboxGuest {
  private client: FuseClient | null = null;
  /** Nodes looked up below each container. */
  private readonly known = new Map<string, bigint[]>();

  async attach(sock: string): Promise<void> {
    this.client = new FuseClient(sock);
    this.client.init();
    assert.equal(typeof this.client.lookup(1n, 'containers'), 'object', 'the guest does not see /containers');
  }

  async runs(cid: string, image: Image): Promise<void> {
    this.reads(cid, image);
    this.writes(cid);
  }

  async leaves(): Promise<void> {}

  async forgets(cid: string): Promise<void> {
    const lookup = this.fuse.lookup(1n, 'rafs');
    const gone = typeof lookup === 'number' ? lookup : this.fuse.lookup(lookup.nodeid, cid);
    assert.equal(gone, -errno.ENOENT, `the guest still sees /rafs/${cid}`);
    for (const node of this.known.get(cid) ?? []) this.fuse.forget(node, 1n);
    // FORGETs have no answer: one request behind them says that they were taken.
    this.fuse.getattr(1n);
  }

  end(): void {
    this.client?.close();
    this.client = null;
  }

  private get fuse(): FuseClient {
    assert.ok(this.client !== null, 'no VMM is attached');
    return this.client;
  }

  private visit(cid: string, path: string): bigint {
    let node = 1n;
    for (const part of path.split('/')) {
      const entry = this.fuse.lookup(node, part);
      assert.ok(typeof entry === 'object', `${path}: ${part}: ${errnoText(entry as number)}`);
      node = entry.nodeid;
      this.known.set(cid, [...(this.known.get(cid) ?? []), node]);
    }
    return node;
  }

  private reads(cid: string, image: Image): void {
    const node = this.visit(cid, `rafs/${cid}/lowerdir/${image.file}`);
    const fh = this.fuse.open(node);
    assert.ok(typeof fh === 'bigint', `open of ${image.file}`);
    const reply = this.fuse.read(node, fh, 0, image.content.length + 1);
    assert.equal(reply.error, 0, errnoText(reply.error));
    assert.ok(image.content.equals(reply.body), `${image.file} has other bytes`);
    this.release(node, fh);
  }

  private writes(cid: string): void {
    const directory = this.visit(cid, `containers/${cid}/snapshotdir/fs`);
    const args = Buffer.alloc(16);
    args.writeUInt32LE(0o102, 0); // O_CREAT | O_RDWR
    args.writeUInt32LE(0o100644, 4);
    const created = this.fuse.call('CREATE', Buffer.concat([args, Buffer.from('written\0')]), {
      nodeid: directory,
      replyBytes: 144,
    });
    assert.equal(created.error, 0, `create: ${errnoText(created.error)}`);
    const node = created.body.readBigUInt64LE(0);
    const fh = created.body.readBigUInt64LE(128);
    this.known.get(cid)!.push(node);
    assert.equal(this.fuse.write(node, fh, 0, Buffer.from(cid)).error, 0);
    this.release(node, fh);
  }

  private release(node: bigint, fh: bigint): void {
    const args = Buffer.alloc(24);
    args.writeBigUInt64LE(fh, 0);
    assert.equal(this.fuse.call('RELEASE', args, { nodeid: node }).error, 0);
  }
}
