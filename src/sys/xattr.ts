/** Extended attributes by /proc/self/fd path: O_PATH descriptors refuse the f* calls. */
import { errno } from './errno.ts';
import { bind, result, whole } from './libc.ts';

const cGet = bind('getxattr', 'i64', ['ptr', 'ptr', 'ptr', 'size']);
const cSet = bind('setxattr', 'int', ['ptr', 'ptr', 'ptr', 'size', 'int']);
const cList = bind('listxattr', 'i64', ['ptr', 'ptr', 'size']);
const cListOfLink = bind('llistxattr', 'i64', ['ptr', 'ptr', 'size']);
const cRemove = bind('removexattr', 'int', ['ptr', 'ptr']);

/** Linux limits (linux/limits.h): a value and a list of names. */
export const XATTR_VALUE_BYTES_MAX = 65536;
export const XATTR_LIST_BYTES_MAX = 65536;
export const XATTR_CREATE = 1;
export const XATTR_REPLACE = 2;

/** Bytes of the value; with `bytes` 0 the size it has. Follows links, so only for /proc/self/fd names. */
export function getxattr(path: number, name: number, value: number, bytes: number): number {
  return whole(bytes) ? result(cGet(path, name, value, bytes)) : -errno.EINVAL;
}

export function setxattr(path: number, name: number, value: number, bytes: number, flags: number): number {
  return whole(bytes) ? result(cSet(path, name, value, bytes, flags)) : -errno.EINVAL;
}

export function listxattr(path: number, list: number, bytes: number): number {
  return whole(bytes) ? result(cList(path, list, bytes)) : -errno.EINVAL;
}

/** Bytes that the list of names of the object itself takes; of a link, not of what it leads to. */
export function xattrListBytes(path: number): number {
  return result(cListOfLink(path, 0, 0));
}

export function removexattr(path: number, name: number): number {
  return result(cRemove(path, name));
}
