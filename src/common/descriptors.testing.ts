/** What this process has open, for tests that nothing is left behind. */
import { readdirSync, readlinkSync } from 'node:fs';

/**
 * Sources and the compiled copies tsx keeps of them: the thread that loads modules opens and closes these whenever it
 * likes, so that a plain count differs by one now and then.
 */
const OF_LOADER = /\.([cm]?[jt]s|json|node)$|\/tsx-\d+(\/|$)/;

/** Targets of the open descriptors. */
export function openDescriptors(): string[] {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      const target = readlinkSync(`/proc/self/fd/${fd}`);
      return OF_LOADER.test(target) ? [] : [target];
    } catch {
      return []; // closed meanwhile: the listing's own descriptor is
    }
  });
}

export function fdCount(): number {
  return openDescriptors().length;
}
