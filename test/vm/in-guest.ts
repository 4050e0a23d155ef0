/**
 * A test's cases as data, turned into the initial root file system that runs them.
 *
 * `/init` mounts the basics, loads modules, opens the channel on descriptor 3 and runs each case with `sh -eu`; a case
 * passes when its script ends with 0. Helpers a case may call: `send NAME FILE`, `ask NAME`, `fail TEXT…`,
 * `same EXPECTED ACTUAL`, `mount_share`, `manifest NAME DIR`.
 */
import { basename } from 'node:path';
import { type Assets, GUEST_TOOLS, librariesOf, moduleFiles, which } from './assets.ts';
import { Initrd } from './initrd.ts';
import { MANIFEST_SH } from './manifest.ts';

export interface GuestCase {
  name: string;
  /** Shell text; `set -eu` is on, `/share` is free to mount on, `/tmp` is a tmpfs. */
  run: string;
}

export interface GuestScript {
  /** Cases per boot, in order; after each boot but the last the guest asks for a reset. */
  boots: readonly (readonly GuestCase[])[];
  /** Extra files of the guest. */
  files?: Readonly<Record<string, string>>;
}

/** One boot, no extra files. */
export function script(...cases: GuestCase[]): GuestScript {
  return { boots: [cases] };
}

/** The first case of nearly every script. */
export const MOUNT_SHARE: GuestCase = { name: 'mount', run: 'mount_share' };

const MODULES = ['fuse', 'virtiofs', 'overlay'];
const QEMU_MODULES = ['virtio_pci', 'virtio_console'];

/** Builds the archive. @throws VM_PART_MISSING */
export function buildInitrd(assets: Assets, guestScript: GuestScript, tag: string): Buffer {
  const initrd = new Initrd();
  for (const folder of ['proc', 'sys', 'dev', 'tmp', 'share', 'bin', 'modules']) initrd.directory(folder);
  // The kernel opens /dev/console before /init could mount devtmpfs.
  initrd.charDevice('dev/console', 5, 1);
  initrd.copy(assets.busybox, 'bin/busybox');
  addTools(initrd);
  const modules = moduleFiles(assets.modules, assets.kind === 'qemu' ? [...QEMU_MODULES, ...MODULES] : MODULES);
  modules.forEach((path, index) => {
    initrd.copy(path, `modules/${String(index).padStart(2, '0')}-${basename(path)}`, 0o644);
  });
  guestScript.boots.forEach((cases, boot) => {
    cases.forEach((entry, index) => {
      initrd.file(`cases/${boot + 1}/${String(index).padStart(3, '0')}/name`, entry.name.replaceAll(/\s/g, '-'));
      initrd.file(`cases/${boot + 1}/${String(index).padStart(3, '0')}/run`, `. /lib/guest.sh\n${entry.run}\n`);
    });
  });
  for (const [path, content] of Object.entries(guestScript.files ?? {})) initrd.file(path, content);
  initrd.file('lib/guest.sh', `TAG=${tag}\n${GUEST_SH}\n${MANIFEST_SH}`);
  initrd.file('init', initSh(assets, guestScript.boots.length), 0o755);
  return initrd.bytes();
}

/** Host programs with their libraries at the paths the loader looks for. */
function addTools(initrd: Initrd): void {
  const libraries = new Set<string>();
  for (const tool of GUEST_TOOLS) {
    initrd.copy(which(tool), `gnu/${tool}`);
    for (const library of librariesOf(tool)) libraries.add(library);
  }
  for (const library of libraries) initrd.copy(library, library);
}

/** busybox's shell prefers its own applets to PATH, hence the functions. */
const GUEST_SH = `
${GUEST_TOOLS.map((tool) => `${tool}() { /gnu/${tool} "$@"; }`).join('\n')}
send() { printf 'data %s %s\\n' "$1" "$(stat -c %s "$2")" >&3; cat "$2" >&3; }
ask() { printf 'ask %s\\n' "$1" >&3; read -r answer <&3; printf '%s\\n' "$answer"; }
fail() { echo "$*"; exit 1; }
same() { [ "$1" = "$2" ] || fail "expected '$1', got '$2'"; }
mount_share() { mount -t virtiofs "$TAG" /share; }
`;

/** busybox is pid 1: when it exits the kernel panics, so every path ends in poweroff. */
function initSh(assets: Assets, boots: number): string {
  const channel =
    assets.kind === 'qemu'
      ? 'while ! ls /dev/vport*p1 >/dev/null 2>&1; do sleep 0.02; done; exec 3<>$(ls /dev/vport*p1)'
      : 'exec 3<>/dev/tty1; stty raw -echo <&3';
  return `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/gnu:/bin HOME=/ LC_ALL=C
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs -o size=75% tmp /tmp
for module in /modules/*; do insmod "$module" || echo "insmod $module failed"; done
${channel}
. /lib/guest.sh
printf 'hello\\n' >&3
read -r BOOT <&3
export BOOT
count=0
for folder in /cases/$BOOT/*; do
  [ -f "$folder/run" ] || continue
  name=$(cat "$folder/name")
  printf 'start %s\\n' "$name" >&3
  sh -eu "$folder/run" </dev/null >/tmp/output 2>&1
  status=$?
  printf 'case %s %s %s\\n' "$name" "$status" "$(stat -c %s /tmp/output)" >&3
  cat /tmp/output >&3
  count=$((count + 1))
done
if [ "$BOOT" -lt ${boots} ]; then ask reboot; sleep 60; fi
printf 'done %s\\n' "$count" >&3
ask poweroff
poweroff -f
`;
}
