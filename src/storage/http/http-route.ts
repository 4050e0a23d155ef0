/**
 * The ways of a request: mirrors first, then the forward proxy, then the server itself (kata-contract 3.8).
 *
 * | purpose | mirrors | proxy | what it is |
 * |---|---|---|---|
 * | blob | yes | yes | data of the configured server |
 * | redirected | no | yes | data at a place the server named: a mirror has not got that path |
 * | token, ping | no | no | credentials and probes |
 */
import { explain } from '../../common/app-error.ts';
import type { Logger } from '../../common/log.ts';
import type { HttpConfig, MirrorConfig, ProxyConfig } from '../config/config.ts';
import { wasTooSlow } from '../retry.ts';
import type { HttpAnswer, HttpClient, HttpRequest } from './http.ts';
import { discard } from './http-body.ts';
import { MirrorHealth, ProxyHealth } from './http-health.ts';
import type { ForwardProxy } from './http-tunnel.ts';

/** Long enough for what was wrong to be fetched anew, short enough that a mirror soon helps again. */
const DOUBT_MS = 5_000;

/** Opens a client of the same settings, through a proxy or without one. */
export type OpenClient = (proxy: ForwardProxy | null) => Promise<HttpClient>;

/** A client that goes the ways of `config`, whose `proxy` may be replaced while it runs. */
export async function openRoutedClient(config: HttpConfig, open: OpenClient, log: Logger): Promise<HttpClient> {
  const direct = await open(null);
  const mirrors = config.mirrors.map((mirror) => new MirrorWay(mirror, direct, log));
  let doubtedUntilMs = 0;
  let proxy: { config: ProxyConfig; opening: Promise<ProxyWay | null> } | null = null;

  function proxyNow(): Promise<ProxyWay | null> {
    if (proxy?.config === config.proxy) return proxy.opening;
    const old = proxy?.opening;
    const opening = config.proxy.url === '' ? Promise.resolve(null) : openProxy(config.proxy, direct, open, log);
    proxy = { config: config.proxy, opening };
    void old?.then((gone) => gone?.close());
    return opening;
  }

  return {
    bodyTimeoutMs: direct.bodyTimeoutMs,
    async send(request, signal) {
      const { purpose } = request;
      const isDoubted = performance.now() < doubtedUntilMs;
      for (const mirror of purpose === 'blob' && !isDoubted ? mirrors : []) {
        const answer = await mirror.send(request, signal);
        if (answer !== null) return answer;
      }
      const isForProxy = purpose === 'blob' || purpose === 'redirected';
      const by = isForProxy && !(isDoubted && config.proxy.fallback) ? await proxyNow() : null;
      return (await by?.send(request, signal)) ?? direct.send(request, signal);
    },
    doubt() {
      doubtedUntilMs = performance.now() + DOUBT_MS;
    },
    close() {
      for (const mirror of mirrors) mirror.close();
      void proxy?.opening.then((open) => open?.close());
      direct.close();
    },
  };
}

class MirrorWay {
  private readonly health: MirrorHealth;
  private readonly host: URL;

  constructor(
    private readonly config: MirrorConfig,
    private readonly client: HttpClient,
    log: Logger,
  ) {
    this.health = new MirrorHealth(config, client, log);
    this.host = new URL(config.host);
  }

  /** null: somebody else has to be asked. @throws the signal's reason */
  async send(request: HttpRequest, signal: AbortSignal): Promise<HttpAnswer | null> {
    if (!this.health.isWell) return null;
    const startedMs = performance.now();
    let answer: HttpAnswer;
    try {
      answer = await this.client.send(this.translated(request), signal);
    } catch (error) {
      if (wasTooSlow(signal, startedMs)) this.health.failed('no answer while a reader waited');
      if (signal.aborted) throw error;
      this.health.failed(explain(error));
      return null;
    }
    if (this.isTaken(answer.status)) {
      answer.ended = (isWhole) => (isWhole ? this.health.worked() : this.health.failed('a body broke off'));
      return answer;
    }
    discard(answer);
    // What it has not got, or does not give to us, says nothing of its health.
    if (answer.status >= 500) this.health.failed(`status ${answer.status}`);
    return null;
  }

  private translated(request: HttpRequest): HttpRequest {
    const url = new URL(request.url);
    url.protocol = this.host.protocol;
    url.hostname = this.host.hostname;
    url.port = this.host.port;
    const headers = { ...request.headers };
    for (const [name, value] of Object.entries(this.config.headers)) headers[name] = value.reveal();
    return { ...request, url, headers };
  }

  private isTaken(status: number): boolean {
    return status < 400 || (status === 401 && this.config.authThrough);
  }

  close(): void {
    this.health.close();
  }
}

async function openProxy(config: ProxyConfig, direct: HttpClient, open: OpenClient, log: Logger): Promise<ProxyWay> {
  const auth = config.auth.reveal();
  const headers: Record<string, string> = auth === '' ? {} : { 'proxy-authorization': `Basic ${auth}` };
  const client = await open({ url: new URL(config.url), headers, useHttp: config.useHttp });
  return new ProxyWay(config, client, new ProxyHealth(config, direct, log));
}

class ProxyWay {
  constructor(
    private readonly config: ProxyConfig,
    private readonly client: HttpClient,
    private readonly health: ProxyHealth,
  ) {}

  /** null: the server itself has to be asked. @throws when there is no fall-back, or the signal's reason */
  async send(request: HttpRequest, signal: AbortSignal): Promise<HttpAnswer | null> {
    const { fallback } = this.config;
    if (!this.health.isWell && fallback) return null;
    const startedMs = performance.now();
    let answer: HttpAnswer;
    try {
      answer = await this.client.send(request, signal);
    } catch (error) {
      if (fallback && wasTooSlow(signal, startedMs)) this.health.failed('no answer while a reader waited', true);
      if (signal.aborted || !fallback) throw error;
      this.health.failed(explain(error), (error as { code?: unknown }).code === 'HTTP_TIMEOUT');
      return null;
    }
    if (fallback && isProxyTrouble(answer.status)) {
      discard(answer);
      this.health.failed(`status ${answer.status}`, false);
      return null;
    }
    answer.ended = (isWhole) => (isWhole ? this.health.worked() : this.health.failed('a body broke off', true));
    return answer;
  }

  close(): void {
    this.health.close();
    this.client.close();
  }
}

/** It fails, wants credentials that it does not get, or has had enough of us. */
function isProxyTrouble(status: number): boolean {
  return status >= 500 || status === 407 || status === 429;
}
