/** The syncs of a log: they move `durable` up to what was written before they began. They come when asked for, and unasked (rule L9). */
import type { Clock, Timer } from '../clock.ts';
import type { Disk } from '../disk/disk.ts';
import type { EngineError } from '../errors.ts';
import { SharedRun } from '../shared-run.ts';
import { LOG_SECTOR_BYTES, type Lsn, MIB } from '../units.ts';

/** A sync begins by itself when so much is not durable, in bytes, and in any case after so long (rule L9). */
const SYNC_BYTES = 1 * MIB;
const SYNC_DELAY_MS = 5;

/** What is synced. */
export interface SyncedLog {
  readonly writtenLsn: Lsn;
  readonly endLsn: Lsn;
  readonly failure: EngineError | undefined;
  /** Hands everything up to the end to the kernel. Throws `failure`. */
  writeOut(): void;
}

export interface SyncHooks {
  /** `durableLsn` has advanced. */
  readonly durable: () => void;
  /** A sync has ended well: who was refused for what was not durable may try again. */
  readonly ended: () => void;
  /** A sync has failed (rule L6); returns what to throw. */
  readonly failed: (error: unknown) => EngineError;
}

export class LogSyncs {
  readonly #disk: Disk;
  readonly #clock: Clock;
  readonly #log: SyncedLog;
  readonly #hooks: SyncHooks;
  readonly #run = new SharedRun(() => this.#syncNow());
  #durableLsn: Lsn;
  #syncing = false;
  /** Something but the ring was written: the next sync may not be left out. */
  #unsyncedSuperblock = false;
  #timer: Timer | undefined;
  #stopped = false;

  constructor(disk: Disk, clock: Clock, log: SyncedLog, durableLsn: Lsn, hooks: SyncHooks) {
    this.#disk = disk;
    this.#clock = clock;
    this.#log = log;
    this.#durableLsn = durableLsn;
    this.#hooks = hooks;
  }

  /** Below it everything is durable. */
  get durableLsn(): Lsn {
    return this.#durableLsn;
  }

  get isUnderWay(): boolean {
    return this.#syncing;
  }

  /** The log ends at `lsn` now, durably. None is under way. */
  beginAt(lsn: Lsn): void {
    this.#durableLsn = lsn;
  }

  /** Everything appended before the call is durable when the promise resolves: one sync for all that wait. Rejects with the log's `failure`. */
  join(): Promise<void> {
    return this.#run.join();
  }

  /** As `join`, also of a superblock that was written just now. */
  withSuperblock(): Promise<void> {
    this.#unsyncedSuperblock = true;
    return this.join();
  }

  async #syncNow(): Promise<void> {
    this.#syncing = true;
    try {
      await this.#syncWritten();
    } finally {
      this.#syncing = false;
    }
    this.#hooks.ended();
    if (this.#isMuch()) this.start();
    else if (this.#isBehind()) this.startLater();
  }

  async #syncWritten(): Promise<void> {
    this.#log.writeOut();
    const { writtenLsn } = this.#log;
    if (writtenLsn === this.#durableLsn && !this.#unsyncedSuperblock) return;
    this.#unsyncedSuperblock = false;
    try {
      await this.#disk.sync();
    } catch (error) {
      throw this.#hooks.failed(error);
    }
    // A write that failed meanwhile may have been in pages that the sync passed over.
    if (this.#log.failure !== undefined) throw this.#log.failure;
    if (writtenLsn === this.#durableLsn) return;
    this.#durableLsn = writtenLsn;
    this.#hooks.durable();
  }

  /** So much is written and not durable that a sync does not wait for its time. */
  #isMuch(): boolean {
    return (this.#log.writtenLsn - this.#durableLsn) * LOG_SECTOR_BYTES >= SYNC_BYTES;
  }

  /** Something was written. */
  wrote(): void {
    if (this.#isMuch()) this.start();
  }

  /** Unasked. A failure is told by the log. */
  start(): void {
    if (this.#syncing || this.#log.failure !== undefined || this.#stopped) return;
    this.#run.join().catch(() => {});
  }

  /** Unasked, after a while: what there is then is synced. */
  startLater(): void {
    if (this.#stopped) return;
    this.#timer ??= this.#clock.after(SYNC_DELAY_MS, () => {
      this.#timer = undefined;
      if (this.#isBehind()) this.start();
    });
  }

  /** Whether something is not durable. */
  #isBehind(): boolean {
    return this.#log.endLsn > this.#durableLsn;
  }

  /** None comes unasked from here on. */
  stop(): void {
    this.#stopped = true;
    this.#timer?.cancel();
  }
}
