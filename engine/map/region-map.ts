import { assert } from '../errors.ts';
import type { RegionIndex } from '../units.ts';

/** Regions of a page: its bits are 4 KiB of memory, and 2 GiB of a volume at 64 KiB a region. */
export const PAGE_REGIONS = 32768;
const WORD_REGIONS = 32;
export const PAGE_WORDS = PAGE_REGIONS / WORD_REGIONS;
const ALL_ONES = 0xffff_ffff;

/** Stands for every page that is set whole. Never written to: `clear` replaces it by a copy. */
const fullPage = new Uint32Array(PAGE_WORDS).fill(ALL_ONES);
/** Stands in for a page that is none. Never written to. */
const emptyPage = new Uint32Array(PAGE_WORDS);

/** A run of regions, `end` exclusive. */
export interface RegionRun {
  readonly first: RegionIndex;
  readonly end: RegionIndex;
}

/** What others may do with a map that is not theirs. */
export interface RegionMapView {
  readonly length: number;
  readonly count: number;
  readonly memoryBytes: number;
  has(region: RegionIndex): boolean;
  hasAll(first: RegionIndex, end: RegionIndex): boolean;
  countRange(first: RegionIndex, end: RegionIndex): number;
  nextSet(from: RegionIndex): RegionIndex;
  nextClear(from: RegionIndex): RegionIndex;
  runs(first?: RegionIndex, end?: RegionIndex): IterableIterator<RegionRun>;
}

/** Number of set bits of a 32-bit word. */
function bitCount(word: number): number {
  let n = word - ((word >>> 1) & 0x5555_5555);
  n = (n & 0x3333_3333) + ((n >>> 2) & 0x3333_3333);
  return Math.imul((n + (n >>> 4)) & 0x0f0f_0f0f, 0x0101_0101) >>> 24;
}

/** Bits `from` up to `to`, exclusive, of a word; 0 <= from < to <= 32. */
function bitMask(from: number, to: number): number {
  return ((ALL_ONES << from) & (ALL_ONES >>> (WORD_REGIONS - to))) >>> 0;
}

/** Number of the lowest set bit of a word that is not 0. */
function lowestBit(word: number): number {
  return 31 - Math.clz32(word & -word);
}

/**
 * A bitmap with a bit for each region of a volume: the data change map of the patent. Paged, so that a volume of terabytes of which
 * little was touched costs little memory; a page without a bit is no page, and a page of all bits is one for all.
 *
 * The bits that are set are counted as they come and go. Pages that change are noted as dirty, for a map file
 * to write: bounded by the number of pages.
 *
 * Indexes go beyond 2^32, so pages are found by division and only bits inside a page by shifts.
 */
export class RegionMap implements RegionMapView {
  readonly length: number;
  readonly #pages: (Uint32Array | undefined)[];
  /** Bits set in each page: at most 2^15. */
  readonly #counts: Uint16Array;
  readonly #dirty: Uint8Array;
  #dirtyPages: number[] = [];
  /** See `countWith`; empty in a map that is not counted with others. */
  readonly #words: (Uint16Array | undefined)[] = [];
  #count = 0;

  constructor(length: number) {
    assert(Number.isSafeInteger(length) && length >= 0, 'a map has a length');
    this.length = length;
    const pages = Math.ceil(length / PAGE_REGIONS);
    this.#pages = new Array(pages).fill(undefined);
    this.#counts = new Uint16Array(pages);
    this.#dirty = new Uint8Array(pages);
  }

  /** Number of regions set. */
  get count(): number {
    return this.#count;
  }

  /** Memory that its bits take, in bytes: pages that are neither empty nor full. */
  get memoryBytes(): number {
    let own = 0;
    for (const page of this.#pages) if (page !== undefined && page !== fullPage) own++;
    return own * PAGE_WORDS * 4;
  }

  get pageCount(): number {
    return this.#pages.length;
  }

  has(region: RegionIndex): boolean {
    assert(region >= 0 && region < this.length, 'the region lies inside the map');
    const index = Math.floor(region / PAGE_REGIONS);
    const page = this.#pages[index];
    if (page === undefined) return false;
    const bit = region - index * PAGE_REGIONS;
    return (((page[bit >>> 5] ?? 0) >>> (bit & 31)) & 1) === 1;
  }

  /** Whether all regions from `first` up to `end`, exclusive, are set. */
  hasAll(first: RegionIndex, end: RegionIndex): boolean {
    this.#checkRange(first, end);
    return this.#next(first, end, ALL_ONES) === end;
  }

  set(region: RegionIndex): void {
    assert(region >= 0 && region < this.length, 'the region lies inside the map');
    const index = Math.floor(region / PAGE_REGIONS);
    const bit = region - index * PAGE_REGIONS;
    const page = this.#pages[index] ?? this.#newPage(index);
    const old = page[bit >>> 5] ?? 0;
    const mask = 1 << (bit & 31);
    if ((old & mask) !== 0) return;
    page[bit >>> 5] = old | mask;
    this.#changed(index, 1);
  }

  clear(region: RegionIndex): void {
    this.clearRange(region, region + 1);
  }

  /** Sets the regions from `first` up to `end`, exclusive. */
  setRange(first: RegionIndex, end: RegionIndex): void {
    if (end === first + 1) {
      this.set(first);
      return;
    }
    this.#checkRange(first, end);
    for (let at = first; at < end; ) {
      const index = Math.floor(at / PAGE_REGIONS);
      const base = index * PAGE_REGIONS;
      const stop = Math.min(end, base + PAGE_REGIONS);
      this.#setInPage(index, at - base, stop - base);
      at = stop;
    }
  }

  #setInPage(index: number, first: number, end: number): void {
    if (this.#pages[index] === fullPage) return;
    if (first === 0 && end === PAGE_REGIONS) {
      const added = PAGE_REGIONS - (this.#counts[index] ?? 0);
      this.#pages[index] = fullPage;
      this.#changed(index, added);
      return;
    }
    const page = this.#pages[index] ?? this.#newPage(index);
    let added = 0;
    for (let bit = first; bit < end; ) {
      const word = bit >>> 5;
      const stop = Math.min(end, (word + 1) * WORD_REGIONS);
      const old = page[word] ?? 0;
      const now = (old | bitMask(bit & 31, stop - word * WORD_REGIONS)) >>> 0;
      if (now !== old) {
        added += bitCount(now ^ old);
        page[word] = now;
      }
      bit = stop;
    }
    if (added > 0) this.#changed(index, added);
  }

  /** Clears the regions from `first` up to `end`, exclusive. */
  clearRange(first: RegionIndex, end: RegionIndex): void {
    this.#checkRange(first, end);
    for (let at = first; at < end; ) {
      const index = Math.floor(at / PAGE_REGIONS);
      const base = index * PAGE_REGIONS;
      const stop = Math.min(end, base + PAGE_REGIONS);
      this.#clearInPage(index, at - base, stop - base);
      at = stop;
    }
  }

  #clearInPage(index: number, first: number, end: number): void {
    let page = this.#pages[index];
    if (page === undefined) return;
    if (page === fullPage) {
      page = fullPage.slice();
      this.#pages[index] = page;
    }
    let removed = 0;
    for (let bit = first; bit < end; ) {
      const word = bit >>> 5;
      const stop = Math.min(end, (word + 1) * WORD_REGIONS);
      const old = page[word] ?? 0;
      const now = (old & ~bitMask(bit & 31, stop - word * WORD_REGIONS)) >>> 0;
      if (now !== old) {
        removed += bitCount(now ^ old);
        page[word] = now;
      }
      bit = stop;
    }
    if (removed > 0) this.#changed(index, -removed);
  }

  /** Sets every region that is set in `other`, a map of the same length: those of all pages that the range, which is all of it unless told, has a part of. */
  or(other: RegionMap, first: RegionIndex = 0, end: RegionIndex = this.length): void {
    assert(other.length === this.length, 'maps of one length');
    this.#checkRange(first, end);
    const endPage = Math.ceil(end / PAGE_REGIONS);
    for (let index = Math.floor(first / PAGE_REGIONS); index < endPage; index++) {
      const from = other.#pages[index];
      if (from === undefined || this.#pages[index] === fullPage) continue;
      if (from === fullPage) this.#setInPage(index, 0, PAGE_REGIONS);
      else this.#orPage(index, from);
    }
  }

  #orPage(index: number, from: Uint32Array): void {
    const page = this.#pages[index] ?? this.#newPage(index);
    let added = 0;
    for (let word = 0; word < PAGE_WORDS; word++) {
      const old = page[word] ?? 0;
      const now = (old | (from[word] ?? 0)) >>> 0;
      if (now === old) continue;
      added += bitCount(now ^ old);
      page[word] = now;
    }
    if (added > 0) this.#changed(index, added);
  }

  /**
   * Number of regions that are set here or in one of the others, which are as long. Makes no map; the others keep which of their words have bits, until
   * those change, because they are counted with one map after the other.
   */
  countWith(others: readonly RegionMap[]): number {
    let count = this.#count;
    for (let index = 0; index < this.#pages.length; index++) {
      if (this.#pages[index] === fullPage) continue;
      const there = others.filter((map) => map.#pages[index] !== undefined);
      if (there.some((map) => map.#pages[index] === fullPage))
        count += PAGE_REGIONS - (this.#counts[index] ?? 0);
      else count += this.#countBeyond(index, there);
    }
    return count;
  }

  /** Number of regions of a page that are set in one of the others, and not here. */
  #countBeyond(index: number, others: readonly RegionMap[]): number {
    let count = 0;
    const counted = [this.#pages[index] ?? emptyPage];
    for (const other of others) {
      const page = other.#pages[index] ?? emptyPage;
      for (const word of other.#wordsOf(index)) {
        let bits = page[word] ?? 0;
        for (const one of counted) bits &= ~(one[word] ?? 0);
        count += bitCount(bits >>> 0);
      }
      counted.push(page);
    }
    return count;
  }

  /** The words of a page that have bits. */
  #wordsOf(index: number): Uint16Array {
    const known = this.#words[index];
    if (known !== undefined) return known;
    const page = this.#pages[index] ?? emptyPage;
    const words = new Uint16Array(PAGE_WORDS);
    let found = 0;
    for (let word = 0; word < PAGE_WORDS; word++) {
      words[found] = word;
      // No branch: whether a word has bits is not to be guessed.
      found += page[word] === 0 ? 0 : 1;
    }
    const kept = words.slice(0, found);
    this.#words[index] = kept;
    return kept;
  }

  /** Number of regions set from `first` up to `end`, exclusive. */
  countRange(first: RegionIndex, end: RegionIndex): number {
    this.#checkRange(first, end);
    if (first === 0 && end === this.length) return this.#count;
    let count = 0;
    for (let at = first; at < end; ) {
      const index = Math.floor(at / PAGE_REGIONS);
      const base = index * PAGE_REGIONS;
      const stop = Math.min(end, base + PAGE_REGIONS);
      count += this.#countInPage(index, at - base, stop - base);
      at = stop;
    }
    return count;
  }

  #countInPage(index: number, first: number, end: number): number {
    const page = this.#pages[index];
    if (page === undefined) return 0;
    if (page === fullPage) return end - first;
    if (first === 0 && end === PAGE_REGIONS) return this.#counts[index] ?? 0;
    let count = 0;
    for (let bit = first; bit < end; ) {
      const word = bit >>> 5;
      const stop = Math.min(end, (word + 1) * WORD_REGIONS);
      count += bitCount((page[word] ?? 0) & bitMask(bit & 31, stop - word * WORD_REGIONS));
      bit = stop;
    }
    return count;
  }

  /** The first region set at or after `from`, or `length` when there is none. */
  nextSet(from: RegionIndex): RegionIndex {
    return this.#next(from, this.length, 0);
  }

  /** The first region not set at or after `from`, or `length` when there is none. */
  nextClear(from: RegionIndex): RegionIndex {
    return this.#next(from, this.length, ALL_ONES);
  }

  /**
   * The first region from `from` up to `end` that differs from `flip`, which is a word of 32 equal bits; else `end`. It looks at no page
   * beyond `end`: in a map that is all one, the next that differs may be the end of the volume.
   */
  #next(from: RegionIndex, end: RegionIndex, flip: number): RegionIndex {
    assert(from >= 0 && from <= end, 'the region lies inside the map');
    let index = Math.floor(from / PAGE_REGIONS);
    let bit = from - index * PAGE_REGIONS;
    for (let base = index * PAGE_REGIONS; base < end; index++, base += PAGE_REGIONS, bit = 0) {
      const page = this.#pages[index];
      if (page === (flip === 0 ? undefined : fullPage)) continue;
      if (page === undefined) return Math.min(end, base + bit);
      const words = Math.min(PAGE_WORDS, Math.ceil((end - base) / WORD_REGIONS));
      let word = bit >>> 5;
      let different = (((page[word] ?? 0) ^ flip) & (ALL_ONES << (bit & 31))) >>> 0;
      while (different === 0 && ++word < words) different = ((page[word] ?? 0) ^ flip) >>> 0;
      if (different !== 0) return Math.min(end, base + word * WORD_REGIONS + lowestBit(different));
    }
    return end;
  }

  /** The runs of regions that are set, in order, cut to the range. The map must not be changed while it is walked. */
  *runs(first: RegionIndex = 0, end: RegionIndex = this.length): IterableIterator<RegionRun> {
    this.#checkRange(first, end);
    for (let at = this.#next(first, end, 0); at < end; ) {
      const stop = this.#next(at, end, ALL_ONES);
      yield { first: at, end: stop };
      at = this.#next(stop, end, 0);
    }
  }

  /** The words of a page; undefined when none of its regions is set. To be read only, and before the map changes. */
  pageWords(pageIndex: number): Uint32Array | undefined {
    return this.#pages[pageIndex];
  }

  /** The word with the bits of 32 regions from `wordIndex * 32` on; zero beyond the end. */
  word(wordIndex: number): number {
    const index = Math.floor(wordIndex / PAGE_WORDS);
    return this.#pages[index]?.[wordIndex - index * PAGE_WORDS] ?? 0;
  }

  /** Sets those of 32 regions whose bits are set in `bits`; bits beyond the end of the map are ignored. */
  orWord(wordIndex: number, bits: number): void {
    const first = wordIndex * WORD_REGIONS;
    assert(first < this.length, 'the word lies inside the map');
    const wanted = bits & bitMask(0, Math.min(WORD_REGIONS, this.length - first));
    const index = Math.floor(wordIndex / PAGE_WORDS);
    const old = this.word(wordIndex);
    const now = (old | wanted) >>> 0;
    if (now === old) return;
    const page = this.#pages[index] ?? this.#newPage(index);
    page[wordIndex - index * PAGE_WORDS] = now;
    this.#changed(index, bitCount(now ^ old));
  }

  /** Whether a page has changed since it was last taken as dirty. */
  isDirty(pageIndex: number): boolean {
    return this.#dirty[pageIndex] === 1;
  }

  get dirtyPageCount(): number {
    return this.#dirtyPages.length;
  }

  /** Takes up to `most` of the pages that changed; they count as clean from here on, until they change again. */
  takeDirty(most: number): number[] {
    const taken = this.#dirtyPages.splice(0, most);
    for (const index of taken) this.#dirty[index] = 0;
    return taken;
  }

  /** Notes a page as dirty: it could not be written. */
  markDirty(pageIndex: number): void {
    if (this.#dirty[pageIndex] === 1) return;
    this.#dirty[pageIndex] = 1;
    this.#dirtyPages.push(pageIndex);
  }

  #newPage(index: number): Uint32Array {
    const page = new Uint32Array(PAGE_WORDS);
    this.#pages[index] = page;
    return page;
  }

  /** Keeps the counts after `difference` bits of a page changed, and the two pages that are none. */
  #changed(index: number, difference: number): void {
    this.#count += difference;
    const bits = (this.#counts[index] ?? 0) + difference;
    this.#counts[index] = bits;
    if (this.#words.length > 0) this.#words[index] = undefined;
    if (bits === 0) this.#pages[index] = undefined;
    else if (bits === PAGE_REGIONS) this.#pages[index] = fullPage;
    this.markDirty(index);
  }

  #checkRange(first: RegionIndex, end: RegionIndex): void {
    assert(first >= 0 && first <= end && end <= this.length, 'the regions lie inside the map');
  }
}
