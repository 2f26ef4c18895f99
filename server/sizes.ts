/** Sizes as people write and read them: powers of 1024, always. */
import { EngineError } from '../engine/errors.ts';

const UNITS: readonly string[] = ['', 'K', 'M', 'G', 'T', 'P'];

/**
 * Bytes of `10G`, `512M`, `64KiB`, `1.5T`, `4096`. `GB` and the like are refused: they mean 10^9 to some and 2^30 to others.
 * Throws `invalid`.
 */
export function parseSize(text: string): number {
  const match = /^(\d{1,16}(?:\.\d{1,9})?) ?([KMGTP])?(iB|B)?$/i.exec(text.trim());
  if (match === null)
    throw new EngineError('invalid', `'${text}' is not a size: write 10G, 512M, 64K or bytes`);
  const [, digits = '', unit = '', suffix = ''] = match;
  if (unit !== '' && suffix.toLowerCase() === 'b') {
    const clear = unit.toUpperCase();
    throw new EngineError(
      'invalid',
      `'${text}' is ambiguous: write ${digits}${clear}iB (powers of 1024) or bytes`,
    );
  }
  if (unit === '' && suffix.toLowerCase() === 'ib') {
    throw new EngineError('invalid', `'${text}' is not a size: write 10G, 512M, 64K or bytes`);
  }
  const power = UNITS.indexOf(unit.toUpperCase());
  const bytes = Number(digits) * 1024 ** power;
  if (!Number.isSafeInteger(bytes))
    throw new EngineError('invalid', `'${text}' is not a whole number of bytes below 8 PiB`);
  return bytes;
}

/** `64 KiB`, `1.5 GiB`, `100 B`: at most one decimal. */
export function formatSize(bytes: number): string {
  let power = 0;
  let value = bytes;
  while (value >= 1024 && power < UNITS.length - 1) {
    value /= 1024;
    power += 1;
  }
  if (power === 0) return `${bytes} B`;
  const shown = Number.isInteger(value) ? String(value) : value.toFixed(1);
  return `${shown} ${UNITS[power]}iB`;
}
