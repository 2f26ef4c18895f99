/**
 * Region maps as they travel in records of the log (rule L7) and in answers: what is little stays little, and the worst is a bitmap
 * and a little more (`maxEncodedBytes`).
 *
 * The map is cut into pages of 32768 regions, and pages without a region are left out. A page is:
 *
 *   varint  number of pages left out before it
 *   varint  length of the runs in bytes; 0 when a bitmap follows
 *   bytes   runs: distances, as varints, from the start of the page to the first region that is set, from there to the first that is not,
 *           from there to the next that is set, and so on, an even number of them, none but the first 0
 *           bitmap: bit n of byte m is region 8m + n of the page; as many bytes as the page's regions need
 *
 * whichever is shorter. A varint has seven bits a byte, lowest first; the top bit is set in all bytes but the last.
 */
import { assert, EngineError } from '../errors.ts';
import { PAGE_REGIONS, PAGE_WORDS, RegionMap } from './region-map.ts';

/** What the codec reads of a map. */
export type RegionWords = Pick<RegionMap, 'length' | 'pageWords'>;

const PAGE_BYTES = PAGE_REGIONS / 8;
/** Of the two numbers in front of a page: a second byte of the first pays for 128 pages left out. */
const PAGE_OVERHEAD_BYTES = 2;
/** A varint has at most that many bytes here: distances and numbers of pages have at most 22 bits. */
const MAX_VARINT_BYTES = 4;

const pageCount = (regionCount: number): number => Math.ceil(regionCount / PAGE_REGIONS);

/** Regions of a page: the last may be short. */
function pageRegions(page: number, regionCount: number): number {
  return Math.min(PAGE_REGIONS, regionCount - page * PAGE_REGIONS);
}

/** What a map of that many regions takes at most. */
export function maxEncodedBytes(regionCount: number): number {
  return Math.ceil(regionCount / 8) + pageCount(regionCount) * PAGE_OVERHEAD_BYTES;
}

/** Writes a varint, and returns where it ends. */
function putVarint(target: Buffer, value: number, at: number): number {
  let rest = value;
  let end = at;
  for (; rest >= 0x80; rest >>>= 7) target[end++] = (rest & 0x7f) | 0x80;
  target[end++] = rest;
  return end;
}

const varintBytes = (value: number): number => (value < 0x80 ? 1 : value < 0x4000 ? 2 : 3);

export function encodeMap(map: RegionWords): Buffer {
  const parts: Buffer[] = [];
  let skipped = 0;
  for (let page = 0; page < pageCount(map.length); page++) {
    const words = map.pageWords(page);
    if (words === undefined) {
      skipped++;
      continue;
    }
    parts.push(encodePage(words, pageRegions(page, map.length), skipped));
    skipped = 0;
  }
  return Buffer.concat(parts);
}

const runsScratch = Buffer.alloc(PAGE_BYTES + MAX_VARINT_BYTES);

function encodePage(words: Uint32Array, regions: number, skipped: number): Buffer {
  const bitmapBytes = Math.ceil(regions / 8);
  const runsBytes = encodeRuns(words, regions, bitmapBytes);
  const asRuns = varintBytes(runsBytes) + runsBytes < 1 + bitmapBytes;
  const bytes = Buffer.allocUnsafe(
    varintBytes(skipped) + (asRuns ? varintBytes(runsBytes) + runsBytes : 1 + bitmapBytes),
  );
  let at = putVarint(bytes, skipped, 0);
  at = putVarint(bytes, asRuns ? runsBytes : 0, at);
  if (asRuns) runsScratch.copy(bytes, at, 0, runsBytes);
  else
    for (let byte = 0; byte < bitmapBytes; byte++)
      bytes[at + byte] = (words[byte >>> 2] ?? 0) >>> ((byte & 3) * 8);
  return bytes;
}

/** Puts the runs of a page into the scratch buffer, and returns their length; more than `mostBytes` when it gave up. */
function encodeRuns(pageWords: Uint32Array, regions: number, mostBytes: number): number {
  let at = 0;
  let last = 0;
  let carry = 0;
  const words = Math.ceil(regions / 32);
  for (let index = 0; index < words; index++) {
    const word = pageWords[index] ?? 0;
    // A bit for each region that differs from the one before it: there a run begins or ends.
    let edges = (word ^ ((word << 1) | carry)) >>> 0;
    carry = word >>> 31;
    while (edges !== 0) {
      const position = index * 32 + 31 - Math.clz32(edges & -edges);
      edges &= edges - 1;
      at = putVarint(runsScratch, position - last, at);
      if (at > mostBytes) return at;
      last = position;
    }
  }
  // A last word that is short has zeroes behind the end, so only a run up to the end of a full one is still open.
  return carry === 1 ? putVarint(runsScratch, regions - last, at) : at;
}

/** Reads varints of a range, and throws `corrupt` where there is none. */
class Reader {
  readonly #bytes: Buffer;
  at: number;
  readonly end: number;

  constructor(bytes: Buffer, start: number, end: number) {
    this.#bytes = bytes;
    this.at = start;
    this.end = end;
  }

  varint(): number {
    let value = 0;
    for (let read = 0; read < MAX_VARINT_BYTES && this.at < this.end; read++) {
      const byte = this.#bytes[this.at++] ?? 0;
      value += (byte & 0x7f) * 2 ** (7 * read);
      if (byte >= 0x80) continue;
      if (byte === 0 && read > 0) break;
      return value;
    }
    throw damaged('a number is cut short, too long or padded');
  }

  /** The next `lengthBytes`, which it goes past. */
  take(lengthBytes: number): number {
    if (lengthBytes > this.end - this.at) throw damaged('a page is cut short');
    const start = this.at;
    this.at += lengthBytes;
    return start;
  }
}

function damaged(what: string): EngineError {
  return new EngineError('corrupt', `a region map in a record makes no sense: ${what}`);
}

/** The map of that many regions. Throws `corrupt` for anything that `encodeMap` could not have made of one. */
export function decodeMap(bytes: Buffer, regionCount: number): RegionMap {
  const map = new RegionMap(regionCount);
  const reader = new Reader(bytes, 0, bytes.length);
  for (let page = 0; reader.at < reader.end; page++) {
    page += reader.varint();
    if (page >= pageCount(regionCount)) throw damaged('a page lies beyond its end');
    const regions = pageRegions(page, regionCount);
    const runsBytes = reader.varint();
    if (runsBytes > 0) {
      const start = reader.take(runsBytes);
      decodeRuns(map, new Reader(bytes, start, start + runsBytes), page * PAGE_REGIONS, regions);
    } else {
      const start = reader.take(Math.ceil(regions / 8));
      decodeBitmap(map, bytes, start, page, regions);
    }
  }
  // What was loaded is not waiting to be written anywhere.
  map.takeDirty(map.pageCount);
  return map;
}

function decodeRuns(map: RegionMap, reader: Reader, firstRegion: number, regions: number): void {
  let at = 0;
  for (let first = true; reader.at < reader.end; first = false) {
    const gap = reader.varint();
    const length = reader.varint();
    if ((gap === 0 && !first) || length === 0) throw damaged('an empty run');
    if (at + gap + length > regions) throw damaged('a run goes beyond its page');
    map.setRange(firstRegion + at + gap, firstRegion + at + gap + length);
    at += gap + length;
  }
}

function decodeBitmap(map: RegionMap, bytes: Buffer, start: number, page: number, regions: number): void {
  const bitmapBytes = Math.ceil(regions / 8);
  for (let byte = 0; byte < bitmapBytes; byte += 4) {
    let bits = 0;
    for (let i = 0; i < 4 && byte + i < bitmapBytes; i++) bits |= (bytes[start + byte + i] ?? 0) << (8 * i);
    if (bits !== 0) map.orWord(page * PAGE_WORDS + byte / 4, bits >>> 0);
  }
  const unused = bitmapBytes * 8 - regions;
  if (unused > 0 && (bytes[start + bitmapBytes - 1] ?? 0) >>> (8 - unused) !== 0)
    throw damaged('a region beyond its end');
  assert(bitmapBytes <= PAGE_BYTES, 'a page is no longer than that');
  if (map.countRange(page * PAGE_REGIONS, page * PAGE_REGIONS + regions) === 0)
    throw damaged('a page without a region');
}
