/** What plans of one node and of several are drawn from alike. */
import type { Random } from '../fixtures/random.ts';
import { REGION_BYTES } from './plan.ts';

const SECTOR_BYTES = 512;

/** A fresh group begins here now and then, where arithmetic of 32 or 44 bits would show (rule L8). */
export const FIRST_LSNS: readonly number[] = [0, 0, 0, 2 ** 32 - 64, 2 ** 44 - 64];

/** In sectors: 2 to 20 regions, the last one often short. */
export function volumeSize(random: Random): number {
  const regions = random.pick([2, 4, 8, 12, 20]);
  const short = random.chance(0.4) ? random.between(1, REGION_BYTES / SECTOR_BYTES - 1) : 0;
  return (regions * REGION_BYTES) / SECTOR_BYTES - short;
}

/** Draws names: each run prefers some, so that unlikely mixtures come up. */
export function nameDrawer<Name extends string>(
  random: Random,
  names: readonly Name[],
  weightOf: (name: Name) => number,
): () => Name {
  const weights = names.map((name) => ({
    name,
    weight: weightOf(name) * random.pick([0.2, 0.5, 1, 1, 1, 2, 4]),
  }));
  const sum = weights.reduce((all, { weight }) => all + weight, 0);
  const [first] = names;
  if (first === undefined) throw new Error('bug: there is something to draw');
  return () => {
    let at = random.next() * sum;
    for (const { name, weight } of weights) {
      at -= weight;
      if (at < 0) return name;
    }
    return first;
  };
}
