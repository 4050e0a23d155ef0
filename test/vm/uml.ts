/** Command line of a User-Mode Linux guest: a process that is a kernel, with its memory in a shared file. */
import type { Assets } from './assets.ts';
import type { DeviceOptions, MemoryOptions } from './qemu.ts';

/** The virtio id of a file system device. */
const VIRTIO_ID_FS = 26;

export function umlArguments(initrd: string, scratch: string, device: DeviceOptions, memory: MemoryOptions): string[] {
  const args = [
    ...[`mem=${memory.sizeMib}M`, `initrd=${initrd}`, `uml_dir=${scratch}`, 'umid=guest'],
    ...['con=null', 'con0=null,fd:1', 'con1=fd:3', 'ssl=null', 'panic=0', 'quiet', 'loglevel=4'],
  ];
  return device.socket === null ? args : [...args, `virtio_uml.device=${device.socket}:${VIRTIO_ID_FS}`];
}

/** UML maps its memory from a file in TMPDIR; it has to be a tmpfs for speed and must be shared for vhost-user. */
export function umlProgram(assets: Assets): string {
  return assets.program;
}
