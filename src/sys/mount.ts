/** mount(2) and umount2(2), for the /dev/fuse transport and its tests. */
import { bind, result } from './libc.ts';
import { NativeMemory } from './native-memory.ts';

const cMount = bind('mount', 'int', ['ptr', 'ptr', 'ptr', 'u64', 'ptr']);
const cUmount2 = bind('umount2', 'int', ['ptr', 'int']);

export const MS = {
  RDONLY: 1,
  NOSUID: 2,
  NODEV: 4,
  NOEXEC: 8,
  SYNCHRONOUS: 0x10,
  REMOUNT: 0x20,
  MANDLOCK: 0x40,
  DIRSYNC: 0x80,
  NOATIME: 0x400,
  NODIRATIME: 0x800,
  BIND: 0x1000,
  REC: 0x4000,
  SLAVE: 0x8_0000,
  SHARED: 0x10_0000,
  RELATIME: 0x20_0000,
  STRICTATIME: 0x100_0000,
} as const;
export const MNT_DETACH = 2;

const TEXT_BYTES = 8192;

/** mount(2); all texts are paths or options as bytes or strings. 0 or -errno. Cold: copies its texts. */
export function mount(
  source: string,
  target: string | Uint8Array,
  type: string,
  flags: number,
  options: string,
): number {
  const text = NativeMemory.borrow(TEXT_BYTES * 4);
  const r = result(
    cMount(
      text.putText(0, source),
      text.putText(TEXT_BYTES, target),
      text.putText(TEXT_BYTES * 2, type),
      flags,
      text.putText(TEXT_BYTES * 3, options),
    ),
  );
  text.free();
  return r;
}

/** umount2(2); `flags` 0 or MNT_DETACH. */
export function umount(target: string | Uint8Array, flags: number): number {
  const text = NativeMemory.borrow(TEXT_BYTES);
  const r = result(cUmount2(text.putText(0, target), flags));
  text.free();
  return r;
}
