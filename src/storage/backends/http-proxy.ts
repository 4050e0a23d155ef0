/** Blobs behind a plain HTTP server, also on a UNIX socket: `<addr><path>/<blob id>` (kata-contract 3.6). */
import type { Backend } from '../backend.ts';
import type { HttpProxyConfig } from '../config/config.ts';
import type { HttpClient } from '../http/http.ts';
import { checkStatus, contentLength, rangeHeader, readRange } from '../http/http-blob.ts';
import { discard } from '../http/http-body.ts';

export function openHttpProxy(config: HttpProxyConfig, client: HttpClient): Backend {
  // The host of requests over a UNIX socket means nothing, but HTTP wants one.
  const base = config.addr.startsWith('/') ? 'http://localhost' : config.addr;
  const login: Record<string, string> = config.auth.isEmpty ? {} : { authorization: `Basic ${config.auth.reveal()}` };
  const prefix = config.path.replace(/^\/+|\/+$/g, '');
  const urlOf = (blobId: string) =>
    new URL(`${base}/${prefix === '' ? '' : `${prefix}/`}${encodeURIComponent(blobId).replaceAll('%3A', ':')}`);

  return {
    kind: 'http-proxy',
    where: config.addr.startsWith('/') ? config.addr : `${new URL(base).host}/${prefix}`,
    async read(blobId, offset, bytes, signal, sink) {
      const headers = { ...login, range: rangeHeader(offset, bytes) };
      const answer = await client.send({ purpose: 'blob', method: 'GET', url: urlOf(blobId), headers }, signal);
      return readRange(client, blobId, answer, { offset, bytes, sink }, signal);
    },
    async size(blobId, signal) {
      const answer = await client.send({ purpose: 'blob', method: 'HEAD', url: urlOf(blobId), headers: login }, signal);
      checkStatus(blobId, answer);
      discard(answer);
      return contentLength(answer);
    },
    doubt: () => client.doubt?.(),
    close: () => client.close(),
  };
}
