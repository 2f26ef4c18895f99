/**
 * The way of a write into a group: straight to its volume (direct mode, rule L4), or into the log.
 *
 * The mode is the whole group's. Direct mode is left in this order: new writes go to the log; direct ones in flight are awaited; the volumes are
 * synced; only then is anything of the log applied. It is entered with an empty log whose checkpoint is durable at its end, while
 * writers are held for a moment.
 */
import type { Disk } from '../disk/disk.ts';
import { EngineError } from '../errors.ts';
import { indexBytesOf } from '../group-memory.ts';
import type { GroupState, GroupVolume } from '../group-state.ts';
import { MIB } from '../units.ts';
import { FullNotice } from './full-notice.ts';
import type { LogBatch, LogRecord } from './record.ts';

/** Zeroes have no payload, but every region of theirs is looked at when they are applied. */
const ZERO_PIECE_BYTES = 64 * MIB;

/** From so many on, batches whose payload is gone are taken off the list of those that have it. */
const MIN_KEPT_TO_PRUNE = 1024;

interface Waiter {
  resume: () => void;
}

export class WritePath {
  readonly #state: GroupState;
  #mode: 'direct' | 'logged';
  /** Writers wait while the group enters direct mode. */
  #held = false;
  #leaving: Promise<void> | undefined;
  #directInFlight = 0;
  #onDirectIdle: (() => void) | undefined;
  /** Writers that wait for room, first come first served. Bounded by the requests that connections may have in flight. */
  readonly #waiting: Waiter[] = [];
  readonly #notice: FullNotice;
  #failure: EngineError | undefined;
  readonly #settleNow = (): void => this.settle();
  /** A batch has begun: the applier will come to it. */
  onBatch: (batch: LogBatch) => void = () => {};
  #newest: LogBatch | undefined;
  #closing = false;
  /** Sealed batches whose payload may be in memory, oldest first. Some may be applied by now. */
  #kept: LogBatch[] = [];
  #keptToPrune = MIN_KEPT_TO_PRUNE;
  /** Memory for what is logged and not applied, payload and index, in bytes: what the maps leave of the group's. */
  #payloadBytes: number;

  constructor(state: GroupState, mode: 'direct' | 'logged') {
    this.#state = state;
    this.#mode = mode;
    this.#notice = new FullNotice(state);
    this.#payloadBytes = state.memoryBytes;
    state.log.onRoom = () => this.wake();
  }

  get mode(): 'direct' | 'logged' {
    return this.#mode;
  }

  /** Why nothing is logged any more (rule L6). */
  get failure(): EngineError | undefined {
    return this.#failure;
  }

  get writersWait(): boolean {
    return this.#waiting.length > 0;
  }

  /** No write is taken from here on: neither logged, nor direct. */
  fail(error: EngineError): void {
    this.#failure ??= error;
    this.#state.acknowledgement.fail(error);
    this.#notice.stop();
    this.wake();
  }

  /** Those who wait are refused. */
  close(): void {
    this.#closing = true;
    this.#notice.stop();
    this.wake();
  }

  /** Whether a write may go straight to the volume now. The caller writes at once, or inside `direct`. */
  get isDirect(): boolean {
    return this.#mode === 'direct' && !this.#held;
  }

  /** Runs a direct write that takes time: direct mode is not left before it has ended. */
  async direct<T>(write: () => Promise<T>): Promise<T> {
    this.#directInFlight++;
    try {
      return await write();
    } finally {
      this.#directInFlight--;
      if (this.#directInFlight === 0) this.#onDirectIdle?.();
    }
  }

  /** Logs a write now, if there is room and nobody waits before it. It may be acknowledged after `settle`. */
  tryWrite(
    volume: GroupVolume,
    source: Buffer,
    start: number,
    lengthBytes: number,
    offsetBytes: number,
  ): boolean {
    if (this.#mode !== 'logged' || this.#held || this.#waiting.length > 0) return false;
    if (lengthBytes > this.#state.log.maxRecordBytes) return false;
    this.#check();
    return this.#append(
      this.#state.log.tryAppendWrite(volume.index, offsetBytes, source, start, lengthBytes),
    );
  }

  /**
   * Logs a write, waiting for what has to be waited for (rule L12). A large one becomes several records, in order. Returns how many of the bytes
   * it logged: fewer than all when the group has gone to direct mode meanwhile.
   */
  async write(
    volume: GroupVolume,
    source: Buffer,
    start: number,
    lengthBytes: number,
    offsetBytes: number,
  ): Promise<number> {
    let done = 0;
    while (done < lengthBytes) {
      const at = done;
      const pieceBytes = Math.min(this.#state.log.maxRecordBytes, lengthBytes - at);
      const append = () =>
        this.#state.log.tryAppendWrite(volume.index, offsetBytes + at, source, start + at, pieceBytes);
      if (!(await this.#whenRoom(append))) break;
      done += pieceBytes;
    }
    this.settle();
    return done;
  }

  /** As `write`, of zeroes (rule L11). */
  async zero(
    volume: GroupVolume,
    offsetBytes: number,
    lengthBytes: number,
    mayPunch: boolean,
  ): Promise<number> {
    let done = 0;
    while (done < lengthBytes) {
      const at = offsetBytes + done;
      // Cut at multiples of the size of a piece, so that no region is cut in vain.
      const pieceBytes = Math.min(lengthBytes - done, ZERO_PIECE_BYTES - (at % ZERO_PIECE_BYTES));
      const append = () => this.#state.log.tryAppendZeroes(volume.index, at, pieceBytes, mayPunch);
      if (!(await this.#whenRoom(append))) break;
      done += pieceBytes;
    }
    this.settle();
    return done;
  }

  /** Puts what was logged into the page cache: from here on a killed process does not lose it. */
  settle(): void {
    if (this.#mode !== 'logged') return;
    try {
      this.#state.log.writeOut();
    } catch {
      // The log says why, and has told the group.
    }
    this.#check();
  }

  /** Whether what is logged waits for more than `settle` before it may be acknowledged (rule K4). Not so in direct mode: links need the log. */
  get holdsReplies(): boolean {
    return this.#state.acknowledgement.isNeeded;
  }

  /** Resolves when everything logged before may be acknowledged: settled, and where the links want it. Rejects with `unavailable`. */
  acknowledged(): Promise<void> {
    return this.#state.acknowledgement.settled(this.#settleNow);
  }

  /** Everything that was acknowledged is durable when it resolves. */
  async flush(disk: Disk): Promise<void> {
    this.#check();
    // What was written directly just before the mode changed is durable once that is done.
    if (this.#leaving !== undefined) await this.#leaving;
    if (this.#mode === 'logged') await this.#state.log.sync();
    else await disk.sync();
  }

  /**
   * Leaves direct mode, if the group is in it: resolves when all that was written directly is durable in the volumes. `pause` keeps the applier
   * from the volumes until then. Rejects, and the mode stays, when there is no room for the log.
   */
  leaveDirect(pause: (until: Promise<void>) => void): Promise<void> {
    if (this.#leaving !== undefined) return this.#leaving;
    if (this.#mode === 'logged') return Promise.resolve();
    this.#leaving = this.#leave(pause).finally(() => {
      this.#leaving = undefined;
    });
    return this.#leaving;
  }

  async #leave(pause: (until: Promise<void>) => void): Promise<void> {
    await this.#state.log.allocate();
    this.#mode = 'logged';
    this.wake();
    const synced = this.#directIsDurable();
    pause(synced.catch(() => {}));
    await synced;
  }

  async #directIsDurable(): Promise<void> {
    if (this.#directInFlight > 0)
      await new Promise<void>((resolve) => {
        this.#onDirectIdle = resolve;
      });
    try {
      await Promise.all(this.#state.volumes.map((volume) => volume.disk.sync()));
    } catch (error) {
      // Nobody has what was lost: it was not logged.
      const why = error instanceof Error ? error.message : String(error);
      this.fail(new EngineError('unavailable', `the group takes no more writes: ${why}`, { errno: 'EIO' }));
      throw error;
    }
  }

  /**
   * Enters direct mode: `drain` applies what is logged and makes the checkpoint durable, writers are held meanwhile; `isEmpty` says whether
   * that is all there was. Returns whether the mode changed.
   */
  async enterDirect(drain: () => Promise<void>, isEmpty: () => boolean): Promise<boolean> {
    if (this.#leaving !== undefined || this.#held || this.#failure !== undefined) return false;
    this.#held = true;
    try {
      this.settle();
      await drain();
      if (!isEmpty()) return false;
      this.#mode = 'direct';
      return true;
    } finally {
      this.#held = false;
      this.wake();
    }
  }

  /** There may be more room in the log. */
  freed(): void {
    if (this.#waiting.length === 0) this.#notice.eased();
  }

  /** The first of those who wait tries again; when it goes on, so does the next. */
  wake(): void {
    this.#waiting[0]?.resume();
  }

  /** Appends as soon as there is room; those who came before go first. False when the group is in direct mode, and nothing is logged. */
  async #whenRoom(append: () => LogRecord | undefined): Promise<boolean> {
    const waiter: Waiter = { resume: () => {} };
    this.#waiting.push(waiter);
    try {
      for (;;) {
        if (this.#waiting[0] === waiter) {
          this.#check();
          if (this.isDirect) return false;
          if (!this.#held && this.#append(append())) return true;
          this.#notice.waits();
        }
        await new Promise<void>((resolve) => {
          waiter.resume = resolve;
        });
      }
    } finally {
      // Only the first leaves; what it found may be so for the next.
      this.#waiting.shift();
      this.freed();
      this.wake();
    }
  }

  #append(record: LogRecord | undefined): boolean {
    if (record === undefined) return false;
    const { batch } = record;
    if (batch !== this.#newest) {
      const before = this.#newest;
      this.#newest = batch;
      this.onBatch(batch);
      if (before?.bytes !== undefined) this.#keep(before);
    }
    this.#state.volumes[record.volumeIndex]?.pending.add(record);
    return true;
  }

  /** The payload of a sealed batch stays in memory until it is applied, unless there is too much of that: then that of another goes. */
  #keep(batch: LogBatch): void {
    this.#kept.push(batch);
    if (this.#kept.length > this.#keptToPrune) {
      this.#kept = this.#kept.filter((one) => one.bytes !== undefined);
      this.#keptToPrune = Math.max(MIN_KEPT_TO_PRUNE, 2 * this.#kept.length);
    }
    const payloadBytes = Math.max(
      this.#state.memoryBytes / 4,
      this.#payloadBytes - indexBytesOf(this.#state),
    );
    if (this.#state.log.keptBytes <= payloadBytes) return;
    // Two: what was not durable when its turn came goes later.
    this.#dropOne();
    this.#dropOne();
  }

  /**
   * Whoever needs the payload of the newest durable batch reads it from the log from now on (rule L2); what is not durable might not be there after a
   * failed sync. Those who read it now have it until they have ended.
   */
  #dropOne(): void {
    const { log, readers } = this.#state;
    for (let at = this.#kept.length - 1; at >= 0; at--) {
      const batch = this.#kept[at];
      if (batch === undefined || batch.isApplying || batch.endLsn > log.durableLsn) continue;
      this.#kept.splice(at, 1);
      // Nobody begins to use it from here on; those who do are waited for.
      batch.bytes = undefined;
      void readers.drained().then(() => log.forget(batch));
      return;
    }
  }

  /** The maps have grown, or shrunk. At least a quarter of the memory is for payload. */
  shareMemory(mapBytes: number): void {
    const { memoryBytes } = this.#state;
    this.#payloadBytes = Math.max(memoryBytes / 4, memoryBytes - mapBytes);
  }

  #check(): void {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#closing) throw new EngineError('unavailable', 'the group is closing', { errno: 'ESHUTDOWN' });
  }
}
