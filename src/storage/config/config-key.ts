/** What of a configuration may be shared by those that have the same. */
import { createHash } from 'node:crypto';
import { Secret } from './secret.ts';

/** Same content, same key; credentials count but are not kept. */
export function keyOf(value: unknown): string {
  const text = JSON.stringify(value, function reveal(this: Record<string, unknown>, name: string, shown: unknown) {
    const raw = this[name];
    if (raw instanceof Secret) return raw.reveal();
    return raw instanceof Uint8Array ? Buffer.from(raw).toString('hex') : shown;
  });
  return createHash('sha256').update(text).digest('base64');
}
