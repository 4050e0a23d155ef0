/** Bundles a worker of the tests: Node 20 cannot start a `.ts` file as a worker, and tsx does not reach into workers. */
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { buildSync } from 'esbuild';

/** Path of a JS file made from the TypeScript entry `url`; in `dist/test`, where native packages are found. */
export function bundleWorker(url: URL): string {
  const entry = fileURLToPath(url);
  const root = path.resolve(fileURLToPath(new URL('../..', import.meta.url)));
  const outfile = path.join(root, 'dist', 'test', `${path.basename(entry, '.ts')}-${process.pid}.cjs`);
  buildSync({
    entryPoints: [entry],
    bundle: true,
    platform: 'node',
    target: 'node20',
    format: 'cjs',
    packages: 'external',
    define: { 'import.meta.url': 'bundleUrl' },
    banner: { js: "const bundleUrl = require('node:url').pathToFileURL(__filename).href;" },
    outfile,
    logLevel: 'error',
  });
  return outfile;
}
