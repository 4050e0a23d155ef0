/** Bundles the programs that run beside the daemons, as our daemon itself is bundled. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
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

/** CPU microseconds per request of the row's host calls alone, one number per slice; null for rows without any. */
export function floorOf(share: string, row: string, ms: number, slices: number): number[] | null {
  const args = ['-c', BACKEND_CORE, process.execPath, join(OUT, 'floor.cjs'), share, row, String(ms), String(slices)];
  const { status, stdout, stderr } = spawnSync('taskset', args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`floor of ${row}: ${stderr}`);
  const results = JSON.parse(stdout) as number[];
  return results.length === 0 ? null : results;
}
