/** Command line of a QEMU guest: memory in a shared memfd, our device on PCI, channel and QMP on descriptors 3 and 4. */
import type { Assets } from './assets.ts';

export interface DeviceOptions {
  /** vhost-user socket, or null for a guest without our device. */
  socket: string | null;
  tag: string;
  /** Entries per ring, a power of two ≤ 1024 (Kata uses 1024). */
  queueSize: number;
  requestQueues: number;
}

export interface MemoryOptions {
  sizeMib: number;
  /** Above `sizeMib`: DIMMs can be plugged up to here. */
  maxMib: number;
}

const DIMM_SLOTS = 4;

export function qemuArguments(assets: Assets, initrd: string, device: DeviceOptions, memory: MemoryOptions): string[] {
  const hotplug = memory.maxMib > memory.sizeMib ? `,slots=${DIMM_SLOTS},maxmem=${memory.maxMib}M` : '';
  const args = [
    ...['-accel', assets.accel, '-cpu', assets.accel === 'kvm' ? 'host' : 'max', '-nodefaults', '-no-user-config'],
    ...[
      '-machine',
      'q35,memory-backend=mem,i8042=off,hpet=off',
      '-display',
      'none',
      '-m',
      `${memory.sizeMib}M${hotplug}`,
    ],
    ...['-object', `memory-backend-memfd,id=mem,size=${memory.sizeMib}M,share=on`],
    ...['-kernel', assets.kernel, '-initrd', initrd, '-append', kernelCommandLine()],
    ...['-serial', 'stdio'],
    ...['-chardev', 'socket,id=channel,fd=3', '-device', 'virtio-serial-pci,max_ports=2'],
    ...['-device', 'virtserialport,chardev=channel,nr=1'],
    ...['-chardev', 'socket,id=qmp,fd=4', '-mon', 'chardev=qmp,mode=control'],
  ];
  if (device.socket === null) return args;
  const queues = `queue-size=${device.queueSize},num-request-queues=${device.requestQueues}`;
  return [
    ...args,
    ...['-chardev', `socket,id=fs,path=${device.socket}`],
    ...['-device', `vhost-user-fs-pci,chardev=fs,tag=${device.tag},${queues}`],
  ];
}

/** panic=0 keeps a panicked guest still, so that its console is complete when we look. */
function kernelCommandLine(): string {
  return 'console=ttyS0 panic=0 quiet loglevel=4 memhp_default_state=online tsc=unstable random.trust_cpu=on no_timer_check';
}
