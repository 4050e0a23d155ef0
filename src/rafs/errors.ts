import { defineErrors } from '../common/app-error.ts';

interface Facts {
  OPEN: { path: string; why: string };
  NOT_AN_IMAGE: { path: string; found: string };
  NOT_BUILT: { path: string; found: string };
  BROKEN: { path: string; rule: string };
  TRUNCATED: { path: string; offset: number; wantedBytes: number; gotBytes: number };
}

/** Errors of this room: files that are no image, or one that cannot be served. */
export const rafsError = defineErrors<Facts>({
  OPEN: { retryable: false, say: ({ path, why }) => `cannot open bootstrap ${path}: ${why}` },
  NOT_AN_IMAGE: {
    retryable: false,
    say: ({ path, found }) =>
      `${path} is no RAFS bootstrap: it is ${found}; give the path of a nydus image's bootstrap`,
  },
  NOT_BUILT: {
    retryable: false,
    say: ({ path, found }) => `${path}: ${found} is not built yet; convert the image to RAFS v6`,
  },
  BROKEN: { retryable: false, say: ({ path, rule }) => `bootstrap ${path} is invalid (${rule}); fetch it again` },
  TRUNCATED: {
    retryable: true,
    say: ({ path, offset, wantedBytes, gotBytes }) =>
      `bootstrap ${path} ends early: ${gotBytes} of ${wantedBytes} bytes at offset ${offset}; was it truncated?`,
  },
});
