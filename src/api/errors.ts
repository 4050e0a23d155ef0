/**
 * Errors as clients of nydusd know them (kata-contract 4.2): a status and `{"code":"UNDEFINED","message":…}` whose text
 * looks like the Rust debug output of upstream. Operators read the text, tests of upstream compare the literal ones.
 */
import { AppError, explain } from '../common/app-error.ts';

/** Which upstream error type wraps what an endpoint throws. */
export type Wrapper =
  | 'DaemonInfo'
  | 'Configure'
  | 'Mount'
  | 'Upgrade'
  | 'Events'
  | 'BackendMetrics'
  | 'BlobcacheMetrics'
  | 'FsBackendInfo'
  | 'GlobalMetrics'
  | 'FsFilesMetrics'
  | 'Pattern'
  | 'InflightMetrics'
  | 'AccessTrace'
  | 'CreateBlobObject'
  | 'DeleteBlobObject'
  | 'GetBlobObjects';

/** An answer that is no success; thrown by handlers for cases that belong to HTTP alone. */
export class HttpError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

export const noRoute = () => new HttpError(404, 'NoRoute');
export const badRequest = () => new HttpError(400, 'BadRequest');
export const missingQuery = (name: string) =>
  new HttpError(400, `QueryString(${quoted(`'${name}' should be specified in query string`)})`);

/** Turns whatever a handler threw into status and message. */
export function toHttp(wrapper: Wrapper, error: unknown): { status: number; message: string } {
  if (error instanceof HttpError) return { status: error.status, message: error.message };
  const code = error instanceof AppError ? error.code : 'UNKNOWN';
  const facts = error instanceof AppError ? (error.facts as Record<string, unknown>) : {};
  // `Mount(…)` carries one more layer upstream.
  const inner = (text: string) =>
    wrapper === 'Mount' ? `Mount(MountFilesystem(${text}))` : `${wrapper}(DaemonAbnormal(${text}))`;
  const other = (text: string) => inner(`Other(${quoted(text)})`);
  switch (code) {
    case 'MOUNT_EXISTS':
      return { status: 500, message: other('object or filesystem already exists') };
    case 'MOUNT_UNKNOWN':
      return { status: 500, message: other("object or filesystem doesn't exist") };
    case 'MOUNT_NOT_RAFS':
      return { status: 500, message: other('filesystem type mismatch, expect RAFS') };
    case 'FS_TYPE':
      return {
        status: 500,
        message: other(
          `invalid argument \`only 'rafs' and 'passthrough_fs' are supported, but ${String(facts['fsType'])} was specified\``,
        ),
      };
    case 'PREFETCH_LIST':
      return { status: 500, message: other('invalid prefetch file list') };
    case 'PREFETCH_TRACE':
      return { status: 500, message: other(`invalid prefetch trace: ${String(facts['reason'])}`) };
    case 'NOT_READY':
      return { status: 503, message: inner('NotReady') };
    case 'UNSUPPORTED':
      return { status: 501, message: inner('Unsupported') };
    case 'WRONG_STATE':
      return { status: 400, message: `${wrapper}(DaemonAbnormal(UnexpectedEvent(${quoted(String(facts['event']))})))` };
    case 'NO_SUPERVISOR':
      return { status: 500, message: `${wrapper}(DaemonAbnormal(UpgradeManager(MissingSupervisorPath)))` };
    case 'NO_COUNTER':
      return { status: 404, message: `${wrapper}(Metrics(Stats(NoCounter)))` };
    case 'LOG_LEVEL':
      return { status: 500, message: 'Configure(ResponsePayloadType)' };
    default:
      return { status: 500, message: other(explain(error)) };
  }
}

/** Rust's `{:?}` of a string, as far as clients can tell. */
function quoted(text: string): string {
  return JSON.stringify(text);
}
