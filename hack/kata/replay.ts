/**
 * `hack/kata/replay [--runtime go|rs] [--vmm qemu|none] [--bin DIR]`: Kata's call sequences against the daemon; a line a
 * step, 1 at the first that fails.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { FrontendGuest, type SandboxGuest } from './guest.ts';
import { makeImage } from './image.ts';
import { REPOSITORY } from './paths.ts';
import type { Runtime } from './requests.ts';
import { Sandbox } from './sandbox.ts';

const USAGE = `Usage: hack/kata/replay [--runtime go|rs] [--vmm qemu|none] [--bin DIR]

  --runtime R  as the Go runtime or as runtime-rs (default: one after the other)
  --vmm V      none: our vhost-user frontend speaks FUSE itself (default); qemu: a guest with its own kernel
  --bin DIR    commands to try (default: those of this repository)
`;
const EXIT_USAGE = 2;
const RUNTIMES: readonly Runtime[] = ['go', 'rs'];
const VMMS: readonly string[] = ['qemu', 'none'];

async function main(argv: string[]): Promise<number> {
  let values: { runtime?: string; vmm?: string; bin?: string; help?: boolean };
  try {
    const options = {
      runtime: { type: 'string' },
      vmm: { type: 'string', default: 'none' },
      bin: { type: 'string' },
      help: { type: 'boolean', short: 'h' },
    } as const;
    values = parseArgs({ args: argv, options }).values;
    if (values.runtime !== undefined && !RUNTIMES.includes(values.runtime as Runtime))
      throw new Error('--runtime is go or rs');
    if (!VMMS.includes(values.vmm!)) throw new Error('--vmm is qemu or none');
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n${USAGE}`);
    return EXIT_USAGE;
  }
  if (values.help) {
    process.stdout.write(USAGE);
    return 0;
  }
  const bin = values.bin ?? join(REPOSITORY, 'bin');
  const runtimes = values.runtime === undefined ? RUNTIMES : [values.runtime as Runtime];
  for (const runtime of runtimes) {
    const dir = mkdtempSync(join(tmpdir(), 'kata-replay-'));
    try {
      await replay(runtime, await guestOf(values.vmm!), bin, dir);
    } catch (error) {
      process.stderr.write(`${runtime}  FAILED: ${(error as Error).message}\n`);
      return 1;
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  }
  return 0;
}

/** What boots guests is loaded where it is asked for. */
async function guestOf(vmm: string): Promise<SandboxGuest> {
  return vmm === 'none' ? new FrontendGuest() : new (await import('./qemu-guest.ts')).QemuGuest();
}

async function replay(runtime: Runtime, guest: SandboxGuest, bin: string, dir: string): Promise<void> {
  const images = [
    await makeImage(join(bin, 'nydus-image'), dir, 'one'),
    await makeImage(join(bin, 'nydus-image'), dir, 'two'),
  ];
  const binds = process.getuid?.() === 0;
  const say = (line: string): void => void process.stdout.write(`${line}\n`);
  if (!binds) say(`${runtime}  not root: without bind mounts`);
  const sandbox = new Sandbox({ runtime, guest, nydusd: join(bin, 'nydusd'), dir, binds, say });
  try {
    await sandbox.start();
    await sandbox.create('c0ffee01', images[0]!);
    await sandbox.create('c0ffee02', images[1]!);
    await sandbox.stop('c0ffee01');
    // Another container comes while one lives on.
    await sandbox.create('c0ffee01x', images[1]!);
    await sandbox.stop('c0ffee02');
    await sandbox.stop('c0ffee01x');
    await sandbox.end();
  } finally {
    sandbox.clear();
  }
}

process.exitCode = await main(process.argv.slice(2));
