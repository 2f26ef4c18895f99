/**
 * What the simulator writes, so that every byte read says where it is from: a volume is a row of cells, and each cell that a request covers
 * is filled with the number of that request and the place of the cell. Zero is what was never written, or zeroed.
 */
import { assert } from '../../engine/errors.ts';

/** Half of what a disk writes whole, so that requests need not be aligned to sectors. */
export const CELL_BYTES = 256;
const CELL_WORDS = CELL_BYTES / 4;
/** Cells of all volumes of a group at most. */
export const MAX_CELLS = 1024;
/** Shown for a cell whose bytes are of different requests. */
export const TORN = -1;

export function cellValue(request: number, place: number): number {
  return request * MAX_CELLS + place;
}

/** A value for people: request and place. */
export function showValue(value: number): string {
  if (value === TORN) return 'torn';
  return value === 0 ? 'zeroes' : `#${Math.floor(value / MAX_CELLS)}@${value % MAX_CELLS}`;
}

function words(bytes: Buffer, start: number, cells: number): Uint32Array {
  assert((bytes.byteOffset + start) % 4 === 0, 'cells are aligned in memory');
  return new Uint32Array(bytes.buffer, bytes.byteOffset + start, cells * CELL_WORDS);
}

/** Fills one cell. */
export function putCell(bytes: Buffer, index: number, value: number): void {
  words(bytes, index * CELL_BYTES, 1).fill(value);
}

/** The values of a row of cells. */
export function cellsOf(bytes: Buffer): Int32Array {
  const all = words(bytes, 0, bytes.length / CELL_BYTES);
  const values = new Int32Array(bytes.length / CELL_BYTES);
  for (let cell = 0; cell < values.length; cell++) {
    const at = cell * CELL_WORDS;
    const value = all[at] ?? 0;
    // Three words tell: what is cut is cut at cells or at sectors, and a copy that went wrong is wrong at an end.
    const whole = all[at + CELL_WORDS / 2] === value && all[at + CELL_WORDS - 1] === value;
    values[cell] = whole ? value : TORN;
  }
  return values;
}
