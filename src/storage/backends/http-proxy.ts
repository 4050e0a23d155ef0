/** Blobs behind a plain HTTP server, also on a UNIX socket: `<addr><path>/<blob id>` (kata-contract 3.6). */
import type { Backend } from '../backend.ts';
import type { HttpProxyConfig } from '../config.ts';
import { discard, type HttpClient } from '../http.ts';
import { checkStatus, contentLength, rangeHeader, readRange } from '../http-blob.ts';

export function openHttpProxy(config: HttpProxyConfig, client: HttpClient): Backend {
  // The host of requests over a UNIX socket means nothing, but HTTP wants one.
  const base = config.addr.startsWith('/') ? 'http://localhost' : config.addr.replace(/\/+$/, '');
  const prefix = config.path.replace(/^\/+|\/+$/g, '');
  const urlOf = (blobId: string) =>
    new URL(`${base}/${prefix === '' ? '' : `${prefix}/`}${encodeURIComponent(blobId).replaceAll('%3A', ':')}`);

  return {
    kind: 'http-proxy',
    where: config.addr.startsWith('/') ? config.addr : `${new URL(base).host}/${prefix}`,
    async read(blobId, offset, bytes, signal, sink) {
      const url = urlOf(blobId);
      const headers = { range: rangeHeader(offset, bytes) };
      const answer = await client.send({ method: 'GET', url, headers }, signal);
      return readRange(client, blobId, url, answer, { offset, bytes, sink }, signal);
    },
    async size(blobId, signal) {
      const url = urlOf(blobId);
      const answer = await client.send({ method: 'HEAD', url, headers: {} }, signal);
      checkStatus(blobId, url, answer);
      discard(answer);
      return contentLength(url, answer);
    },
    close: () => client.close(),
  };
}
