import { LOG_SECTOR_BYTES, type Lsn, MIB } from '../units.ts';
import { pageAligned, type Ring } from './ring.ts';

/** Zeroes written ahead at a time, in bytes: a fraction of a millisecond, and a few hundred small syncs that cost less for it. */
const AHEAD_BYTES = 1 * MIB;
/** Where more than that is not durable, in bytes, syncs are rare: then writing twice costs more than it saves. */
const FEW_UNSYNCED_BYTES = 64 * 1024;

const zeroes = Buffer.alloc(AHEAD_BYTES);

/**
 * Writes zeroes ahead of the head while the ring is in its first round. Space that is allocated and was never written costs a filesystem a
 * change of its own records with each sync, half as much again as the sync itself; so it is written, a MiB at a time, before small batches come to
 * it. Nothing lies there: the first round has nothing to overwrite.
 */
export class WriteAhead {
  readonly #ring: Ring;
  /** Where the first round ends. */
  readonly #roundEndLsn: Lsn;
  /** Below it everything was written. */
  #aheadLsn: Lsn;

  constructor(ring: Ring, firstLsn: Lsn, endLsn: Lsn) {
    this.#ring = ring;
    this.#roundEndLsn = firstLsn + ring.sectors;
    this.#aheadLsn = endLsn;
  }

  /** A batch was written up to `endLsn`. Throws as `Ring.writeNow`. */
  reached(endLsn: Lsn, durableLsn: Lsn): void {
    if (endLsn <= this.#aheadLsn || this.#aheadLsn >= this.#roundEndLsn) return;
    const from = pageAligned(endLsn);
    this.#aheadLsn = from;
    if ((endLsn - durableLsn) * LOG_SECTOR_BYTES > FEW_UNSYNCED_BYTES || from >= this.#roundEndLsn) return;
    const sectors = Math.min(AHEAD_BYTES / LOG_SECTOR_BYTES, this.#roundEndLsn - from);
    this.#ring.writeNow(from, zeroes, 0, sectors * LOG_SECTOR_BYTES);
    this.#aheadLsn = from + sectors;
  }
}
