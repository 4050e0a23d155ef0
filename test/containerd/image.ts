/** A nydus OCI image in a real registry (rafs-format 5): blob layer, bootstrap layer, manifest. */
import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { chmodSync, copyFileSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { startRegistry, type TestRegistry } from '../../src/storage/registry.testing.ts';
import { REPOSITORY } from '../daemon/nydusd.ts';

const FILES = 24;
const FILE_BYTES = 300_000;
const BUSYBOX = '/bin/busybox';
/** Prints real and effective user; with an argument it becomes user 1000 first and starts itself again. */
const WHO = `#define _GNU_SOURCE
#include <stdio.h>
#include <unistd.h>
int main(int argc, char **argv) {
  if (argc > 1 && setresuid(1000, 1000, 1000) == 0) return execl(argv[0], argv[0], NULL);
  return printf("%d %d\\n", getuid(), geteuid()) < 0;
}
`;

export interface PublishedImage {
  registry: TestRegistry;
  /** What clients pull. */
  reference: string;
}

/** A root file system: busybox, files of random bytes with their sums in /sums, a set-uid program, a device, an xattr. */
function makeRoot(root: string): void {
  mkdirSync(join(root, 'bin'), { recursive: true });
  for (const name of ['data', 'proc', 'dev', 'sys', 'tmp', 'etc']) mkdirSync(join(root, name));
  copyFileSync(BUSYBOX, join(root, 'bin/busybox'));
  chmodSync(join(root, 'bin/busybox'), 0o755);
  for (const applet of ['sh', 'ls', 'cat', 'sha256sum', 'sleep', 'stat', 'id', 'date', 'echo', 'touch']) {
    symlinkSync('busybox', join(root, 'bin', applet));
  }
  const sums: string[] = [];
  for (let i = 0; i < FILES; i++) {
    const bytes = randomBytes(FILE_BYTES + i);
    writeFileSync(join(root, `data/${i}`), bytes);
    sums.push(`${createHash('sha256').update(bytes).digest('hex')}  /data/${i}`);
  }
  writeFileSync(join(root, 'sums'), `${sums.join('\n')}\n`);
  // Not busybox: it gives up what a set-uid bit lends it.
  execFileSync('gcc', ['-static', '-x', 'c', '-o', join(root, 'bin/who'), '-'], { input: WHO });
  chmodSync(join(root, 'bin/who'), 0o4755);
  execFileSync('mknod', [join(root, 'null'), 'c', '1', '3']);
  execFileSync('setfattr', ['-n', 'user.mark', '-v', 'kept', join(root, 'sums')]);
}

/** Builds the image with our `nydus-image` and serves it from a registry of its own in `dir`. */
export async function publishImage(dir: string): Promise<PublishedImage> {
  const root = join(dir, 'rootfs');
  mkdirSync(root, { recursive: true });
  makeRoot(root);
  const [blobPath, bootstrapPath] = [join(dir, 'blob'), join(dir, 'layer/image/image.boot')];
  mkdirSync(join(dir, 'layer/image'), { recursive: true });
  const create = ['create', '--fs-version', '6', '--compressor', 'zstd', '--chunk-size', '0x10000'];
  const outputs = ['--blob', blobPath, '--bootstrap', bootstrapPath];
  execFileSync(join(REPOSITORY, 'bin/nydus-image'), [...create, ...outputs, root], { stdio: 'ignore' });

  const blob = readFileSync(blobPath);
  const tar = execFileSync('tar', ['-C', join(dir, 'layer'), '-cf', '-', 'image'], { maxBuffer: 1 << 28 });
  const bootstrap = gzipSync(tar);
  const config = Buffer.from(
    JSON.stringify({
      architecture: 'amd64',
      os: 'linux',
      config: { Cmd: ['/bin/sh'], Env: ['PATH=/bin'] },
      rootfs: { type: 'layers', diff_ids: [digest(blob), digest(tar)] },
    }),
  );
  const manifest = JSON.stringify({
    schemaVersion: 2,
    mediaType: 'application/vnd.oci.image.manifest.v1+json',
    config: descriptor('application/vnd.oci.image.config.v1+json', config),
    layers: [
      {
        ...descriptor('application/vnd.oci.image.layer.nydus.blob.v1', blob),
        annotations: { 'containerd.io/snapshot/nydus-blob': 'true' },
      },
      {
        ...descriptor('application/vnd.oci.image.layer.v1.tar+gzip', bootstrap),
        annotations: {
          'containerd.io/snapshot/nydus-bootstrap': 'true',
          'containerd.io/snapshot/nydus-fs-version': '6',
        },
      },
    ],
  });
  const blobs = new Map([blob, bootstrap, config].map((bytes) => [digest(bytes).slice('sha256:'.length), bytes]));
  const registry = await startRegistry(dir, 'none', 'apps/busy', blobs);
  const answer = await fetch(`http://${registry.host}/v2/apps/busy/manifests/v6`, {
    method: 'PUT',
    headers: { 'content-type': 'application/vnd.oci.image.manifest.v1+json' },
    body: manifest,
  });
  if (!answer.ok) throw new Error(`the registry refuses the manifest: ${answer.status} ${await answer.text()}`);
  return { registry, reference: `${registry.host}/apps/busy:v6` };
}

function digest(bytes: Buffer): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

function descriptor(mediaType: string, bytes: Buffer) {
  return { mediaType, digest: digest(bytes), size: bytes.length };
}
