/** Throws when a caller broke the contract of a function of this folder. Never used on anything that came from a peer. */
export function assert(condition: unknown, what: string): asserts condition {
  if (!condition) throw new Error(`bug: ${what}`);
}
