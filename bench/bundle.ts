/** Bundles the programs that run beside the daemons, as our daemon itself is bundled. */
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { buildSync } from 'esbuild';
import { BACKEND_CORE } from './subjects.ts';
import { REPOSITORY } from './tree.ts';

const OUT = join(REPOSITORY, 'dist', 'bench');

/** Of bench/NAME.ts. @returns their folder */
export function bundlePrograms(...names: readonly string[]): string {
  buildSync({
    entryPoints: names.map((name) => join(REPOSITORY, 'bench', `${name}.ts`)),
    bundle: true,
    platform: 'node',
    target: 'node20.20',
    format: 'cjs',
    external: ['koffi'],
    define: { 'import.meta.url': '"file:///bench"' },
    outdir: OUT,
    outExtension: { '.js': '.cjs' },
    logLevel: 'error',
  });
  return OUT;
}

/** The process that runs a row's host calls alone, on the back ends' core. */
export class Floor {
  private constructor(private readonly child: ChildProcessByStdio<Writable, Readable, null>) {}

  /** Starts it with as many buffers as `depth`, for READ on `file`, and lets it warm up for `warmUpMs`. */
  static async start(share: string, row: string, depth: number, file: string, warmUpMs: number): Promise<Floor> {
    const args = ['-c', BACKEND_CORE, process.execPath, join(OUT, 'floor.cjs'), share, row, `${depth}`, file];
    const floor = new Floor(spawn('taskset', args, { stdio: ['pipe', 'pipe', 'inherit'] }));
    await floor.slice(warmUpMs);
    return floor;
  }

  /** CPU microseconds per request. @throws Error when the process ended */
  async slice(ms: number): Promise<number> {
    const answer = new Promise<string>((resolve, reject) => {
      this.child.stdout.setEncoding('utf8').once('data', resolve);
      this.child.once('exit', (code) => reject(new Error(`the floor ended with ${code}`)));
    });
    this.child.stdin.write(`${ms}\n`);
    const us = Number(await answer);
    this.child.removeAllListeners('exit');
    return us;
  }

  stop(): void {
    this.child.kill('SIGKILL');
  }
}
