/** What all HTTP backends have in common in a configuration: TLS, time-outs, forward proxy, mirrors (kata-contract 3.6, 3.8). */
import type { Members } from './config-members.ts';
import { Secret } from './secret.ts';

/** Time-outs in ms, 0 = none. */
export interface HttpConfig {
  skipVerify: boolean;
  caCertFiles: string[];
  timeoutMs: number;
  connectTimeoutMs: number;
  /** Tries after the first that a read gets at least; 0 = our own policy. */
  retryLimit: number;
  /** Replaced as a whole when `PUT /api/v1/config` names another address. */
  proxy: ProxyConfig;
  /** Asked before the server itself, in this order. */
  mirrors: MirrorConfig[];
}

export interface ProxyConfig {
  /** `http://host:port` or `https://host:port` without credentials; empty = no proxy. */
  url: string;
  /** base64 of `user:password` for Proxy-Authorization, empty for none. */
  auth: Secret;
  /** Asked whether the proxy is well; empty = it always counts as well. */
  pingUrl: string;
  /** Go direct when the proxy fails; false = never. */
  fallback: boolean;
  checkIntervalMs: number;
  /** No more probes when nothing was requested for this long. */
  checkPauseMs: number;
  /** Ask the proxy for http URLs where the server's are https: it speaks TLS to the server itself, as dfdaemon does. */
  useHttp: boolean;
}

export interface MirrorConfig {
  /** `http(s)://host[:port]`; requests keep their path. */
  host: string;
  /** Asked when the mirror has failed; empty = `<host>/v2`. */
  pingUrl: string;
  /** Added to every request to this mirror. */
  headers: Record<string, Secret>;
  /** True: its 401 counts, and the token comes from whom it names; false: only the server itself is asked for tokens. */
  authThrough: boolean;
  checkIntervalMs: number;
  /** Failures in a row after which it is left out until its ping succeeds. */
  failureLimit: number;
}

const TIMEOUT_SECONDS_DEFAULT = 5;
/** The reference reads a byte. */
const RETRY_LIMIT_MAX = 255;
/** A day: longer is a typing error. */
const SECONDS_MAX = 86_400;
const CHECK_SECONDS_DEFAULT = 5;
const CHECK_PAUSE_SECONDS_DEFAULT = 300;
const FAILURE_LIMIT_DEFAULT = 5;
const FAILURE_LIMIT_MAX = 255;
/** Mirrors are asked one after another while a reader waits. */
const MIRRORS_MAX = 16;

/** Members common to the HTTP backends. @throws CONFIG */
export function parseHttp(config: Members): HttpConfig {
  const seconds = (name: string) => config.whole(name, TIMEOUT_SECONDS_DEFAULT, SECONDS_MAX) * 1000;
  const proxy = parseProxy(config.optionalObject('proxy'));
  const mirrors = config.objects('mirrors', MIRRORS_MAX).map(parseMirror);
  if (proxy.url !== '' && mirrors.length > 0) {
    throw config.wrongSecret('mirrors', 'proxy.url and mirrors exclude each other');
  }
  return {
    skipVerify: config.flag('skip_verify', false),
    caCertFiles: config.texts('ca_cert_files'),
    timeoutMs: seconds('timeout'),
    connectTimeoutMs: seconds('connect_timeout'),
    retryLimit: config.whole('retry_limit', 0, RETRY_LIMIT_MAX),
    proxy,
    mirrors,
  };
}

function parseProxy(table: Members | null): ProxyConfig {
  if (table?.text('dragonfly_scheduler_endpoint', '')) {
    throw table.wrong('dragonfly_scheduler_endpoint', 'is not supported; set url to the proxy address of dfdaemon');
  }
  const { url, auth } = parseProxyUrl(table?.secret('url') ?? '', (reason) => table!.wrongSecret('url', reason));
  return {
    url,
    auth,
    pingUrl: table === null ? '' : optionalUrl(table, 'ping_url'),
    fallback: table?.flag('fallback', true) ?? true,
    checkIntervalMs: (table?.whole('check_interval', 0, SECONDS_MAX) || CHECK_SECONDS_DEFAULT) * 1000,
    checkPauseMs: (table?.whole('check_pause_elapsed', 0, SECONDS_MAX) || CHECK_PAUSE_SECONDS_DEFAULT) * 1000,
    useHttp: table?.flag('use_http', false) ?? false,
  };
}

/**
 * Takes the address of a forward proxy apart: `[http[s]://][user:password@]host[:port]`, empty for none.
 * @param refuse makes the error; the address itself must not be in it
 */
export function parseProxyUrl(text: string, refuse: (reason: string) => Error): { url: string; auth: Secret } {
  if (text === '') return { url: '', auth: new Secret('') };
  const full = text.includes('://') ? text : `http://${text}`;
  if (!isHttpUrl(full)) throw refuse('must be http://host:port or https://host:port');
  const url = new URL(full);
  return { url: url.origin, auth: loginOf(url) };
}

/** base64 of the `user:password` in a URL, as Basic authentication wants it; empty for none. */
export function loginOf(url: URL): Secret {
  const { username, password } = url;
  if (username + password === '') return new Secret('');
  return new Secret(Buffer.from(`${decoded(username)}:${decoded(password)}`).toString('base64'));
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** A credential that becomes part of a header: base64 of secrets files has a line break behind it. */
export function parseCredential(text: string, refuse: (reason: string) => Error): Secret {
  const trimmed = text.trim();
  if (!/^[\x20-\x7e]*$/.test(trimmed)) throw refuse('holds characters that no header can');
  return new Secret(trimmed);
}

function parseMirror(table: Members): MirrorConfig {
  const text = table.required('host');
  const full = text.includes('://') ? text : `https://${text}`;
  if (!isHttpUrl(full)) throw table.wrongSecret('host', 'must be http://host[:port] or https://host[:port]');
  const url = new URL(full);
  const isBare = url.pathname === '/' && url.search === '' && url.username === '' && url.password === '';
  if (!isBare) throw table.wrongSecret('host', 'must hold no credentials and no path; requests keep their own path');
  return {
    host: url.origin,
    pingUrl: optionalUrl(table, 'ping_url'),
    headers: parseHeaders(table.optionalObject('headers')),
    authThrough: table.flag('auth_through', false),
    checkIntervalMs: (table.whole('health_check_interval', 0, SECONDS_MAX) || CHECK_SECONDS_DEFAULT) * 1000,
    failureLimit: table.whole('failure_limit', FAILURE_LIMIT_DEFAULT, FAILURE_LIMIT_MAX) || 1,
  };
}

function parseHeaders(table: Members | null): Record<string, Secret> {
  const headers: Record<string, Secret> = {};
  for (const name of table?.names() ?? []) {
    const value = table!.secret(name);
    // What node:http takes: no line breaks, so that no header hides in another.
    if (!/^[\w!#$%&'*+.^`|~-]+$/.test(name)) throw table!.wrongSecret(name, 'not the name of a header');
    if (!/^[\t\x20-\x7e\x80-\xff]*$/.test(value)) throw table!.wrongSecret(name, 'not the value of a header');
    headers[name.toLowerCase()] = new Secret(value);
  }
  return headers;
}

function optionalUrl(table: Members, name: string): string {
  const text = table.secret(name);
  if (text !== '' && !isHttpUrl(text)) throw table.wrongSecret(name, 'must be an http(s) URL');
  return text;
}

export function isHttpUrl(text: string): boolean {
  return URL.canParse(text) && /^https?:$/.test(new URL(text).protocol);
}
