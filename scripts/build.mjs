/**
 * Makes dist/ and bin/. Run by `npm run build`.
 *
 *   dist/nydusd.cjs …   one bundle per command; nydusd's holds both threads
 *   dist/vhost.js       the vhost-user library by itself (exports map of package.json)
 *   bin/nydusd …        launchers with the absolute path of the Node that builds
 *
 * CommonJS, because an ES module entry starts 5 to 20 ms later on Node 20. Parts that are imported lazily stay unread
 * functions in the bundle until somebody asks for them. Native packages and undici stay outside.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
const at = (...names) => join(ROOT, ...names);

/**
 * Command → the one option its interpreter line can take. V8's idle-time collector wakes an idle daemon 8 s after its
 * start for 10 ms, and its timer runs before any code of ours could switch it off.
 */
const COMMANDS = {
  nydusd: '--no-memory-reducer',
  'nydus-image': null,
  'nydus-overlayfs': null,
  nydusctl: null,
  'nydus-backend-proxy': null,
};

const options = (name) => (COMMANDS[name] === null ? [] : [COMMANDS[name]]);

/** Every command's bundle exports `main`; its exit code is set, not enforced: what was started may go on living. */
const LAUNCH = (name) =>
  `require('../dist/${name}.cjs').main(process.argv.slice(2)).then((code) => { process.exitCode = code; });`;

/** For running the daemon once, a second elsewhere. */
const WARM_UP_MS_MAX = 60_000;

const LIBRARIES = { vhost: 'src/vhost/index.ts' };

/** Packages with a native part, which find their files beside themselves; everything else becomes part of the bundles. */
const EXTERNAL = ['koffi', 'zstd-napi', 'lz4-napi', '@napi-rs/blake-hash', '@node-rs/crc32'];

/**
 * koffi's own loader spends 7 of its 10 ms on finding out which C library this is. The launchers are made for the Node
 * that runs now, so the answer is put into the bundle; its loader stays the way when the binary moved.
 */
const koffiDirect = {
  name: 'koffi-direct',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^koffi$/ }, ({ namespace }) =>
      namespace === 'direct' ? { path: 'koffi', external: true } : { path: 'koffi', namespace: 'direct' },
    );
    onResolve({ filter: /\.node$/, namespace: 'direct' }, ({ path }) => ({ path, external: true }));
    onLoad({ filter: /.*/, namespace: 'direct' }, () => ({
      contents: `let direct;
try { direct = require(${JSON.stringify(koffiBinary())}); } catch {}
module.exports = direct?.load === undefined ? require('koffi') : direct;`,
    }));
  },
};

/** koffi's prebuilt binary for this machine as seen from dist/; one that does not exist when it cannot be told. */
function koffiBinary() {
  const isGlibc = process.report.getReport().header.glibcVersionRuntime !== undefined;
  const name = `@koromix/koffi-linux-${process.arch}`;
  return `../node_modules/${name}/${isGlibc ? 'linux' : 'musl'}_${process.arch}/koffi.node`;
}

const packageJson = JSON.parse(readFileSync(at('package.json'), 'utf8'));
const node = process.execPath;

const shared = {
  bundle: true,
  platform: 'node',
  target: 'node20.20',
  external: EXTERNAL,
  sourcemap: false,
  legalComments: 'none',
  logLevel: 'warning',
  absWorkingDir: ROOT,
};

function commit() {
  try {
    return execFileSync('git', ['rev-parse', 'HEAD'], {
      cwd: ROOT,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim();
  } catch {
    return 'unknown';
  }
}

/** The last twelve digits of a bundle's cache are those of its content, so that a bundle never meets the cache of another. */
function removeCaches(name) {
  for (const old of readdirSync(at('dist'))) {
    if (old.startsWith(`${name}.`) && old.endsWith('.cache')) rmSync(at('dist', old));
  }
}

function hashOf(bundle) {
  return createHash('sha256').update(readFileSync(bundle)).digest('hex').slice(0, 12);
}

/**
 * V8's compiled form of a bundle, taken after its start-up modules have run once. Compiling costs each thread 10 ms,
 * reading this 0.2 ms; V8 refuses it when version or flags differ, and then compiles.
 */
function codeCache(name) {
  const bundle = at('dist', `${name}.bundle.cjs`);
  const hash = hashOf(bundle);
  const make = `
    const { readFileSync, writeFileSync } = require('node:fs');
    const source = readFileSync(${JSON.stringify(bundle)}, 'latin1');
    const script = new (require('node:vm').Script)(source, { filename: ${JSON.stringify(bundle)} });
    const module_ = { exports: {} };
    script.runInThisContext()(module_.exports, require('node:module').createRequire(${JSON.stringify(bundle)}), module_, ${JSON.stringify(bundle)}, ${JSON.stringify(at('dist'))});
    module_.exports.main(['--help']).then(() => writeFileSync(${JSON.stringify(at('dist', `${name}.${hash}.cache`))}, script.createCachedData()));`;
  // The cache is good for exactly the options that V8 has when the bundle is compiled.
  execFileSync(node, [...options(name), '-e', make], { stdio: ['ignore', 'ignore', 'inherit'] });
  return `${name}.${hash}.cache`;
}

/**
 * As `codeCache`, of what each thread of the daemon has compiled after it has served an image: a pod's first read does not
 * wait for the compiler. The device thread's is taken when it is told to stop, and in both the flags that the daemon
 * changed while it ran are as at a start again, else V8 would refuse the cache.
 */
async function servedCaches(name) {
  const bundle = at('dist', `${name}.bundle.cjs`);
  const caches = { main: `${name}.main.${hashOf(bundle)}.cache`, device: `${name}.device.${hashOf(bundle)}.cache` };
  const making = at('dist', `${name}.making.cjs`);
  const warmUp = at('dist', 'warm-up.cjs');
  await build({
    ...shared,
    entryPoints: [{ in: 'scripts/warm-up.ts', out: 'warm-up' }],
    outdir: 'dist',
    format: 'cjs',
    outExtension: { '.js': '.cjs' },
    define: { 'import.meta.url': '"file:///warm-up"' },
  });
  writeFileSync(
    making,
    `'use strict';
const { readFileSync, writeFileSync } = require('node:fs');
const { setFlagsFromString } = require('node:v8');
const threads = require('node:worker_threads');
const filename = ${JSON.stringify(bundle)};
const script = new (require('node:vm').Script)(readFileSync(filename, 'latin1'), { filename });
function save(cache) {
  setFlagsFromString('--semi-space-growth-factor=2');
  setFlagsFromString('--heap-growing-percent=0');
  // The daemon has no umask, and whoever could write here would run code in the next one.
  writeFileSync(__dirname + '/' + cache, script.createCachedData(), { mode: 0o644 });
}
const receiveMessageOnPort = (port) => {
  const got = threads.receiveMessageOnPort(port);
  if (got?.message.type === 'stop') save('${caches.device}');
  return got;
};
const requireHere = (id) => (id === 'node:worker_threads' ? { ...threads, receiveMessageOnPort } : require(id));
if (threads.isMainThread) process.on('SIGTERM', () => save('${caches.main}'));
script.runInThisContext()(exports, threads.isMainThread ? require : requireHere, module, __filename, __dirname);
if (threads.isMainThread && require.main === module) module.exports.main(process.argv.slice(2));
`,
  );
  try {
    const daemon = [node, ...options(name), making];
    execFileSync(node, [warmUp, at('bin', 'nydus-image'), ...daemon], {
      stdio: ['ignore', 'ignore', 'inherit'],
      timeout: WARM_UP_MS_MAX,
    });
    if (existsSync(at('dist', caches.main)) && existsSync(at('dist', caches.device))) return caches;
    throw new Error('no caches were written');
  } catch (error) {
    process.stdout.write(`${name} starts with less compiled code, it could not be run here: ${error.message}\n`);
    const cache = codeCache(name);
    return { main: cache, device: cache };
  } finally {
    for (const made of [making, warmUp]) rmSync(made, { force: true });
  }
}

/** What `require('dist/NAME.cjs')` and workers load: bundle and cache. esbuild writes ASCII, so latin1 is exact and small. */
function loader(name, { main, device }) {
  const cache =
    main === device ? `'/${main}'` : `(require('node:worker_threads').isMainThread ? '/${main}' : '/${device}')`;
  return `'use strict';
const { readFileSync } = require('node:fs');
const { Script } = require('node:vm');
const filename = __dirname + '/${name}.bundle.cjs';
let cachedData;
try { cachedData = readFileSync(__dirname + ${cache}); } catch {}
new Script(readFileSync(filename, 'latin1'), { filename, cachedData }).runInThisContext()(exports, require, module, __filename, __dirname);
`;
}

mkdirSync(at('bin'), { recursive: true });
mkdirSync(at('dist'), { recursive: true });
// Beside extensionless launchers: the package is of type module, they are not.
writeFileSync(at('bin', 'package.json'), '{"type":"commonjs"}\n');

const buildInfo = { version: packageJson.version, commit: commit(), time: new Date().toUTCString() };
const commands = Object.keys(COMMANDS).filter((name) => existsSync(at('src/cli', `${name}.ts`)));
await build({
  ...shared,
  entryPoints: commands.map((name) => ({ in: `src/cli/${name}.ts`, out: `${name}.bundle` })),
  outdir: 'dist',
  outExtension: { '.js': '.cjs' },
  format: 'cjs',
  // Lazy parts of Node come by `require`: the first `import()` would start the loader of ES modules.
  supported: { 'dynamic-import': false },
  plugins: [koffiDirect],
  define: { NYDUSD_BUILD: JSON.stringify(buildInfo), 'import.meta.url': 'bundleUrl' },
  // Half the size for each thread to read and hold; names stay, for stack traces.
  minifySyntax: true,
  minifyWhitespace: true,
  lineLimit: 160,
  // Wrapped as Node wraps modules, for `loader`. `bundleUrl` is for `createRequire(import.meta.url)`.
  banner: {
    js: `(function (exports, require, module, __filename, __dirname) {
const bundleUrl = 'file://' + encodeURI(__filename).replace(/[?#]/g, encodeURIComponent);`,
  },
  footer: { js: '})' },
});
for (const [name, entry] of Object.entries(LIBRARIES)) {
  if (!existsSync(at(entry))) continue;
  await build({ ...shared, entryPoints: [{ in: entry, out: name }], outdir: 'dist', format: 'esm' });
}
for (const name of [...commands].reverse()) {
  removeCaches(name);
  const cache = name === 'nydusd' ? null : codeCache(name);
  writeFileSync(
    at('dist', `${name}.cjs`),
    loader(name, cache === null ? await servedCaches(name) : { main: cache, device: cache }),
  );
  writeFileSync(at('bin', name), `#!${[node, ...options(name)].join(' ')}\n${LAUNCH(name)}\n`);
  chmodSync(at('bin', name), 0o755);
}
process.stdout.write(`built ${commands.join(', ')} for ${node}\n`);
