/** What the fuzzer reports: a broken invariant. Everything else that is thrown is a fault of the harness. */
export class Finding extends Error {
  override name = 'Finding';
}

export function expect(holds: boolean, what: () => string): asserts holds {
  if (!holds) throw new Finding(what());
}
