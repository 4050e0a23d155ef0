/** Extended attributes on descriptors and on /proc/self/fd paths (O_PATH descriptors refuse the f* calls). */
import { errno } from './errno.ts';
import { bind, result, whole } from './libc.ts';

const cFget = bind('fgetxattr', 'i64', ['int', 'ptr', 'ptr', 'size']);
const cFset = bind('fsetxattr', 'int', ['int', 'ptr', 'ptr', 'size', 'int']);
const cFlist = bind('flistxattr', 'i64', ['int', 'ptr', 'size']);
const cFremove = bind('fremovexattr', 'int', ['int', 'ptr']);
const cGet = bind('getxattr', 'i64', ['ptr', 'ptr', 'ptr', 'size']);
const cSet = bind('setxattr', 'int', ['ptr', 'ptr', 'ptr', 'size', 'int']);
const cList = bind('listxattr', 'i64', ['ptr', 'ptr', 'size']);
const cRemove = bind('removexattr', 'int', ['ptr', 'ptr']);

/** Linux limits (linux/limits.h): a value and a list of names. */
export const XATTR_VALUE_BYTES_MAX = 65536;
export const XATTR_LIST_BYTES_MAX = 65536;
export const XATTR_CREATE = 1;
export const XATTR_REPLACE = 2;

/** Bytes of the value; with `bytes` 0 the size it has. */
export function fgetxattr(fd: number, name: number, value: number, bytes: number): number {
  return whole(bytes) ? result(cFget(fd, name, value, bytes)) : -errno.EINVAL;
}

export function fsetxattr(fd: number, name: number, value: number, bytes: number, flags: number): number {
  return whole(bytes) ? result(cFset(fd, name, value, bytes, flags)) : -errno.EINVAL;
}

export function flistxattr(fd: number, list: number, bytes: number): number {
  return whole(bytes) ? result(cFlist(fd, list, bytes)) : -errno.EINVAL;
}

export function fremovexattr(fd: number, name: number): number {
  return result(cFremove(fd, name));
}

/** As fgetxattr by path; follows links, so only for /proc/self/fd names. */
export function getxattr(path: number, name: number, value: number, bytes: number): number {
  return whole(bytes) ? result(cGet(path, name, value, bytes)) : -errno.EINVAL;
}

export function setxattr(path: number, name: number, value: number, bytes: number, flags: number): number {
  return whole(bytes) ? result(cSet(path, name, value, bytes, flags)) : -errno.EINVAL;
}

export function listxattr(path: number, list: number, bytes: number): number {
  return whole(bytes) ? result(cList(path, list, bytes)) : -errno.EINVAL;
}

export function removexattr(path: number, name: number): number {
  return result(cRemove(path, name));
}
