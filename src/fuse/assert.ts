/** Assertions that stay on in production: a broken invariant of ours becomes EIO for one request, never wrong bytes. */
export function assertBound(condition: boolean, rule: string): asserts condition {
  if (!condition) throw new Error(`broken invariant: ${rule}`);
}
