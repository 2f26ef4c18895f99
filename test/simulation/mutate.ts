import type { Mutant } from './mutant-list.ts';

/** The file's text with the bug in it. Throws when it does not fit. */
export function mutate(mutant: Mutant, source: string): string {
  const pieces = source.split(mutant.find);
  if (pieces.length === 2) return pieces.join(mutant.replace);
  throw new Error(
    `mutant "${mutant.name}": its text occurs ${pieces.length - 1} times in ${mutant.file}, not once`,
  );
}
