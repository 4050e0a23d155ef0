/** Whom TLS connections trust. */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import type { SecureContext } from 'node:tls';

const require = createRequire(import.meta.url);

/** Where distributions keep the authorities that a host trusts. */
const HOST_AUTHORITIES = [
  '/etc/ssl/certs/ca-certificates.crt',
  '/etc/pki/tls/certs/ca-bundle.crt',
  '/etc/ssl/ca-bundle.pem',
  '/etc/ssl/cert.pem',
];

/**
 * Trusts `ca` (PEM) beside the host's authorities, or Node's where the host has none: redirects lead from a private registry
 * to public object stores. Node would not look at the host's, where a registry's own authority may have been put.
 */
export function trusting(ca: readonly string[]): SecureContext {
  const { createSecureContext, rootCertificates } = require('node:tls') as typeof import('node:tls');
  for (const path of [process.env['SSL_CERT_FILE'] ?? '', ...HOST_AUTHORITIES]) {
    const host = textOf(path);
    if (host.includes('-----BEGIN CERTIFICATE-----')) return createSecureContext({ ca: [host, ...ca] });
  }
  return createSecureContext({ ca: [...rootCertificates, ...ca] });
}

/** Empty when the file cannot be read. */
function textOf(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return '';
  }
}
