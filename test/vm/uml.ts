/**
 * Command line of a User-Mode Linux guest: a process that is a kernel. Its memory is a file on /dev/shm mapped shared,
 * which is what vhost-user needs; the channel is the console tty1 on descriptor 3.
 */
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
