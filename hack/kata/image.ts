/** Images for a replay. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export interface Image {
  bootstrap: string;
  blobs: string;
  /** A file of it, and what it holds. */
  file: string;
  content: Buffer;
}

/** A small image with the builder of this repository, so that a replay needs nothing else. */
export async function makeImage(builder: string, dir: string, name: string): Promise<Image> {
  const source = join(dir, `${name}-source`);
  const blobs = join(dir, `${name}-blobs`);
  const bootstrap = join(dir, `${name}.boot`);
  const content = Buffer.from(`content of ${name}\n`.repeat(500));
  mkdirSync(join(source, 'etc'), { recursive: true });
  mkdirSync(blobs);
  writeFileSync(join(source, 'etc', 'file'), content);
  const child = spawn(
    builder,
    ['create', '--log-level', 'warn', '--bootstrap', bootstrap, '--blob-dir', blobs, source],
    {
      stdio: ['ignore', 'ignore', 'inherit'],
    },
  );
  const code = await new Promise((resolve) => child.on('close', resolve));
  assert.equal(code, 0, `${builder} failed`);
  return { bootstrap, blobs, file: 'etc/file', content };
}
