/** Everything that can stop a build or a check, as codes; the message says what to do. */
import { defineErrors } from '../common/app-error.ts';

interface Facts {
  OPTION: { option: string; why: string };
  NOT_BUILT: { what: string; instead: string };
  SOURCE: { path: string; call: string; errno: string };
  SOURCE_CHANGED: { path: string; wantedBytes: number; gotBytes: number };
  SOURCE_LIMIT: { path: string; rule: string };
  XATTR: { path: string; name: string };
  BLOB_LIMIT: { rule: string };
  BOOTSTRAP_LIMIT: { bytes: number; limitBytes: number };
  OUTPUT: { path: string; why: string };
  WORKER: { why: string };
  CHECK: { path: string; rule: string };
}

/** Constructor of this room's errors: `throw imageError('OPTION', { option, why })`. */
export const imageError = defineErrors<Facts>({
  OPTION: { retryable: false, say: (f) => `${f.option}: ${f.why}` },
  NOT_BUILT: { retryable: false, say: (f) => `${f.what} is not built yet; ${f.instead}` },
  SOURCE: { retryable: false, say: (f) => `${f.call} of source ${f.path} failed: ${f.errno}` },
  SOURCE_CHANGED: {
    retryable: true,
    say: (f) => `source ${f.path} shrank while it was read (${f.gotBytes} of ${f.wantedBytes} bytes); try again`,
  },
  SOURCE_LIMIT: { retryable: false, say: (f) => `source ${f.path} does not fit the format: ${f.rule}` },
  XATTR: {
    retryable: false,
    say: (f) =>
      `source ${f.path} has the extended attribute ${f.name}; images hold user.*, trusted.*, security.* and POSIX ACLs only`,
  },
  BLOB_LIMIT: { retryable: false, say: (f) => `the data does not fit one blob: ${f.rule}` },
  BOOTSTRAP_LIMIT: {
    retryable: false,
    say: (f) => `the bootstrap would have ${f.bytes} bytes, readers accept ${f.limitBytes}`,
  },
  OUTPUT: { retryable: false, say: (f) => `cannot write ${f.path}: ${f.why}` },
  WORKER: { retryable: true, say: (f) => `compression thread: ${f.why}` },
  CHECK: { retryable: false, say: (f) => `${f.path}: ${f.rule}` },
});
