/**
 * The way of batches from another node into the log: as they are, byte for byte, at its end. On a secondary nothing else is appended.
 *
 * What comes is checked before any of it is written: it begins where the log ends; its batches are whole, intact, of this group and generation, and
 * chained (rule L5). A control record in several batches may come in several calls; it counts with its last batch (L8), and until then what came of
 * it lies beyond the end.
 */
import { EngineError } from '../errors.ts';
import { LOG_SECTOR_BYTES, type Lsn } from '../units.ts';
import type { Log } from './log.ts';
import {
  BATCH_HEADER_BYTES,
  decodeRecords,
  type FoundHeader,
  HeaderReader,
  isBodyIntact,
  type LogBatch,
} from './record.ts';

export class LogIntake {
  readonly #log: Log;
  /** Throws why a batch cannot be one of this group's. */
  readonly #check: (batch: LogBatch) => void;
  /** Where what came ends, and the checksum of its last batch: beyond the end of the log while a control record has not come whole. */
  #lsn: Lsn;
  #crc: number;
  #inControl = false;

  constructor(log: Log, check: (batch: LogBatch) => void) {
    this.#log = log;
    this.#check = check;
    this.#lsn = log.endLsn;
    this.#crc = log.writtenCrc;
  }

  /** What has not come whole is forgotten: what comes next comes at the end of the log, wherever that is now. */
  reset(): void {
    this.#lsn = this.#log.endLsn;
    this.#crc = this.#log.writtenCrc;
    this.#inControl = false;
  }

  /**
   * Takes batches; one call at a time. They are in the log when it resolves, and durable after `Log.sync`. Rejects with `invalid` for what does not belong
   * there, with `in-use` and `ENOSPC` when there is no room now, and with the failure of the log; nothing is taken then.
   */
  async take(lsn: Lsn, bytes: Buffer): Promise<void> {
    if (lsn !== this.#lsn) throw invalid(lsn, `the log goes on at ${this.#lsn}`);
    if (bytes.length === 0 || bytes.length % LOG_SECTOR_BYTES !== 0)
      throw invalid(lsn, `${bytes.length} bytes are no whole batches`);
    const headers = this.#judge(lsn, bytes);
    const endLsn = lsn + bytes.length / LOG_SECTOR_BYTES;
    this.#checkRoom(lsn, endLsn);
    await this.#log.putRaw(lsn, bytes);
    const last = headers.at(-1);
    const complete = headers.findLast((header) => !header.more);
    if (last === undefined) return;
    if (complete !== undefined)
      this.#log.advance(complete.lsn + complete.sectors, complete.crc, recordsOf(headers));
    this.#lsn = endLsn;
    this.#crc = last.crc;
    this.#inControl = last.more;
  }

  #checkRoom(lsn: Lsn, endLsn: Lsn): void {
    const { tailLsn, capacityBytes } = this.#log;
    if (this.#log.hasRoomUpTo(endLsn)) return;
    if (tailLsn === this.#log.endLsn)
      throw invalid(
        lsn,
        `it ends ${endLsn - tailLsn} sectors on, and the log has ${capacityBytes} bytes in all`,
      );
    throw new EngineError('in-use', 'the log is full until more of it is applied', { errno: 'ENOSPC' });
  }

  /** The headers of what comes. Throws `invalid`. */
  #judge(lsn: Lsn, bytes: Buffer): FoundHeader[] {
    const reader = new HeaderReader(this.#log.identity);
    const headers: FoundHeader[] = [];
    let crc = this.#crc;
    let inControl = this.#inControl;
    for (let at = 0; at < bytes.length; ) {
      const place = lsn + at / LOG_SECTOR_BYTES;
      const header = bytes.length - at < BATCH_HEADER_BYTES ? undefined : reader.read(bytes, at, place);
      if (header === undefined) throw invalid(place, 'there is no batch of this group and generation');
      if (header.chain !== crc) throw invalid(place, 'it does not follow the batch before it');
      const end = at + header.sectors * LOG_SECTOR_BYTES;
      if (end > bytes.length) throw invalid(place, 'the batch is cut short');
      if (header.durableLsn > place)
        throw invalid(place, 'it says that itself was durable before it was made');
      if (!isBodyIntact(bytes, at, header)) throw invalid(place, 'the batch is damaged');
      this.#judgeBody(bytes, at, header, inControl);
      inControl = header.more;
      headers.push(header);
      crc = header.crc;
      at = end;
    }
    return headers;
  }

  #judgeBody(bytes: Buffer, at: number, header: FoundHeader, inControl: boolean): void {
    if (header.control) {
      if (header.records > 0) throw invalid(header.lsn, 'it is a control record and has others');
      return;
    }
    if (header.more || inControl) throw invalid(header.lsn, 'a control record is cut short there');
    this.#check(decoded(bytes, at, header));
  }
}

/** What is intact and yet no records came so: nothing here is damaged. Throws `invalid`. */
function decoded(bytes: Buffer, at: number, header: FoundHeader): LogBatch {
  try {
    return decodeRecords(bytes, at, header);
  } catch (error) {
    if (error instanceof EngineError) throw invalid(header.lsn, 'the batch is intact and makes no sense');
    throw error;
  }
}

/** A control record counts with its last batch. */
function recordsOf(headers: readonly FoundHeader[]): number {
  return headers.reduce((sum, { control, more, records }) => sum + (control ? Number(!more) : records), 0);
}

function invalid(lsn: Lsn, why: string): EngineError {
  return new EngineError('invalid', `what came for the log at LSN ${lsn} was refused: ${why}`);
}
