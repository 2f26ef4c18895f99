/**
 * Reads a log from its tail on, and finds where it ends (rule L5).
 *
 * A batch follows if it is intact, of this log and of its place, and names the checksum of the batch before it. The first that does not ends
 * the log: a *torn tail*, as a crash leaves it. Whether that is all it is, is looked at afterwards: headers further on that say that the
 * place of the gap was durable prove that it is damage. It is then refused, loudly.
 */
import { LOG_SECTOR_BYTES, type Lsn, MIB } from '../units.ts';
import {
  BATCH_HEADER_BYTES,
  decodeRecords,
  type FoundHeader,
  type HeaderReader,
  isBodyIntact,
  LogBatch,
  malformed,
} from './record.ts';
import type { Ring } from './ring.ts';

/** Read at once, in bytes, where no larger batch asks for more. */
const READ_BYTES = 1 * MIB;

export interface ScanFrom {
  readonly ring: Ring;
  readonly headers: HeaderReader;
  readonly tailLsn: Lsn;
  /** Of the batch before the tail. */
  readonly tailCrc: number;
  /** Batches below it are not wanted. */
  readonly wantedLsn: Lsn;
}

export interface ScanResult {
  /** Those that are wanted, in order, without payload. */
  readonly batches: LogBatch[];
  readonly endLsn: Lsn;
  /** Of the last batch. */
  readonly endCrc: number;
  /** Below it everything is durable, by what the batches say. */
  readonly durableLsn: Lsn;
  /** Something was found at the end, whole or in part, that does not count. */
  readonly torn: boolean;
}

/** A window on the ring, moved on as it is read. */
class Window {
  readonly #ring: Ring;
  bytes = Buffer.alloc(0);
  #lsn = 0;
  #sectors = 0;

  constructor(ring: Ring) {
    this.#ring = ring;
  }

  /** Has `sectors` from `lsn` on in `bytes`, and perhaps as much as `most`; returns where they begin there. */
  async have(lsn: Lsn, sectors: number, most: number): Promise<number> {
    if (lsn < this.#lsn || lsn + sectors > this.#lsn + this.#sectors) {
      const want = Math.max(sectors, Math.min(most, READ_BYTES / LOG_SECTOR_BYTES));
      if (this.bytes.length < want * LOG_SECTOR_BYTES)
        this.bytes = Buffer.allocUnsafeSlow(want * LOG_SECTOR_BYTES);
      this.#sectors = 0;
      await this.#ring.read(lsn, 0, this.bytes, 0, want * LOG_SECTOR_BYTES);
      this.#lsn = lsn;
      this.#sectors = want;
    }
    return (lsn - this.#lsn) * LOG_SECTOR_BYTES;
  }
}

/** The parts so far of a control record in several batches (rule L8). */
interface Span {
  readonly lsn: Lsn;
  /** Of the batch before its first. */
  readonly crcBefore: number;
  readonly parts: Buffer[];
}

class Scan {
  readonly #from: ScanFrom;
  readonly #window: Window;
  readonly batches: LogBatch[] = [];
  #lsn: Lsn;
  #crc: number;
  #durableLsn: Lsn;
  #span: Span | undefined;

  constructor(from: ScanFrom) {
    this.#from = from;
    this.#window = new Window(from.ring);
    this.#lsn = from.tailLsn;
    this.#crc = from.tailCrc;
    this.#durableLsn = from.tailLsn;
  }

  async run(): Promise<ScanResult> {
    let torn = false;
    for (let sectorsLeft = this.#from.ring.sectors; sectorsLeft > 0; ) {
      const at = await this.#window.have(this.#lsn, 1, sectorsLeft);
      const header = this.#from.headers.read(this.#window.bytes, at, this.#lsn);
      torn = header !== undefined;
      if (header === undefined || !this.#follows(header, sectorsLeft)) break;
      const start = await this.#window.have(this.#lsn, header.sectors, sectorsLeft);
      if (!isBodyIntact(this.#window.bytes, start, header)) break;
      this.#take(header, start);
      this.#lsn += header.sectors;
      this.#crc = header.crc;
      this.#durableLsn = header.durableLsn;
      sectorsLeft -= header.sectors;
      torn = false;
    }
    // What has not come whole does not count at all.
    const { batches } = this;
    const durableLsn = this.#durableLsn;
    if (this.#span !== undefined)
      return { batches, endLsn: this.#span.lsn, endCrc: this.#span.crcBefore, durableLsn, torn: true };
    return { batches, endLsn: this.#lsn, endCrc: this.#crc, durableLsn, torn };
  }

  #follows(header: FoundHeader, sectorsLeft: number): boolean {
    return header.chain === this.#crc && header.sectors <= sectorsLeft && header.durableLsn <= header.lsn;
  }

  #take(header: FoundHeader, start: number): void {
    const { bytes } = this.#window;
    if (!header.control) {
      if (this.#span !== undefined || header.more) throw malformed(header.lsn);
      const batch = decodeRecords(bytes, start, header);
      if (header.lsn >= this.#from.wantedLsn) this.batches.push(batch);
      return;
    }
    if (header.records !== 0) throw malformed(header.lsn);
    this.#span ??= { lsn: header.lsn, crcBefore: this.#crc, parts: [] };
    this.#span.parts.push(
      Buffer.from(bytes.subarray(start + BATCH_HEADER_BYTES, start + header.lengthBytes)),
    );
    if (header.more) return;
    const { lsn, parts } = this.#span;
    this.#span = undefined;
    if (lsn >= this.#from.wantedLsn)
      this.batches.push(new LogBatch(lsn, header.lsn + header.sectors, Buffer.concat(parts)));
  }
}

/** Finds the end of a log, and the batches from `wantedLsn` on. Throws `corrupt` and `unsupported`. */
export function scan(from: ScanFrom): Promise<ScanResult> {
  return new Scan(from).run();
}

/**
 * Looks beyond the end for a header that says that `endLsn` was durable, and returns up to where it says so. Looks `distanceSectors` ahead, and as
 * far again from each intact header that it meets: so far it is from one header to the next at most, when one between them is damaged.
 */
export async function durableBeyond(
  from: ScanFrom,
  endLsn: Lsn,
  distanceSectors: number,
): Promise<Lsn | undefined> {
  const window = new Window(from.ring);
  const mostSectors = Math.min(from.ring.sectors - (endLsn - from.tailLsn), Number.MAX_SAFE_INTEGER - endLsn);
  let until = Math.min(mostSectors, distanceSectors);
  for (let ahead = 0; ahead < until; ) {
    const at = await window.have(endLsn + ahead, 1, until - ahead);
    const header = from.headers.read(window.bytes, at, endLsn + ahead);
    if (header === undefined) {
      ahead++;
      continue;
    }
    if (header.durableLsn > endLsn) return header.durableLsn;
    ahead += header.sectors;
    until = Math.min(mostSectors, ahead + distanceSectors);
  }
  return undefined;
}
