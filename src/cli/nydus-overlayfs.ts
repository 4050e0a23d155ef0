/**
 * `nydus-overlayfs`: mounts what the snapshotter calls `fuse.nydus-overlayfs` as a plain overlay (kata-contract 2).
 *
 *   containerd ─▶ mount.fuse ─▶ sh -c ─▶ nydus-overlayfs overlay TARGET -o OPTIONS ─▶ mount(2)
 *
 * containerd waits for it at every container, so it loads nothing but its options and the one native call.
 */
import { existsSync } from 'node:fs';
import { AppError } from '../common/app-error.ts';
import { BUILD_INFO } from '../daemon/build-info.ts';
import { errnoText } from '../sys/errno.ts';
import { mount } from '../sys/mount.ts';
import { complainRaw, EXIT_FAILED, EXIT_OK, print } from './fail.ts';
import { type OverlayMount, overlayMount, withoutSecrets } from './overlay-options.ts';

const HELP = `Mounts an overlay, without the options that are meant for Kata's runtime.

Usage:
  nydus-overlayfs overlay TARGET -o OPTION[,OPTION...]

Options:
  -h, --help     print this text
  -v, --version  print the version

mount.fuse calls it for mounts of type fuse.nydus-overlayfs.
`;

/** Exit code 0 when the overlay is mounted (or help was asked for), 1 otherwise. */
export async function main(argv: readonly string[]): Promise<number> {
  const [first] = argv;
  if (first === '--help' || first === '-h') print(HELP);
  else if (first === '--version' || first === '-v')
    print(`nydus-overlayfs version ${BUILD_INFO.package_ver} (${BUILD_INFO.git_commit})\n`);
  else return run(argv);
  return EXIT_OK;
}

function run(argv: readonly string[]): number {
  try {
    const plan = overlayMount(argv);
    if (plan.directory !== null) process.chdir(plan.directory);
    const r = mount('overlay', plan.target, 'overlay', plan.flags, plan.data);
    if (r === 0) return EXIT_OK;
    return fail(`cannot mount an overlay at ${withoutSecrets(plan.target)}: ${errnoText(r)}${hint(plan)}`);
  } catch (error) {
    if (error instanceof AppError && error.code === 'ARGUMENT_COUNT') complainRaw(HELP);
    return fail(error instanceof Error ? error.message.replace(/^[A-Z_]+: /, '') : 'unknown error');
  }
}

/** The line of the contract: on stderr, with the time in front, as containerd quotes it. */
function fail(text: string): number {
  const time = new Date().toISOString().slice(0, 19).replaceAll('-', '/').replace('T', ' ');
  complainRaw(`${time} nydus-overlayfs: ${text}\n`);
  return EXIT_FAILED;
}

/** The kernel's answer names no path; the first one that is missing is the usual reason. */
function hint({ target, data }: OverlayMount): string {
  const paths = data
    .split(',')
    .filter((option) => /^(lowerdir|upperdir|workdir)=/.test(option))
    .flatMap((option) => option.slice(option.indexOf('=') + 1).split(':'));
  const missing = [target, ...paths].find((path) => path !== '' && !path.includes('\\') && !existsSync(path));
  return missing === undefined
    ? '; the kernel log (dmesg) may say more'
    : `; ${withoutSecrets(missing)} does not exist`;
}
