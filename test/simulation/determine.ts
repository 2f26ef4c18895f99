/** Takes the chance out of the engine: the numbers that it draws (ids, marks of an opening) come from the seed of the run. */
import crypto from 'node:crypto';
import { syncBuiltinESMExports } from 'node:module';
import { Random } from '../fixtures/random.ts';

let random = new Random(0);
let replaced = false;

function fill(bytes: Buffer): Buffer {
  for (let at = 0; at < bytes.length; at++) bytes[at] = random.below(256);
  return bytes;
}

function uuid(): ReturnType<typeof crypto.randomUUID> {
  const hex = fill(Buffer.allocUnsafe(16)).toString('hex');
  const variant = '89ab'[random.below(4)];
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-${variant}${hex.slice(17, 20)}-${hex.slice(20)}`;
}

/** From now on, and for all that the process does. */
export function determine(seed: number): void {
  random = new Random(seed ^ 0x5eed);
  if (replaced) return;
  replaced = true;
  Object.assign(crypto, {
    randomUUID: uuid,
    randomBytes: (count: number) => fill(Buffer.allocUnsafe(count)),
    randomInt: (from: number, to?: number) =>
      to === undefined ? random.below(from) : random.between(from, to - 1),
    randomFillSync: (bytes: Buffer) => fill(bytes),
  });
  Math.random = () => random.next();
  // Modules that have imported the functions by name see the new ones too.
  syncBuiltinESMExports();
}
