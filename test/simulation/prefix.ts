/**
 * Whether images are the state after *some* prefix of the changes of a group (invariants 2 and 4), given only when each change began and ended.
 *
 * One change comes before another for certain when it ended before the other began. So a prefix that contains a change contains all that ended
 * before it began; the smallest prefix that can explain what is seen consists of what is seen, what has to be there, and all that
 * came before any of these. If in that one a cell shows what another change of it has superseded, it does so in every larger one.
 */
import { showValue } from './cells.ts';
import { type Change, type Entry, type Image, Violation } from './image.ts';

/** An image as it was found. */
export interface Found {
  readonly image: Image;
  readonly values: Int32Array;
  /** What each cell may show; the image's own entries unless they have been kept apart. */
  readonly entries: (cell: number) => readonly Entry[];
}

export interface PrefixRules {
  readonly invariant: string;
  readonly what: string;
  /** Everything that ended before that is in the prefix. */
  readonly beganAt: number;
  /** The change is bound by the order. Others may be there or not, cell by cell. */
  readonly ordered: (change: Change) => boolean;
  /** The change has to be there, whatever its place. */
  readonly needed: (change: Change) => boolean;
}

/** Changes that are there for certain: what shows can be of no other. */
function seenChanges(found: readonly Found[], rules: PrefixRules): Set<Change> {
  const seen = new Set<Change>();
  for (const { values, entries } of found) {
    for (let cell = 0; cell < values.length; cell++) {
      const matching = entries(cell).filter((entry) => entry.value === values[cell] && !entry.buried);
      const [first] = matching;
      if (matching.length === 1 && first !== undefined && rules.ordered(first.change)) seen.add(first.change);
    }
  }
  return seen;
}

/** Throws a violation unless what was found is the state after some prefix. Returns the changes that are there for certain. */
export function checkPrefix(found: readonly Found[], rules: PrefixRules): Set<Change> {
  const seen = seenChanges(found, rules);
  let { beganAt } = rules;
  for (const change of seen) beganAt = Math.max(beganAt, change.issuedAt);
  const present = (change: Change): boolean =>
    seen.has(change) ||
    rules.needed(change) ||
    (rules.ordered(change) && change.acknowledged && change.endedAt < beganAt);
  for (const { image, values, entries } of found) {
    for (let cell = 0; cell < values.length; cell++) {
      const all = entries(cell);
      const value = values[cell] ?? 0;
      if (all.length === 1 && all[0]?.value === value) continue;
      const explained = all.some(
        (entry) =>
          entry.value === value &&
          !entry.buried &&
          !all.some((other) => other.change.issuedAt > entry.change.endedAt && present(other.change)),
      );
      if (explained) continue;
      const may = all
        .map(
          (entry) =>
            `${showValue(entry.value)}${entry.buried ? ' (superseded durably)' : ''}${present(entry.change) ? ' (has to be there)' : ''}`,
        )
        .join(', ');
      throw new Violation(
        rules.invariant,
        `${rules.what}: ${image.name} shows ${showValue(value)} in cell ${cell}; in order: ${may}`,
      );
    }
  }
  return seen;
}
