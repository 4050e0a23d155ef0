/**
 * `npm run bench -- build`: our image builder against tar and upstream's, on a real tree (`root.ts`), both cores, page cache
 * warm. Alternating runs, ratios within each; then our image is mounted and compared with its source.
 */
import { spawn, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { assertSame, SHARE_FIELDS } from '../test/vm/compare.ts';
import { hostManifest } from '../test/vm/manifest.ts';
import { Mounted } from './mount.ts';
import { findProgram, versionOf } from './programs.ts';
import { aligned, type Bar, publish } from './record.ts';
import { benchRoot, ROOT_HOME, type Root } from './root.ts';
import { median, ratioOf, spread } from './summary.ts';
import { REPOSITORY } from './tree.ts';
import { PeakMemory } from './usage.ts';

type BuilderName = 'ours' | 'nydus-image' | 'tar | gzip' | 'tar | zstd -3 -T2' | 'mkfs.erofs -zlz4';

interface Builder {
  name: BuilderName;
  version: string;
  /** Shell command that builds from $ROOT into the folder $OUT. */
  command: string;
  /** Rounds it takes part in at most. */
  rounds: number;
}

interface Run {
  seconds: number;
  cpuSeconds: number;
  peakMB: number;
  outputBytes: number;
}

const ROUNDS = 5;
const ROUNDS_QUICK = 1;
/** gzip takes ten times as long as the others, and its bar is far away. */
const ROUNDS_OF_GZIP = 1;
const SAMPLE_MS = 20;
/** Bars of the issue. */
const GZIP_RATIO_MAX = 0.7;
const SIZE_RATIO_MAX = 1.02;
const PEAK_MB_MAX = 256;

const OPTIONS = '--compressor zstd --digester blake3 --chunk-size 0x100000 -B "$OUT/boot" -D "$OUT" "$ROOT"';

function builders(): Builder[] {
  const found: Builder[] = [
    {
      name: 'ours',
      version: '',
      command: `"${join(REPOSITORY, 'bin', 'nydus-image')}" create ${OPTIONS}`,
      rounds: ROUNDS,
    },
  ];
  const add = (
    name: BuilderName,
    programs: readonly string[],
    command: (path: string) => string,
    rounds = ROUNDS,
  ): void => {
    const paths = programs.map((program) => findProgram(program, program === 'nydus-image' ? 'NYDUS_IMAGE' : ''));
    const last = paths.at(-1);
    if (paths.includes(null) || typeof last !== 'string') {
      process.stderr.write(`bench: ${programs.join(' or ')} is not installed: bars against it count as not met\n`);
      return;
    }
    found.push({ name, version: versionOf(last), command: command(last), rounds });
  };
  add('nydus-image', ['nydus-image'], (path) => `"${path}" create -t dir-rafs -v 6 ${OPTIONS}`);
  add('tar | zstd -3 -T2', ['tar', 'zstd'], () => 'tar -C "$ROOT" -cf - . | zstd -3 -T2 -q > "$OUT/out"');
  add('tar | gzip', ['tar', 'gzip'], () => 'tar -C "$ROOT" -cf - . | gzip > "$OUT/out"', ROUNDS_OF_GZIP);
  add('mkfs.erofs -zlz4', ['mkfs.erofs'], () => 'mkfs.erofs --quiet -zlz4 "$OUT/out" "$ROOT"');
  return found;
}

/** @throws Error when a builder fails, or our image differs from its source */
export async function measureBuild(options: { quick: boolean; record: boolean }): Promise<void> {
  const root = benchRoot();
  const all = builders();
  const runs = new Map<BuilderName, Run[]>(all.map(({ name }) => [name, []]));
  const rounds = options.quick ? ROUNDS_QUICK : ROUNDS;
  process.stdout.write(`${root.files} files, ${(root.bytes / 1e6).toFixed(0)} MB, ${rounds} rounds\n`);
  for (let round = 0; round < rounds; round++) {
    for (const builder of round % 2 === 0 ? all : [...all].reverse()) {
      if (round >= builder.rounds) continue;
      const run = await inFolder((out) => once(builder, root, out));
      runs.get(builder.name)!.push(run);
      process.stdout.write(`${builder.name}: ${run.seconds.toFixed(2)} s\n`);
    }
  }
  const compared = await inFolder(async (out) => {
    await once(all[0], root, out);
    return compareMounted(root.path, out);
  });
  process.stdout.write(`our image, mounted, equals its source: ${compared} entries\n`);
  const rows = all.map(({ name }) => cells(name, runs));
  const headings = ['builder', 'time, s', 'ours / this', 'CPU, s', 'peak RSS, MB', 'output, MB'];
  process.stdout.write(`\n${aligned([headings, ...rows])}\n`);
  const versions = Object.fromEntries(all.filter(({ version }) => version !== '').map((b) => [b.name, b.version]));
  publish(
    { name: 'build', headings, rows, bars: bars(runs, compared), versions, figures: Object.fromEntries(runs) },
    options.record,
  );
}

/** Inode numbers are the image's own. */
const COMPARED = SHARE_FIELDS.filter((field) => field !== 'ino');

/** Mounts our image over /dev/fuse with its blob at hand. @returns entries. @throws AssertionError at a difference */
async function compareMounted(source: string, out: string): Promise<number> {
  const backend = { type: 'localfs', config: { dir: out } };
  const options = { validate: true, amplifyBytes: null, prefetch: null };
  const mounted = await Mounted.start('ours', join(out, 'boot'), backend, options, join(out, 'mounted'));
  try {
    const expected = await hostManifest(source);
    assertSame(expected, await hostManifest(mounted.mountpoint), COMPARED, 'our image');
    return expected.size;
  } finally {
    await mounted.stop();
  }
}

async function inFolder<T>(work: (out: string) => Promise<T>): Promise<T> {
  mkdirSync(ROOT_HOME, { recursive: true });
  const out = mkdtempSync(join(ROOT_HOME, 'out-'));
  try {
    return await work(out);
  } finally {
    rmSync(out, { recursive: true, force: true });
  }
}

/** One build, the tree read and earlier output written back before. `times` of the shell counts children to their end. */
async function once(builder: Builder, root: Root, out: string): Promise<Run> {
  const env = { ...process.env, ROOT: root.path, OUT: out };
  spawnSync('sh', ['-c', 'tar -C "$ROOT" -cf - . | cat > /dev/null; sync'], { env });
  const from = performance.now();
  const script = `set -e; { ${builder.command}; } > /dev/null; times >&3`;
  const child = spawn('sh', ['-c', script], { env, stdio: ['ignore', 'ignore', 'pipe', 'pipe'] });
  let said = '';
  let times = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-4000);
  });
  child.stdio[3]?.on('data', (text: Buffer) => {
    times += text.toString();
  });
  const memory = new PeakMemory(child.pid as number);
  const sampling = setInterval(() => memory.look(), SAMPLE_MS);
  const status = await new Promise<number | null>((resolve) => child.on('close', resolve));
  clearInterval(sampling);
  const seconds = (performance.now() - from) / 1000;
  if (status !== 0) throw new Error(`${builder.name} ended with ${status}: ${said}`);
  const outputBytes = readdirSync(out).reduce((sum, name) => sum + statSync(join(out, name)).size, 0);
  return { seconds, cpuSeconds: childSeconds(times), peakMB: memory.peakKiB / 1024, outputBytes };
}

/** The second line of `times` (POSIX): user and system time of the shell's children, as 0m1.234s. */
function childSeconds(times: string): number {
  const values = [...(times.split('\n')[1] ?? '').matchAll(/(\d+)m([\d.]+)s/g)];
  return values.reduce((sum, [, minutes, seconds]) => sum + Number(minutes) * 60 + Number(seconds), 0);
}

function of(runs: readonly Run[], what: keyof Run): number[] {
  return runs.map((run) => run[what]);
}

function cells(name: BuilderName, all: ReadonlyMap<BuilderName, Run[]>): string[] {
  const runs = all.get(name)!;
  const seconds = of(runs, 'seconds');
  const { ratio, spread: width } = ratioOf(of(all.get('ours')!, 'seconds'), seconds);
  return [
    name.replaceAll('|', '\\|'),
    `${median(seconds).toFixed(2)} ± ${spread(seconds).toFixed(2)}`,
    name === 'ours' ? '' : `${ratio.toFixed(2)} ± ${width.toFixed(2)}`,
    median(of(runs, 'cpuSeconds')).toFixed(1),
    Math.max(...of(runs, 'peakMB')).toFixed(0),
    (runs[0].outputBytes / 1e6).toFixed(1),
  ];
}

function bars(runs: ReadonlyMap<BuilderName, Run[]>, compared: number): Bar[] {
  const ours = runs.get('ours')!;
  const against = (name: BuilderName, what: 'seconds' | 'outputBytes') => {
    const peer = runs.get(name);
    return peer === undefined ? null : ratioOf(of(ours, what), of(peer, what));
  };
  const bar = (text: string, got: ReturnType<typeof against>, met: (ratio: number, width: number) => boolean): Bar => ({
    text,
    figure: got === null ? 'not measured' : `${got.ratio.toFixed(3)} ± ${got.spread.toFixed(3)}`,
    met: got !== null && met(got.ratio, got.spread),
  });
  const peakMB = Math.max(...of(ours, 'peakMB'));
  return [
    bar(`time at most ${GZIP_RATIO_MAX} of tar, gzip`, against('tar | gzip', 'seconds'), (r) => r <= GZIP_RATIO_MAX),
    bar('time not above tar, zstd -3 -T2', against('tar | zstd -3 -T2', 'seconds'), (r, width) => r <= 1 + width),
    bar(
      `at most ${SIZE_RATIO_MAX} of upstream's size`,
      against('nydus-image', 'outputBytes'),
      (r) => r <= SIZE_RATIO_MAX,
    ),
    { text: `peak RSS at most ${PEAK_MB_MAX} MB`, figure: `${peakMB.toFixed(0)} MB`, met: peakMB <= PEAK_MB_MAX },
    { text: 'mounted, equal to its source', figure: `${compared} entries`, met: compared > 0 },
  ];
}
