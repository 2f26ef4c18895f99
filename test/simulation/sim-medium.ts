/**
 * What a simulated disk is made of. It has two states: what a reader sees (*now*, the page cache), and what would be there after a power cut
 * (*durable*), with a journal of the changes between them. A sync carries out the journal; a power cut carries out a part
 * of it, sector by sector, which leaves each sector with one of the versions that it had.
 */
import type { Random } from '../fixtures/random.ts';
import { takeBytes } from './arena.ts';

export const SECTOR_BYTES = 512;
/** What space is counted in, and given back in. */
export const PAGE_BYTES = 4096;
const PAGE_SECTORS = PAGE_BYTES / SECTOR_BYTES;

/** Buffer's own looks at its arguments for longer than it fills. */
const zeroBytes = Uint8Array.prototype.fill;

/** Sparse bytes: a page that is not there reads as zeroes, and may be allocated even so. */
class Pages {
  readonly content: (Buffer | undefined)[] = [];
  readonly allocated: Uint8Array;

  constructor(count: number) {
    this.allocated = new Uint8Array(count);
  }

  read(target: Buffer, targetStart: number, lengthBytes: number, offsetBytes: number): void {
    // Most of what is read at once is blank, and zeroed at once.
    zeroBytes.call(target, 0, targetStart, targetStart + lengthBytes);
    for (let at = 0; at < lengthBytes; ) {
      const page = Math.floor((offsetBytes + at) / PAGE_BYTES);
      const from = (offsetBytes + at) % PAGE_BYTES;
      const to = Math.min(PAGE_BYTES, from + lengthBytes - at);
      this.content[page]?.copy(target, targetStart + at, from, to);
      at += to - from;
    }
  }

  write(source: Buffer, sourceStart: number, lengthBytes: number, offsetBytes: number): void {
    for (let at = 0; at < lengthBytes; ) {
      const page = Math.floor((offsetBytes + at) / PAGE_BYTES);
      const from = (offsetBytes + at) % PAGE_BYTES;
      const to = Math.min(PAGE_BYTES, from + lengthBytes - at);
      this.#page(page).set(source.subarray(sourceStart + at, sourceStart + at + to - from), from);
      this.allocated[page] = 1;
      at += to - from;
    }
  }

  /** Zeroes, and allocates or not what was not. */
  zero(lengthBytes: number, offsetBytes: number, allocate: boolean): void {
    for (let at = 0; at < lengthBytes; ) {
      const page = Math.floor((offsetBytes + at) / PAGE_BYTES);
      const from = (offsetBytes + at) % PAGE_BYTES;
      const to = Math.min(PAGE_BYTES, from + lengthBytes - at);
      if (to - from === PAGE_BYTES) this.content[page] = undefined;
      else this.content[page]?.fill(0, from, to);
      if (allocate) this.allocated[page] = 1;
      at += to - from;
    }
  }

  #page(index: number): Buffer {
    let content = this.content[index];
    if (content === undefined) {
      content = takeBytes(PAGE_BYTES);
      zeroBytes.call(content, 0);
      this.content[index] = content;
    }
    return content;
  }
}

/** Whole sectors that changed. */
interface Change {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** Undefined: zeroes. */
  readonly bytes: Buffer | undefined;
  /** A hole: its pages, which were covered whole before it was rounded to sectors, are given back. */
  readonly hole: { readonly firstPage: number; readonly endPage: number } | undefined;
}

export class Medium {
  readonly sizeBytes: number;
  opened = false;
  /** Of all media of a storage, in pages. */
  readonly #space: { usedPages: number };
  readonly #now: Pages;
  readonly #durable: Pages;
  #journal: Change[] = [];
  /** Changes before those of the journal. */
  #journalStart = 0;
  /** Sectors that are clean in the cache and were never written: a failed sync leaves them. */
  readonly #stale = new Set<number>();

  constructor(sizeBytes: number, space: { usedPages: number }) {
    this.sizeBytes = sizeBytes;
    this.#space = space;
    const pages = Math.ceil(sizeBytes / PAGE_BYTES);
    this.#now = new Pages(pages);
    this.#durable = new Pages(pages);
  }

  read(target: Buffer, targetStart: number, lengthBytes: number, offsetBytes: number): void {
    this.#now.read(target, targetStart, lengthBytes, offsetBytes);
  }

  /** Damages a sector, or mends it again: every bit is turned over, also of what is durable. */
  turnOver(sector: number): void {
    for (const pages of [this.#now, this.#durable]) {
      const page = pages.content[Math.floor(sector / PAGE_SECTORS)];
      const from = (sector % PAGE_SECTORS) * SECTOR_BYTES;
      for (let at = from; page !== undefined && at < from + SECTOR_BYTES; at++) page[at] = ~(page[at] ?? 0);
    }
  }

  /** Pages of the range that are not allocated. */
  missingPages(lengthBytes: number, offsetBytes: number): number {
    let missing = 0;
    const end = Math.ceil((offsetBytes + lengthBytes) / PAGE_BYTES);
    for (let page = Math.floor(offsetBytes / PAGE_BYTES); page < end; page++) {
      if (this.#now.allocated[page] === 0) missing++;
    }
    return missing;
  }

  /** The caller has seen that there is space. */
  write(source: Buffer, sourceStart: number, lengthBytes: number, offsetBytes: number): void {
    if (lengthBytes === 0) return;
    this.#space.usedPages += this.missingPages(lengthBytes, offsetBytes);
    this.#now.write(source, sourceStart, lengthBytes, offsetBytes);
    this.#log(lengthBytes, offsetBytes, true);
  }

  /** The caller has seen that there is space. */
  zero(lengthBytes: number, offsetBytes: number): void {
    if (lengthBytes === 0) return;
    this.#space.usedPages += this.missingPages(lengthBytes, offsetBytes);
    this.#now.zero(lengthBytes, offsetBytes, true);
    this.#log(lengthBytes, offsetBytes, offsetBytes % SECTOR_BYTES !== 0 || lengthBytes % SECTOR_BYTES !== 0);
  }

  punch(lengthBytes: number, offsetBytes: number): void {
    if (lengthBytes === 0) return;
    this.#now.zero(lengthBytes, offsetBytes, false);
    const firstPage = Math.ceil(offsetBytes / PAGE_BYTES);
    const endPage = Math.floor((offsetBytes + lengthBytes) / PAGE_BYTES);
    for (let page = firstPage; page < endPage; page++) {
      this.#space.usedPages -= this.#now.allocated[page] ?? 0;
      this.#now.allocated[page] = 0;
    }
    this.#log(
      lengthBytes,
      offsetBytes,
      offsetBytes % SECTOR_BYTES !== 0 || lengthBytes % SECTOR_BYTES !== 0,
      { firstPage, endPage },
    );
  }

  allocated(page: number): boolean {
    return this.#now.allocated[page] === 1;
  }

  /** It is removed, and its space is free. */
  release(): void {
    for (const allocated of this.#now.allocated) this.#space.usedPages -= allocated;
    this.#now.allocated.fill(0);
  }

  #log(lengthBytes: number, offsetBytes: number, withBytes: boolean, hole?: Change['hole']): void {
    const start = Math.floor(offsetBytes / SECTOR_BYTES) * SECTOR_BYTES;
    const end = Math.min(
      this.sizeBytes,
      Math.ceil((offsetBytes + lengthBytes) / SECTOR_BYTES) * SECTOR_BYTES,
    );
    let bytes: Buffer | undefined;
    if (withBytes) {
      bytes = takeBytes(end - start);
      this.#now.read(bytes, 0, end - start, start);
    }
    this.#journal.push({ offsetBytes: start, lengthBytes: end - start, bytes, hole });
  }

  /** What a sync that begins now has to make durable: everything before it. */
  get mark(): number {
    return this.#journalStart + this.#journal.length;
  }

  /** Everything before the mark is durable. */
  synced(mark: number): void {
    const count = mark - this.#journalStart;
    if (count <= 0) return;
    for (const change of this.#journal.splice(0, count)) this.#carryOut(change);
    this.#journalStart = mark;
  }

  /** A sync failed: of each sector it was to write, some are written, some stay in the cache and are lost later, some are lost now. */
  syncFailed(mark: number, random: Random, lostNow: number): void {
    const count = mark - this.#journalStart;
    if (count <= 0) return;
    const changes = this.#journal.splice(0, count);
    this.#journalStart = mark;
    const fate = new Map<number, number>();
    for (const change of changes) {
      for (let at = 0; at < change.lengthBytes; at += SECTOR_BYTES) {
        const sector = (change.offsetBytes + at) / SECTOR_BYTES;
        let one = fate.get(sector);
        if (one === undefined) {
          one = random.next();
          fate.set(sector, one);
        }
        if (one >= 0.5) this.#carryOutSector(change, at);
      }
    }
    const later = this.#changedSectors();
    for (const [sector, one] of fate) {
      if (one >= 0.5) continue;
      // A sector that was written again since is dirty again, and safe.
      if (later.has(sector)) continue;
      if (one < 0.5 * lostNow) this.#revert(sector);
      else this.#stale.add(sector);
    }
  }

  /** The power goes. Each sector keeps one of its versions; `keep` is how likely each change is to have been written. */
  cut(random: Random, keep: number): void {
    const touched = this.#changedPages();
    for (const sector of this.#stale) touched.add(Math.floor(sector / PAGE_SECTORS));
    for (const change of this.#journal) {
      if (keep >= 1) this.#carryOut(change);
      else if (keep > 0) this.#carryOutSome(change, random, keep);
    }
    this.#journalStart += this.#journal.length;
    this.#journal = [];
    this.#stale.clear();
    for (const page of touched) this.#revertPage(page);
    this.opened = false;
  }

  #changedPages(): Set<number> {
    const pages = new Set<number>();
    for (const { offsetBytes, lengthBytes } of this.#journal) {
      const end = Math.ceil((offsetBytes + lengthBytes) / PAGE_BYTES);
      for (let page = Math.floor(offsetBytes / PAGE_BYTES); page < end; page++) pages.add(page);
    }
    return pages;
  }

  #carryOutSome(change: Change, random: Random, keep: number): void {
    for (let at = 0; at < change.lengthBytes; ) {
      const page = Math.floor((change.offsetBytes + at) / PAGE_BYTES);
      // Where zeroes become zeroes there is nothing to tell one sector from the other.
      const alike = change.bytes === undefined && this.#durable.content[page] === undefined;
      const next = Math.min(change.lengthBytes, (page + 1) * PAGE_BYTES - change.offsetBytes);
      if (!alike) {
        for (; at < next; at += SECTOR_BYTES) if (random.chance(keep)) this.#carryOutSector(change, at);
      } else if (random.chance(keep) && change.hole === undefined) this.#durable.allocated[page] = 1;
      at = next;
    }
  }

  /** The cache has what the disk has. */
  #revertPage(page: number): void {
    const durable = this.#durable.content[page];
    if (durable === undefined) this.#now.content[page] = undefined;
    else this.#now.write(durable, 0, PAGE_BYTES, page * PAGE_BYTES);
    const allocated = this.#durable.allocated[page] ?? 0;
    this.#space.usedPages += allocated - (this.#now.allocated[page] ?? 0);
    this.#now.allocated[page] = allocated;
  }

  #changedSectors(): Set<number> {
    const sectors = new Set<number>();
    for (const change of this.#journal) {
      const first = change.offsetBytes / SECTOR_BYTES;
      const end = Math.ceil((change.offsetBytes + change.lengthBytes) / SECTOR_BYTES);
      for (let sector = first; sector < end; sector++) sectors.add(sector);
    }
    return sectors;
  }

  #revert(sector: number): void {
    const offsetBytes = sector * SECTOR_BYTES;
    const durable = this.#durable.content[Math.floor(sector / PAGE_SECTORS)];
    if (durable === undefined) {
      this.#now.zero(SECTOR_BYTES, offsetBytes, false);
      return;
    }
    const page = Math.floor(sector / PAGE_SECTORS);
    this.#space.usedPages += 1 - (this.#now.allocated[page] ?? 0);
    this.#now.write(durable, offsetBytes % PAGE_BYTES, SECTOR_BYTES, offsetBytes);
  }

  #carryOut(change: Change): void {
    const { offsetBytes, lengthBytes, bytes, hole } = change;
    if (hole === undefined) {
      if (bytes !== undefined) this.#durable.write(bytes, 0, lengthBytes, offsetBytes);
      else this.#durable.zero(lengthBytes, offsetBytes, true);
      return;
    }
    for (let at = 0; at < lengthBytes; at += SECTOR_BYTES) this.#carryOutSector(change, at);
    for (let page = hole.firstPage; page < hole.endPage; page++) this.#durable.allocated[page] = 0;
  }

  #carryOutSector(change: Change, at: number): void {
    const { bytes, hole } = change;
    const offsetBytes = change.offsetBytes + at;
    const page = Math.floor(offsetBytes / PAGE_BYTES);
    // A hole that came to be in part only is allocated still.
    if (bytes === undefined) this.#durable.zero(SECTOR_BYTES, offsetBytes, hole === undefined);
    else if (hole !== undefined && this.#durable.allocated[page] === 0)
      this.#durable.zero(SECTOR_BYTES, offsetBytes, false);
    else this.#durable.write(bytes, at, Math.min(SECTOR_BYTES, bytes.length - at), offsetBytes);
  }
}
