/**
 * Blobs in object stores (kata-contract 3.6): S3 at `<scheme>://<endpoint>/<bucket>/<prefix><blob id>`, signed with
 * AWS signature version 4; OSS at `<scheme>://<bucket>.<endpoint>/<prefix><blob id>`, signed with HMAC-SHA1. Without an
 * access key requests go unsigned, which public buckets take.
 */
import { createHash, createHmac } from 'node:crypto';
import type { Backend } from '../backend.ts';
import type { ObjectStoreConfig } from '../config/config.ts';
import type { HttpClient } from '../http/http.ts';
import { type Headers, httpBackend, type Method } from './http-backend.ts';

const EMPTY_SHA256 = createHash('sha256').digest('hex');

export function openObjectStore(config: ObjectStoreConfig, client: HttpClient): Backend {
  const { kind, scheme, endpoint, bucket } = config;
  const keyOf = (blobId: string) => `${config.objectPrefix}${blobId}`;
  const urlOf = (blobId: string) =>
    kind === 's3'
      ? new URL(`${scheme}://${endpoint}/${encodePath(`${bucket}/${keyOf(blobId)}`)}`)
      : new URL(`${scheme}://${bucket}.${endpoint}/${encodePath(keyOf(blobId))}`);

  async function request(method: Method, blobId: string, headers: Headers, signal: AbortSignal) {
    const url = urlOf(blobId);
    const now = new Date();
    const signed = config.accessKeyId === '' ? headers : sign(config, method, url, keyOf(blobId), headers, now);
    return client.send({ purpose: 'blob', method, url, headers: signed }, signal);
  }

  return httpBackend({ kind, where: `${endpoint}/${bucket}` }, client, request);
}

function sign(config: ObjectStoreConfig, method: Method, url: URL, key: string, headers: Headers, now: Date): Headers {
  const secret = config.accessKeySecret.reveal();
  if (config.kind === 's3') {
    return signV4({ ...config, secret }, method, url, headers, now);
  }
  const date = now.toUTCString();
  const authorization = ossAuthorization(config.accessKeyId, secret, method, date, `/${config.bucket}/${key}`);
  return { ...headers, date, authorization };
}

/** `headers` with what signature version 4 adds, for a request without body (AWS S3 API, "Signing and authenticating"). */
export function signV4(
  keys: { accessKeyId: string; secret: string; region: string },
  method: Method,
  url: URL,
  headers: Headers,
  now: Date,
): Headers {
  const time = now.toISOString().replace(/[-:]|\.\d{3}/g, '');
  const day = time.slice(0, 8);
  const all: Headers = { ...headers, 'x-amz-content-sha256': EMPTY_SHA256, 'x-amz-date': time };
  const signed: [string, string][] = Object.entries({ ...all, host: url.host });
  signed.sort(([a], [b]) => (a < b ? -1 : 1));
  const names = signed.map(([name]) => name).join(';');
  const lines = signed.map(([name, value]) => `${name}:${value.trim()}\n`).join('');
  const canonical = [method, url.pathname, url.search.slice(1), lines, names, EMPTY_SHA256].join('\n');
  const scope = `${day}/${keys.region}/s3/aws4_request`;
  const digest = createHash('sha256').update(canonical).digest('hex');
  const hmac = (key: string | Buffer, text: string) => createHmac('sha256', key).update(text).digest();
  const key = [day, keys.region, 's3', 'aws4_request'].reduce<string | Buffer>(hmac, `AWS4${keys.secret}`);
  const signature = hmac(key, `AWS4-HMAC-SHA256\n${time}\n${scope}\n${digest}`).toString('hex');
  const credential = `Credential=${keys.accessKeyId}/${scope}`;
  const authorization = `AWS4-HMAC-SHA256 ${credential}, SignedHeaders=${names}, Signature=${signature}`;
  return { ...all, authorization };
}

/** Authorization header of OSS for a request without body and `x-oss-` headers (OSS API, "Sign in the header"). */
export function ossAuthorization(
  accessKeyId: string,
  secret: string,
  method: Method,
  date: string,
  resource: string,
): string {
  const text = `${method}\n\n\n${date}\n${resource}`;
  return `OSS ${accessKeyId}:${createHmac('sha1', secret).update(text).digest('base64')}`;
}

/** As both stores want it: every byte but the unreserved ones and `/` as %XX, in the URL and in what is signed alike. */
export function encodePath(path: string): string {
  const code = (char: string) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`;
  return path
    .split('/')
    .map((part) => encodeURIComponent(part).replace(/[!'()*]/g, code))
    .join('/');
}
