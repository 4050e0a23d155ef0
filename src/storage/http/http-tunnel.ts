/** The hop to a forward proxy: its address, and tunnels through it (CONNECT, RFC 9110 9.3.6) for https. */
import * as http from 'node:http';
import * as https from 'node:https';
import type { Duplex } from 'node:stream';
import type { SecureContext } from 'node:tls';

export interface ForwardProxy {
  /** Scheme, host and port. */
  url: URL;
  /** Proxy-Authorization, where it wants one. */
  headers: Record<string, string>;
  /** Ask it for http URLs where https is wanted. */
  useHttp: boolean;
}

/** Whom a TLS connection trusts. */
export interface Tls {
  rejectUnauthorized?: boolean;
  secureContext?: SecureContext;
}

/** An agent whose TLS connections run inside tunnels; `shared` are options of all agents. */
export function openTunnelAgent(
  proxy: ForwardProxy,
  shared: http.AgentOptions,
  tls: Tls,
  connectTimeoutMs: number,
): https.Agent {
  return new TunnelAgent(proxy, tls, connectTimeoutMs, { ...shared, ...tls });
}

type Created = (error: Error | null, socket: Duplex) => void;

class TunnelAgent extends https.Agent {
  constructor(
    private readonly proxy: ForwardProxy,
    private readonly tls: Tls,
    private readonly connectTimeoutMs: number,
    options: https.AgentOptions,
  ) {
    super(options);
  }

  override createConnection(options: https.RequestOptions, created: Created): undefined {
    const failed = (error: Error) => (created as (error: Error) => void)(error);
    const host = String(options.host);
    const target = `${host.includes(':') ? `[${host}]` : host}:${options.port}`;
    const { protocol } = this.proxy.url;
    const asking = (protocol === 'https:' ? https : http).request(this.proxy.url, {
      ...this.tls,
      method: 'CONNECT',
      path: target,
      headers: { host: target, ...this.proxy.headers },
      agent: false,
      timeout: this.connectTimeoutMs,
    });
    asking.once('connect', (answer, socket) => {
      if (answer.statusCode === 200) return void created(null, this.secured({ ...options, socket }));
      socket.destroy();
      failed(new Error(`CONNECT answered status ${answer.statusCode}`));
    });
    asking.once('timeout', () => asking.destroy(new Error('CONNECT timed out')));
    asking.once('error', failed);
    asking.end();
    return undefined;
  }

  /** TLS over the tunnel; the agent keeps its sessions. */
  private secured(options: https.RequestOptions & { socket: Duplex }): Duplex {
    return super.createConnection(options) as Duplex;
  }
}
