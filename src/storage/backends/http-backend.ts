/** What all backends that speak HTTP have in common: a blob is read by ranged GETs and measured by HEAD. */
import type { Backend } from '../backend.ts';
import type { HttpAnswer, HttpClient } from '../http/http.ts';
import { checkStatus, contentLength, rangeHeader, readRange } from '../http/http-blob.ts';
import { discard } from '../http/http-body.ts';

export type Headers = Record<string, string>;
export type Method = 'GET' | 'HEAD';

/** Sends one request for a blob, with the backend's own headers and in its own way; the answer's status is not looked at. */
export type BlobRequest = (
  method: Method,
  blobId: string,
  headers: Headers,
  signal: AbortSignal,
) => Promise<HttpAnswer>;

/** A backend whose requests are made by `request` over `client`, which it closes. */
export function httpBackend(names: Pick<Backend, 'kind' | 'where'>, client: HttpClient, request: BlobRequest): Backend {
  return {
    ...names,
    async read(blobId, offset, bytes, signal, sink) {
      const answer = await request('GET', blobId, { range: rangeHeader(offset, bytes) }, signal);
      return readRange(client, blobId, answer, { offset, bytes, sink }, signal);
    },
    async size(blobId, signal) {
      const answer = await request('HEAD', blobId, {}, signal);
      checkStatus(blobId, answer);
      discard(answer);
      return contentLength(answer);
    },
    doubt: () => client.doubt?.(),
    close: () => client.close(),
  };
}
