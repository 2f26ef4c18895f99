/**
 * Reads batches back from the ring, for whoever was not there when they were appended, or does not keep what waits: links, and the secondary's
 * admission. Nothing is remembered from one call to the next.
 *
 * A control record in several batches is one for everybody who reads (rule L8): all of it, or nothing.
 */
import { assert, EngineError } from '../errors.ts';
import { LOG_SECTOR_BYTES, type Lsn } from '../units.ts';
import {
  BATCH_HEADER_BYTES,
  decodeRecords,
  type FoundHeader,
  HeaderReader,
  isBodyIntact,
  LogBatch,
  type LogIdentity,
  MAX_BATCH_BYTES,
} from './record.ts';
import type { Ring } from './ring.ts';

/** Read at once when nobody says how much, in bytes. */
const READ_BYTES = MAX_BATCH_BYTES;

/** What it needs of a `Log`. */
export interface ReadableLog {
  readonly ring: Ring;
  readonly identity: LogIdentity;
  readonly tailLsn: Lsn;
  readonly tailCrc: number;
  readonly writtenLsn: Lsn;
  readonly writtenCrc: number;
}

interface Found {
  /** From the first batch on to the end of the last. */
  readonly bytes: Buffer;
  readonly headers: readonly FoundHeader[];
}

export class LogReader {
  readonly #log: ReadableLog;

  constructor(log: ReadableLog) {
    this.#log = log;
  }

  /**
   * Whole batches as they lie in the ring, from `from` on, where one begins, and not beyond `to`, where one ends: as many as fit `maxBytes`, or one (one
   * control record). Empty when `from` is `to`. All of that is written out, and is not freed before the promise resolves. Rejects with `corrupt`
   * where the ring does not hold what was written there, and with `disk`.
   */
  async ship(from: Lsn, to: Lsn, maxBytes: number): Promise<Buffer> {
    return (await this.#read(from, to, maxBytes)).bytes;
  }

  /** As `ship`, decoded, without payload: have that from `Log.readPayload`. */
  async batches(from: Lsn, to: Lsn, maxBytes: number = READ_BYTES): Promise<LogBatch[]> {
    const { bytes, headers } = await this.#read(from, to, maxBytes);
    const batches: LogBatch[] = [];
    let parts: Buffer[] = [];
    let lsn = from;
    for (const header of headers) {
      const at = (header.lsn - from) * LOG_SECTOR_BYTES;
      const endLsn = header.lsn + header.sectors;
      if (header.control) parts.push(bytes.subarray(at + BATCH_HEADER_BYTES, at + header.lengthBytes));
      else batches.push(decodeRecords(bytes, at, header));
      if (header.more) continue;
      if (header.control) batches.push(new LogBatch(lsn, endLsn, Buffer.concat(parts)));
      parts = [];
      lsn = endLsn;
    }
    return batches;
  }

  /** The checksum of the batch that ends at `lsn`; undefined when none does, or that is not in the ring any more. Rejects with `disk`. */
  async chainAt(lsn: Lsn): Promise<number | undefined> {
    const { ring, identity, tailLsn, tailCrc, writtenLsn, writtenCrc } = this.#log;
    if (lsn === writtenLsn) return writtenCrc;
    if (lsn === tailLsn) return tailCrc;
    if (lsn < tailLsn || lsn > writtenLsn) return undefined;
    const header = Buffer.alloc(BATCH_HEADER_BYTES);
    await ring.read(lsn, 0, header, 0, header.length);
    return new HeaderReader(identity).read(header, 0, lsn)?.chain;
  }

  async #read(from: Lsn, to: Lsn, maxBytes: number): Promise<Found> {
    const { ring, tailLsn, writtenLsn } = this.#log;
    assert(from >= tailLsn && from <= to && to <= writtenLsn, 'what is read is in the ring');
    const mostBytes = (to - from) * LOG_SECTOR_BYTES;
    const askedBytes = Math.max(1, Math.floor(maxBytes / LOG_SECTOR_BYTES)) * LOG_SECTOR_BYTES;
    let wantedBytes = Math.min(mostBytes, askedBytes);
    let bytes: Buffer = Buffer.alloc(0);
    for (let most = Number.POSITIVE_INFINITY; ; most = 1) {
      const grown = Buffer.allocUnsafe(wantedBytes);
      const known = bytes.copy(grown);
      await ring.read(from, known, grown, known, wantedBytes - known);
      bytes = grown;
      const { headers, nextBytes } = this.#whole(bytes, from, most);
      const last = headers.at(-1);
      if (last !== undefined || wantedBytes === 0) {
        const endLsn = last === undefined ? from : last.lsn + last.sectors;
        return { bytes: bytes.subarray(0, (endLsn - from) * LOG_SECTOR_BYTES), headers };
      }
      if (wantedBytes === mostBytes) throw damaged(from);
      // The first is longer than was asked for, and says by how much: no more than that is read.
      wantedBytes = Math.min(mostBytes, nextBytes);
    }
  }

  /**
   * The headers of what is whole in `bytes`: all batches, or so many, a control record being one; and how much has to be read for more. Of a control record
   * in several batches only the next one's header says that: twice as much, until it is there. Throws `corrupt`.
   */
  #whole(
    bytes: Buffer,
    from: Lsn,
    most: number,
  ): { readonly headers: readonly FoundHeader[]; readonly nextBytes: number } {
    const reader = new HeaderReader(this.#log.identity);
    const headers: FoundHeader[] = [];
    let whole = 0;
    let nextBytes = 2 * bytes.length;
    for (let at = 0, units = 0; at < bytes.length && units < most; ) {
      const lsn = from + at / LOG_SECTOR_BYTES;
      const header = reader.read(bytes, at, lsn);
      if (header === undefined) throw damaged(lsn);
      const end = at + header.sectors * LOG_SECTOR_BYTES;
      if (end > bytes.length) {
        nextBytes = end;
        break;
      }
      if (!isBodyIntact(bytes, at, header)) throw damaged(lsn);
      headers.push(header);
      if (!header.more) {
        whole = headers.length;
        units++;
      }
      at = end;
    }
    return { headers: headers.slice(0, whole), nextBytes };
  }
}

function damaged(lsn: Lsn): EngineError {
  return new EngineError(
    'corrupt',
    `the log has no batch at LSN ${lsn} any more: its file was changed by somebody; restore it from a copy`,
  );
}
