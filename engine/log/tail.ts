import { EngineError } from '../errors.ts';
import { LOG_SECTOR_BYTES, type Lsn } from '../units.ts';
import { BATCH_HEADER_BYTES, HeaderReader, type LogIdentity } from './record.ts';
import type { Ring } from './ring.ts';
import type { LogState, Superblocks } from './superblock.ts';

/** The tail of a log: how far it is freed. It moves when the superblock that says so is durable, and not before (rule L7). */
export class LogTail {
  readonly #superblocks: Superblocks;
  readonly #ring: Ring;
  readonly #headers: HeaderReader;
  #lsn: Lsn;
  /** Checksum of the batch before it. */
  #crc: number;
  /** What the next superblock says. */
  #next: { lsn: Lsn; crc: number };
  #nextLsn: Lsn;
  #allocated: boolean;

  constructor(superblocks: Superblocks, ring: Ring, state: LogState) {
    this.#superblocks = superblocks;
    this.#ring = ring;
    this.#headers = new HeaderReader(superblocks.identity);
    this.#lsn = state.tailLsn;
    this.#crc = state.tailCrc;
    this.#next = { lsn: this.#lsn, crc: this.#crc };
    this.#nextLsn = state.tailLsn;
    this.#allocated = state.allocated;
  }

  get lsn(): Lsn {
    return this.#lsn;
  }

  get identity(): LogIdentity {
    return this.#superblocks.identity;
  }

  /** Checksum of the batch before it. */
  get crc(): number {
    return this.#crc;
  }

  /** Sequence of the superblock written last, of which a header has room for the low half. */
  get run(): number {
    return this.#superblocks.sequence % 2 ** 32;
  }

  /** The next superblock frees what is below `upTo`, where a batch begins. */
  free(upTo: Lsn): void {
    this.#nextLsn = Math.max(this.#nextLsn, upTo);
  }

  /** The next superblock says that the ring has its space. */
  allocated(): void {
    this.#allocated = true;
  }

  /**
   * Gets ready what the next superblock says: the chain at the new tail is in the batch there, or is `writtenCrc` when that is `writtenLsn`. Rejects when
   * that batch cannot be read, with nothing changed.
   */
  async prepare(writtenLsn: Lsn, writtenCrc: number): Promise<void> {
    const lsn = this.#nextLsn;
    if (lsn === this.#lsn) this.#next = { lsn, crc: this.#crc };
    else if (lsn === writtenLsn) this.#next = { lsn, crc: writtenCrc };
    else this.#next = { lsn, crc: await this.#chainAt(lsn) };
  }

  async #chainAt(lsn: Lsn): Promise<number> {
    const header = Buffer.alloc(BATCH_HEADER_BYTES);
    await this.#ring.read(lsn, 0, header, 0, header.length);
    const found = this.#headers.read(header, 0, lsn);
    if (found !== undefined) return found.chain;
    throw new EngineError(
      'corrupt',
      `the log has no batch at LSN ${lsn} any more: its file was changed by somebody; restore it from a copy`,
    );
  }

  /** Writes what is prepared, and moves the tail. `sync` makes durable what is written; see `Superblocks.write`. */
  async write(durableLsn: Lsn, sync: () => Promise<void>): Promise<void> {
    const { lsn, crc } = this.#next;
    const state = {
      ringBytes: this.#ring.sectors * LOG_SECTOR_BYTES,
      tailLsn: lsn,
      tailCrc: crc,
      endLsn: durableLsn,
      allocated: this.#allocated,
    };
    await this.#superblocks.write(state, sync);
    this.#lsn = lsn;
    this.#crc = crc;
  }
}
