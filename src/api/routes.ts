/**
 * The API as a table: path × method → what runs (kata-contract 4.3). The README of this room shows what a request goes
 * through; `server.ts` looks at this table and nothing else.
 */
import type { Daemon } from '../daemon/daemon.ts';
import { daemonError } from '../daemon/errors.ts';
import { parseLogLevel, parseMount, parseObject } from './body.ts';
import { missingQuery, type Wrapper } from './errors.ts';

/** What routes act on. */
export interface Routed {
  daemon: Daemon;
  /** Ends the process as SIGTERM does. */
  exit(): void;
  /** No tolerance for umounts of what is not mounted. */
  strictUmount: boolean;
}

export interface Answer {
  status: number;
  /** Sent as JSON; absent = empty body. */
  body?: unknown;
  /** Sent as it is, in place of a body. */
  text?: { type: string; content: string };
  /** Runs when the answer has left. */
  afterwards?: () => void;
}

interface Ask {
  query: URLSearchParams;
  body: Buffer;
}

export interface Route {
  wrapper: Wrapper;
  /** A body is required, or refused. */
  body: boolean;
  run(target: Routed, ask: Ask): Answer | Promise<Answer>;
}

type Methods = { readonly [M in 'GET' | 'PUT' | 'POST' | 'DELETE']?: Route };

const ok = (body: unknown): Answer => ({ status: 200, body });
const DONE: Answer = { status: 204 };

/** Rollback and repeated clean-up of the Go runtime unmount what never was mounted; an error there leaks a bind mount. */
const TOLERANT_UMOUNT_PREFIX = '/rafs/';

const get = (wrapper: Wrapper, run: Route['run']): Route => ({ wrapper, body: false, run });
const send = get;
const withBody = (wrapper: Wrapper, run: Route['run']): Route => ({ wrapper, body: true, run });
const unsupported = (wrapper: Wrapper, body: boolean, what: string): Route => ({
  wrapper,
  body,
  run: () => {
    throw daemonError('UNSUPPORTED', { what });
  },
});

function mountpointOf(ask: Ask): string {
  const value = ask.query.get('mountpoint');
  if (value === null) throw missingQuery('mountpoint');
  return value;
}

const setDaemon = withBody('Configure', ({ daemon }, ask) => {
  daemon.setLogLevel(parseLogLevel(ask.body));
  return DONE;
});

const mounting = (method: 'mount' | 'remount'): Route =>
  withBody('Mount', async ({ daemon }, ask) => {
    const where = mountpointOf(ask);
    const request = parseMount(ask.body);
    daemon.demandRunning();
    await daemon.mounts[method](where, request);
    return DONE;
  });

const umount = send('Mount', async ({ daemon, strictUmount }, ask) => {
  const where = mountpointOf(ask);
  daemon.demandRunning();
  try {
    await daemon.mounts.umount(where);
  } catch (error) {
    const unknown = (error as { code?: unknown }).code === 'MOUNT_UNKNOWN';
    if (!unknown || strictUmount || !where.startsWith(TOLERANT_UMOUNT_PREFIX)) throw error;
    daemon.log.warn(`umount of ${where}, where nothing is mounted: nothing to do`);
  }
  return DONE;
});

const step = (wrapper: Wrapper, run: (daemon: Daemon) => Promise<void>): Route =>
  send(wrapper, async ({ daemon }) => {
    await run(daemon);
    return DONE;
  });

/** The answer says that a successor may start; then this process ends. */
const leave = send('Configure', async ({ daemon, exit }) => {
  await daemon.leave();
  return { ...DONE, afterwards: exit };
});

type MetricsModule = typeof import('../daemon/metrics.ts');
type Read = (daemon: Daemon, id: string | null, query: URLSearchParams) => unknown;

/** The device thread charges requests when their replies are out, mostly within microseconds; a hung one never does. */
const CHARGED_MS_MAX = 50;

/** Metrics answer for `?id=`, or for the only instance there is. Their module loads with the first question. */
const metrics = (wrapper: Wrapper, pick: (module: MetricsModule) => Read): Route =>
  get(wrapper, async ({ daemon }, { query }) => {
    const read = pick(await import('../daemon/metrics.ts'));
    await daemon.answers(CHARGED_MS_MAX);
    return ok(await read(daemon, query.get('id'), query));
  });

/** The main thread answers by answering; the device thread gets this long (an orchestrator's probe waits no longer). */
const SIGN_OF_LIFE_MS_MAX = 1000;

const plain = (status: number, content: string, type = 'text/plain; charset=utf-8'): Answer => ({
  status,
  text: { type, content },
});

const health = get('DaemonInfo', async ({ daemon }) =>
  (await daemon.answers(SIGN_OF_LIFE_MS_MAX)) ? plain(200, 'ok\n') : plain(503, 'the device thread does not answer\n'),
);

const readiness = get('DaemonInfo', ({ daemon }) =>
  daemon.state === 'RUNNING' ? plain(200, 'ok\n') : plain(503, `${daemon.state}\n`),
);

const prometheus = get('GlobalMetrics', async ({ daemon }) => {
  const { PROMETHEUS_TYPE, prometheusText } = await import('../daemon/prometheus.ts');
  await daemon.answers(CHARGED_MS_MAX);
  return plain(200, prometheusText(daemon), PROMETHEUS_TYPE);
});

export const ROUTES: Readonly<Record<string, Methods>> = {
  __proto__: null as never,
  '/api/v1/daemon': {
    GET: get('DaemonInfo', ({ daemon }) => ok(daemon.info(true))),
    PUT: setDaemon,
  },
  '/api/v2/daemon': {
    GET: get('DaemonInfo', ({ daemon }) => ok(daemon.info(false))),
    PUT: setDaemon,
  },
  '/api/v1/daemon/events': { GET: get('Events', ({ daemon }) => ok(daemon.log.errorEvents())) },
  '/api/v1/daemon/backend': {
    GET: get('FsBackendInfo', ({ daemon }, ask) => ok(daemon.superblockOf(mountpointOf(ask)))),
  },
  '/api/v1/daemon/start': { PUT: step('Configure', (daemon) => daemon.start()) },
  '/api/v1/daemon/exit': { PUT: leave },
  '/api/v1/daemon/fuse/sendfd': { PUT: step('Upgrade', (daemon) => daemon.sendFd()) },
  '/api/v1/daemon/fuse/takeover': { PUT: step('Upgrade', (daemon) => daemon.takeOver()) },
  '/api/v1/mount': { POST: mounting('mount'), PUT: mounting('remount'), DELETE: umount },
  '/api/v1/trace': { GET: get('AccessTrace', async ({ daemon }, ask) => ok(await daemon.trace(mountpointOf(ask)))) },
  '/api/v1/metrics': { GET: metrics('GlobalMetrics', (m) => m.fsMetrics) },
  '/api/v1/metrics/files': { GET: metrics('FsFilesMetrics', (m) => m.filesMetrics) },
  '/api/v1/metrics/pattern': { GET: metrics('Pattern', (m) => m.pattern) },
  '/api/v1/metrics/backend': { GET: metrics('BackendMetrics', (m) => m.backendMetrics) },
  '/api/v1/metrics/blobcache': { GET: metrics('BlobcacheMetrics', (m) => m.blobCacheMetrics) },
  '/api/v1/metrics/inflight': {
    GET: get('InflightMetrics', async ({ daemon }) => {
      const { inflightRequests } = await import('../daemon/inflight.ts');
      const requests = inflightRequests(daemon.stats);
      return requests.length === 0 ? DONE : ok(requests);
    }),
  },
  '/api/v1/config': {
    GET: get('Configure', async ({ daemon }, { query }) => ok(await daemon.images.settings(query.get('id')))),
    PUT: withBody('Configure', async ({ daemon }, { query, body }) => {
      await daemon.images.change(query.get('id'), parseObject(body));
      return DONE;
    }),
  },
  '/metrics': { GET: prometheus },
  '/healthz': { GET: health },
  '/readyz': { GET: readiness },
  '/api/v2/blobs': {
    GET: unsupported('GetBlobObjects', false, 'blob objects'),
    PUT: unsupported('CreateBlobObject', true, 'blob objects'),
    DELETE: unsupported('DeleteBlobObject', false, 'blob objects'),
  },
};
