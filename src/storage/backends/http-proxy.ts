/** Blobs behind a plain HTTP server, also on a UNIX socket: `<addr><path>/<blob id>` (kata-contract 3.6). */
import type { Backend } from '../backend.ts';
import type { HttpProxyConfig } from '../config/config.ts';
import type { HttpClient } from '../http/http.ts';
import { httpBackend } from './http-backend.ts';

export function openHttpProxy(config: HttpProxyConfig, client: HttpClient): Backend {
  // The host of requests over a UNIX socket means nothing, but HTTP wants one.
  const base = config.addr.startsWith('/') ? 'http://localhost' : config.addr;
  const login: Record<string, string> = config.auth.isEmpty ? {} : { authorization: `Basic ${config.auth.reveal()}` };
  const prefix = config.path.replace(/^\/+|\/+$/g, '');
  const urlOf = (blobId: string) =>
    new URL(`${base}/${prefix === '' ? '' : `${prefix}/`}${encodeURIComponent(blobId).replaceAll('%3A', ':')}`);

  const where = config.addr.startsWith('/') ? config.addr : `${new URL(base).host}/${prefix}`;

  return httpBackend({ kind: 'http-proxy', where }, client, (method, blobId, headers, signal) =>
    client.send({ purpose: 'blob', method, url: urlOf(blobId), headers: { ...login, ...headers } }, signal),
  );
}
