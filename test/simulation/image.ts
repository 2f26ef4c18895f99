/**
 * What a device may show: the model of a volume, and of a volume as a snapshot shows it.
 *
 * Each cell has *entries*: what it may hold, and by which request. Two questions are asked of them. Which may a reader see: those not
 * superseded by a request that began after they had ended, and had ended itself before the reader began. Which may be there after
 * a crash: those that nothing durable supersedes. Requests that overlap in time land in either order, so that a cell may have several;
 * once all have ended, the first reader decides.
 *
 * Time here is a count of events, not of the clock.
 */
import { CELL_BYTES, showValue } from './cells.ts';

export const NEVER = Number.POSITIVE_INFINITY;

export interface Span {
  readonly image: Image;
  readonly firstCell: number;
  readonly endCell: number;
}

/** Anything that changes cells: a client's request, a restore. */
export interface Change {
  readonly label: string;
  readonly spans: Span[];
  readonly issuedAt: number;
  /** When it ended, well or not. */
  endedAt: number;
  acknowledged: boolean;
  /** It is in the log: it takes part in the one order of the group, whole or not at all. */
  logged: boolean;
  /** Nothing takes it back. */
  durable: boolean;
}

export interface Entry {
  readonly change: Change;
  readonly value: number;
  /** When it was superseded. */
  goneAt: number;
  /** Something durable superseded it. */
  buried: boolean;
}

export class Violation extends Error {
  /** The invariant of section 7 of the design that does not hold, or a letter and a number for a rule. */
  readonly invariant: string;

  constructor(invariant: string, message: string) {
    super(message);
    this.name = 'Violation';
    this.invariant = invariant;
  }
}

/** What was there from the beginning, or was found and is settled. */
export function settledChange(label: string, at: number): Change {
  return { label, spans: [], issuedAt: at, endedAt: at, acknowledged: true, logged: false, durable: true };
}

export class Image {
  readonly name: string;
  readonly cells: Entry[][];
  /** Changes that a crash may still undo. */
  unsettled: Change[] = [];
  /** A sync failed and nothing is promised about what was not durable: readers may see any version (direct mode, rule L6). */
  loose = false;

  constructor(name: string, cellCount: number, at: number) {
    this.name = name;
    const blank = settledChange('blank', at);
    this.cells = Array.from({ length: cellCount }, () => [
      { change: blank, value: 0, goneAt: NEVER, buried: false },
    ]);
  }

  get sizeBytes(): number {
    return this.cells.length * CELL_BYTES;
  }

  entries(cell: number): Entry[] {
    return this.cells[cell] ?? [];
  }

  /** The change may show from now on. */
  begin(change: Change, cell: number, value: number): void {
    this.entries(cell).push({ change, value, goneAt: NEVER, buried: false });
  }

  /** The change has succeeded: it supersedes what had ended before it began. */
  supersede(change: Change, span: Span, now: number): void {
    for (let cell = span.firstCell; cell < span.endCell; cell++) {
      for (const entry of this.entries(cell)) {
        if (entry.goneAt === NEVER && entry.change.endedAt < change.issuedAt) entry.goneAt = now;
      }
    }
  }

  /** The change is durable: what it superseded never comes back. Entries that no reader can see either go. */
  bury(change: Change, span: Span, oldestReader: number): void {
    for (let cell = span.firstCell; cell < span.endCell; cell++) {
      const entries = this.entries(cell);
      if (entries.length === 1) continue;
      for (const entry of entries) {
        if (entry.change.endedAt < change.issuedAt && entry.goneAt !== NEVER) entry.buried = true;
      }
      if (!entries.some((entry) => entry.buried && entry.goneAt <= oldestReader)) continue;
      this.cells[cell] = entries.filter((entry) => !entry.buried || entry.goneAt > oldestReader);
    }
  }

  /** What no reader can ever see of a change goes, now that a crash cannot show it either. */
  buryUnseen(change: Change): void {
    for (const [cell, entries] of this.cells.entries()) {
      if (entries.some((entry) => entry.change === change && entry.goneAt === 0))
        this.cells[cell] = entries.filter((entry) => entry.change !== change || entry.goneAt !== 0);
    }
  }

  /** What a reader that begins now may see. */
  readable(cell: number): Entry[] {
    return this.entries(cell).filter((entry) => entry.goneAt === NEVER);
  }

  /** The one value that a reader sees, or undefined when it is open which. */
  certain(cell: number): number | undefined {
    let value: number | undefined;
    for (const entry of this.entries(cell)) {
      if (entry.goneAt !== NEVER) continue;
      if (value !== undefined && value !== entry.value) return undefined;
      value = entry.value;
    }
    return this.loose ? undefined : value;
  }

  /** Checks what was read by a reader that began at `startedAt`, and takes it for decided where nothing is under way. */
  checkRead(values: Int32Array, firstCell: number, startedAt: number, now: number): void {
    for (let index = 0; index < values.length; index++) {
      const value = values[index] ?? 0;
      const cell = firstCell + index;
      const entries = this.entries(cell);
      const only = entries[0];
      if (entries.length === 1 && only?.value === value) continue;
      const seen = entries.some(
        (entry) => entry.value === value && (entry.goneAt > startedAt || (this.loose && !entry.buried)),
      );
      if (!seen) throw this.#wrong(cell, value, entries, startedAt);
      if (!this.loose) this.#decide(entries, value, startedAt, now);
    }
  }

  #decide(entries: Entry[], value: number, startedAt: number, now: number): void {
    for (const entry of entries) if (entry.goneAt === NEVER && entry.change.endedAt >= startedAt) return;
    for (const entry of entries) if (entry.goneAt === NEVER && entry.value !== value) entry.goneAt = now;
  }

  #wrong(cell: number, value: number, entries: readonly Entry[], startedAt: number): Violation {
    const may = entries.filter((entry) => entry.goneAt > startedAt).map((entry) => showValue(entry.value));
    const was = entries.filter((entry) => entry.goneAt <= startedAt).map((entry) => showValue(entry.value));
    const what = `${this.name} shows ${showValue(value)} in cell ${cell}; it may show ${may.join(', ')}`;
    return new Violation('read', was.length === 0 ? what : `${what} (superseded: ${was.join(', ')})`);
  }

  /** Everything is as `values` say, for good. */
  settle(values: Int32Array, label: string, now: number): void {
    const found = settledChange(label, now);
    for (let cell = 0; cell < this.cells.length; cell++)
      this.cells[cell] = [{ change: found, value: values[cell] ?? 0, goneAt: NEVER, buried: false }];
    this.unsettled = [];
    this.loose = false;
  }
}
