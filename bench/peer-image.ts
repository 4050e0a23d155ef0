/** Images of the root file system made by the peer's nydus-image: all daemons can read them. Kept beside the root. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { findProgram } from './programs.ts';
import { ROOT_HOME } from './root.ts';

export interface PeerImage {
  bootstrap: string;
  blobDir: string;
  blobBytes: number;
  chunkCount: number;
}

/** Made once by the peer's nydus-image; with `files`, they form its prefetch table and come first in the blob. */
export function peerImage(root: string, name: string, files: readonly string[] | null): PeerImage {
  const home = join(ROOT_HOME, name);
  if (!existsSync(home)) {
    const program = findProgram('nydus-image', 'NYDUS_IMAGE');
    if (program === null) throw new Error('nydus-image of the peer is missing: npm run bench:peers');
    const partial = `${home}.partial`;
    rmSync(partial, { recursive: true, force: true });
    mkdirSync(join(partial, 'blobs'), { recursive: true });
    const policy = files === null ? [] : ['--prefetch-policy', 'fs'];
    const options = [
      'create',
      '-t',
      'dir-rafs',
      '-v',
      '6',
      '--compressor',
      'zstd',
      '--chunk-size',
      '0x100000',
      ...policy,
    ];
    const out = ['-B', join(partial, 'boot'), '-D', join(partial, 'blobs'), '-J', join(partial, 'report.json')];
    execFileSync(program, [...options, ...out, root], {
      input: files === null ? '' : `${files.join('\n')}\n`,
      stdio: ['pipe', 'ignore', 'pipe'],
    });
    const [blob] = readdirSync(join(partial, 'blobs'));
    if (blob === undefined) throw new Error(`${program} made no blob`);
    writeFileSync(join(partial, 'chunks'), `${chunkCountOf(program, join(partial, 'boot'))}`);
    renameSync(partial, home);
  }
  const blobDir = join(home, 'blobs');
  const blobBytes = readdirSync(blobDir).reduce((sum, id) => sum + statSync(join(blobDir, id)).size, 0);
  return {
    bootstrap: join(home, 'boot'),
    blobDir,
    blobBytes,
    chunkCount: Number(readFileSync(join(home, 'chunks'), 'utf8')),
  };
}

/** As the peer's `nydus-image check` prints it. */
function chunkCountOf(program: string, bootstrap: string): number {
  const said = execFileSync(program, ['check', '-B', bootstrap], { encoding: 'utf8' });
  const count = /chunks: (0x[0-9a-f]+)/.exec(said)?.[1];
  if (count === undefined) throw new Error(`no chunk count in: ${said}`);
  return Number(count);
}
