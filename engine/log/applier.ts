/**
 * Applies the log to the volumes, in its order: the one consumer that every group has.
 *
 * Data batches are applied together in *units*, sorted and merged (rule L10); a control record is a barrier of its own. A unit goes in these
 * steps, in the lane:
 *
 *   1. only batches that are durable in the log are taken (L1);
 *   2. regions that a restore still has to bring are materialised (T2);
 *   3. what the unit overwrites is preserved for the newest snapshot, durably (S1);
 *   4. regions are marked: as written, and as changed for detached snapshots and links;
 *   5. the volumes are written;
 *   6. the unit leaves the pending index: readers find it in the volumes from here on.
 *
 * A **checkpoint** makes the position durable: volumes synced, then the group's record written, then (in its own time) the log's superblock, which
 * frees the space (L7). When a volume's sync fails, everything since the last checkpoint is pending again, and is applied once more from the
 * log (L6). When a disk refuses (it is full, say), the applier *stalls*: nothing is lost, it tries again from time to time, the log fills, and
 * writers wait.
 */
import type { Timer } from '../clock.ts';
import { EngineError } from '../errors.ts';
import type { GroupState, GroupVolume } from '../group-state.ts';
import { bringForward } from '../snapshot/materialise.ts';
import { preserve } from '../snapshot/preserve.ts';
import { LOG_SECTOR_BYTES, type Lsn, MIB, type RegionIndex } from '../units.ts';
import type { LogBatch, LogRecord } from './record.ts';
import { inVolumeOrder, type Piece } from './unit-order.ts';

/** A unit has at most so many bytes of zeroes and payload, or one batch: that long others wait for the lane. */
const UNIT_BYTES = 16 * MIB;
/** … and touches about so many regions that have to be copied first. */
const UNIT_REGIONS = 512;
/**
 * It is worth waiting for more, because a large unit is sorted, and what was written twice is applied once: until so many bytes of log are durable,
 * or for so long, or until somebody waits for what is logged to be applied.
 */
const PATIENCE_BYTES = 8 * MIB;
const PATIENCE_MS = 50;
/**
 * A checkpoint at the latest after so many bytes of log, or a quarter of the ring; or so long after the last unit. The more writes it covers, the
 * fewer pages are written twice; after a crash so much is applied again.
 */
const CHECKPOINT_BYTES = 256 * MIB;
const CHECKPOINT_IDLE_MS = 1000;
/** Log space is freed when so large a share of the ring can be, or when writers wait. */
const FREE_SHARE = 1 / 8;
/** A stalled applier tries again after so long. */
const STALL_RETRY_MS = 1000;
/** Inline writes between two turns for everybody else. */
const WRITES_PER_TURN = 64;

export interface ApplierHooks {
  /** Carries out a control record in memory and in files, so that `writeRecord` makes it durable; returns how to take it back. In the lane. */
  readonly prepareControl: (batch: LogBatch) => Promise<() => void>;
  /** A control record is applied, durably. */
  readonly controlApplied: (batch: LogBatch) => void;
  /** The lazily kept maps of what changed become durable, before a checkpoint. */
  readonly flushMaps: () => Promise<void>;
  /** A disk is full (rule S8): whether something was given up, so that trying again makes sense. */
  readonly giveUp: () => Promise<boolean>;
  /** Whether writers wait for room in the log. */
  readonly writersWait: () => boolean;
  /** Something happened that only a bug explains. */
  readonly bug: (error: unknown) => void;
  /** Something was applied: there may be work for others. */
  readonly progress: () => void;
  /** A disk refuses: see `stall`. */
  readonly stalled: () => void;
  /** A checkpoint is durable. */
  readonly checkpointed: () => void;
}

export class Applier {
  readonly #state: GroupState;
  readonly #hooks: ApplierHooks;
  /** Batches not yet applied, in order. */
  readonly #queue: LogBatch[] = [];
  /** Data batches applied since the last checkpoint: those to apply again when a sync fails. */
  #retained: LogBatch[] = [];
  #appliedLsn: Lsn;
  #stall: string | undefined;
  #retry: Timer | undefined;
  #idle: Timer | undefined;
  #checkpointDue = false;
  #wake: (() => void) | undefined;
  /** Counts pokes, so that one that comes between a look and the sleep after it is not missed. */
  #pokes = 0;
  #closing = false;
  #running: Promise<void> | undefined;
  #freeing: Promise<void> | undefined;
  #checkpointing: Promise<void> | undefined;
  /** A volume's sync has failed since the last step. */
  #lost = false;
  #paused = 0;
  /** Records below it are applied without waiting for more. */
  #hurryLsn: Lsn = 0;
  #patience: Timer | undefined;

  constructor(state: GroupState, hooks: ApplierHooks) {
    this.#state = state;
    this.#hooks = hooks;
    this.#appliedLsn = state.checkpointLsn;
    state.onVolumeLost = () => this.#volumeLost();
  }

  /** Up to where records are in the volumes. */
  get appliedLsn(): Lsn {
    return this.#appliedLsn;
  }

  /** Why nothing is applied at the moment, or undefined. */
  get stall(): string | undefined {
    return this.#stall;
  }

  /** Whether everything that was appended is applied. */
  get isCaughtUp(): boolean {
    return this.#queue.length === 0 && !this.#lost;
  }

  /** Whether all of that is durable in the volumes. */
  get isSettled(): boolean {
    return this.isCaughtUp && this.#appliedLsn === this.#state.checkpointLsn;
  }

  start(): void {
    this.#running ??= this.#run();
  }

  /** A batch has begun. */
  enqueue(batch: LogBatch): void {
    this.#queue.push(batch);
    if (batch.control !== undefined) this.poke();
  }

  /** Applies nothing until `until` has settled. */
  pause(until: Promise<void>): void {
    this.#paused++;
    void until.finally(() => {
      this.#paused--;
      this.poke();
    });
  }

  /** Something may have changed that it waits for. A stall is tried again. */
  poke(): void {
    this.#pokes++;
    const wake = this.#wake;
    this.#wake = undefined;
    wake?.();
  }

  /** Somebody waits: what is logged by now is applied without waiting for more. */
  hurry(): void {
    this.#hurryLsn = this.#state.log.endLsn;
    if (!this.isCaughtUp) this.poke();
  }

  /** Has a checkpoint made as soon as there is nothing to apply. What a disk refuses is tried again, as with any step: see `stall`. */
  checkpointSoon(): void {
    this.#checkpointDue = true;
    this.poke();
  }

  /** Space was freed, or the like: a stalled applier tries again at once. */
  retryNow(): void {
    this.#retry?.cancel();
    this.#retry = undefined;
    this.poke();
  }

  /** Ends after the step under way. What is not applied stays in the log. */
  async close(): Promise<void> {
    this.#closing = true;
    this.#idle?.cancel();
    this.#retry?.cancel();
    this.#patience?.cancel();
    this.poke();
    await this.#running;
    await this.#checkpointing;
    await this.#freeing;
  }

  async #run(): Promise<void> {
    while (!this.#closing) {
      const seen = this.#pokes;
      try {
        const worked = await this.#state.lane(() => this.#step());
        if (worked) {
          this.#recovered();
          this.#hooks.progress();
          continue;
        }
      } catch (error) {
        if (this.#closing) return;
        if (await this.#stalled(error)) continue;
      }
      if (this.#pokes !== seen) continue;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  /** Applies one unit or control record, or makes a checkpoint that is due. False when there is nothing to do now. */
  async #step(): Promise<boolean> {
    if (this.#closing || this.#paused > 0 || this.#retry !== undefined) return false;
    this.#rewindIfLost();
    const { unit, isFull } = this.#nextUnit();
    const [first] = unit;
    if (first === undefined) return await this.#idleCheckpoint();
    if (first.control !== undefined) await this.#applyControl(first);
    else if (!isFull && this.#isPatient(unit)) return false;
    else {
      await this.#applyUnit(unit);
      if (this.#checkpointIsDue()) this.#checkpointAside();
    }
    return true;
  }

  /** The batches to apply next: one control record, or data batches up to the bounds; all of them durable in the log (L1). */
  #nextUnit(): { readonly unit: LogBatch[]; readonly isFull: boolean } {
    const { durableLsn } = this.#state.log;
    const unit: LogBatch[] = [];
    const copies = new Set<string>();
    let bytes = 0;
    for (const batch of this.#queue) {
      if (batch.lsn >= durableLsn) return { unit, isFull: false };
      if (bytes > UNIT_BYTES || copies.size > UNIT_REGIONS) return { unit, isFull: true };
      if (batch.control !== undefined) return { unit: unit.length === 0 ? [batch] : unit, isFull: true };
      unit.push(batch);
      for (const record of batch.records) {
        bytes += record.lengthBytes;
        this.#addCopies(record, copies);
      }
    }
    return { unit, isFull: false };
  }

  /** The regions of a record that have to be copied before it is applied, as far as that can be told now. */
  #addCopies({ volumeIndex, offsetBytes, lengthBytes }: LogRecord, copies: Set<string>): void {
    const { chain, regionBytes } = this.#state;
    const receiver = chain.receiver();
    if (receiver < 0 && chain.restores.length === 0) return;
    const last = Math.floor((offsetBytes + lengthBytes - 1) / regionBytes);
    for (let region = Math.floor(offsetBytes / regionBytes); region <= last; region++) {
      const kept = receiver < 0 || chain.isPreserved(volumeIndex, region, receiver, chain.nodes.length);
      if (!kept) copies.add(`${volumeIndex} ${region}`);
    }
  }

  /** Whether to wait for more to come before a unit of these, which could be larger, is applied. */
  #isPatient(unit: readonly LogBatch[]): boolean {
    const from = unit[0]?.lsn ?? 0;
    const bytes = ((unit.at(-1)?.endLsn ?? from) - from) * LOG_SECTOR_BYTES;
    if (from < this.#hurryLsn || bytes >= PATIENCE_BYTES || this.#hooks.writersWait()) return false;
    this.#patience ??= this.#state.clock.after(PATIENCE_MS, () => {
      this.#patience = undefined;
      this.hurry();
    });
    return true;
  }

  async #applyUnit(unit: readonly LogBatch[]): Promise<void> {
    // It reads payloads like any reader: their memory is not used again before it has ended.
    const epoch = this.#state.readers.begin();
    try {
      const pieces = await this.#load(unit);
      for (const volume of this.#state.volumes) {
        const own = pieces.filter((piece) => piece.record.volumeIndex === volume.index);
        if (own.length > 0) await this.#applyTo(volume, own);
      }
      this.#leavePending(unit);
    } finally {
      this.#state.readers.end(epoch);
    }
  }

  async #applyTo(volume: GroupVolume, pieces: readonly Piece[]): Promise<void> {
    const regions = this.#regionsOf(pieces);
    await bringForward(this.#state, volume, regions);
    await preserve(this.#state, volume, regions);
    for (const tracker of this.#state.trackers) tracker.noteChanged(volume.index, regions);
    await this.#writeAll(volume, pieces);
  }

  /** The records with their payloads, from memory or, where that was given back, from the log. */
  async #load(unit: readonly LogBatch[]): Promise<Piece[]> {
    const pieces: Piece[] = [];
    for (const batch of unit) {
      let { bytes } = batch;
      if (bytes === undefined) {
        bytes = Buffer.allocUnsafe((batch.endLsn - batch.lsn) * LOG_SECTOR_BYTES);
        await this.#state.log.readPayload(batch, 0, bytes, 0, bytes.length);
      }
      for (const record of batch.records) pieces.push({ record, bytes });
    }
    return pieces;
  }

  #regionsOf(pieces: readonly Piece[]): RegionIndex[] {
    const { regionBytes } = this.#state;
    const regions = new Set<RegionIndex>();
    for (const { record } of pieces) {
      const last = Math.floor((record.offsetBytes + record.lengthBytes - 1) / regionBytes);
      for (let region = Math.floor(record.offsetBytes / regionBytes); region <= last; region++)
        regions.add(region);
    }
    return [...regions].sort((a, b) => a - b);
  }

  async #writeAll(volume: GroupVolume, pieces: readonly Piece[]): Promise<void> {
    volume.unsynced = true;
    let inline = 0;
    for (const piece of inVolumeOrder(pieces)) {
      const waited = await this.#write(volume, piece);
      inline = waited ? 0 : inline + 1;
      if (inline % WRITES_PER_TURN === WRITES_PER_TURN - 1) await this.#state.clock.turn();
    }
  }

  /** Returns whether it waited. */
  #write(volume: GroupVolume, { record, bytes }: Piece): boolean | Promise<boolean> {
    const { offsetBytes, lengthBytes, dataStart } = record;
    if (record.zeroes) return this.#zero(volume, record);
    const { regionBytes } = this.#state;
    const first = Math.floor(offsetBytes / regionBytes);
    const end = Math.floor((offsetBytes + lengthBytes - 1) / regionBytes) + 1;
    if (volume.map.tryMark(first, end) && volume.disk.tryWrite(bytes, dataStart, lengthBytes, offsetBytes))
      return false;
    return this.#writeSlowly(volume, { record, bytes }, first, end);
  }

  async #writeSlowly(
    volume: GroupVolume,
    { record, bytes }: Piece,
    first: RegionIndex,
    end: RegionIndex,
  ): Promise<boolean> {
    await this.#state.markWritten(volume, first, end);
    await volume.disk.write(bytes, record.dataStart, record.lengthBytes, record.offsetBytes);
    return true;
  }

  /** Zeroes mark no region as written: a blank one stays blank. */
  async #zero(volume: GroupVolume, { offsetBytes, lengthBytes, mayPunch }: LogRecord): Promise<boolean> {
    if (mayPunch) await volume.disk.punch(offsetBytes, lengthBytes);
    else await volume.disk.zero(offsetBytes, lengthBytes, false);
    return true;
  }

  /** The volumes show the unit now; who read before that has its payload until it has ended. */
  #leavePending(unit: readonly LogBatch[]): void {
    // What was lost meanwhile comes before this unit, and then this unit again.
    if (this.#rewindIfLost()) return;
    for (const batch of unit) {
      for (const record of batch.records) this.#state.volumes[record.volumeIndex]?.pending.remove(record);
    }
    this.#queue.splice(0, unit.length);
    this.#retained.push(...unit);
    this.#appliedLsn = unit.at(-1)?.endLsn ?? this.#appliedLsn;
    // Nobody begins to use their memory from here on, not even who applies them again; those who do are waited for.
    for (const batch of unit) batch.bytes = undefined;
    void this.#state.readers.drained().then(() => {
      for (const batch of unit) this.#state.log.forget(batch);
    });
  }

  /** A barrier (L10): everything before it is durable, then its effect and the checkpoint just past it are one write. */
  async #applyControl(batch: LogBatch): Promise<void> {
    const losses = this.#state.volumeLosses;
    await this.#state.syncVolumes();
    // What was lost is applied again first.
    if (losses !== this.#state.volumeLosses) return;
    const takeBack = await this.#hooks.prepareControl(batch);
    try {
      await this.#hooks.flushMaps();
      await this.#state.writeRecord(batch.endLsn);
    } catch (error) {
      takeBack();
      throw error;
    }
    this.#queue.shift();
    this.#appliedLsn = batch.endLsn;
    this.#retained = [];
    this.#state.log.forget(batch);
    this.#hooks.controlApplied(batch);
    // It was a checkpoint, and may be the last one for long.
    this.freeSoon();
  }

  #checkpointIsDue(): boolean {
    const { log, checkpointLsn } = this.#state;
    const sinceBytes = (this.#appliedLsn - checkpointLsn) * LOG_SECTOR_BYTES;
    const bound = Math.min(CHECKPOINT_BYTES, log.capacityBytes / 4);
    return sinceBytes >= bound || (this.#hooks.writersWait() && sinceBytes > 0);
  }

  async #idleCheckpoint(): Promise<boolean> {
    if (this.#checkpointing !== undefined) return false;
    if (this.#appliedLsn === this.#state.checkpointLsn) {
      this.#checkpointDue = false;
      return false;
    }
    if (this.#checkpointDue || this.#hooks.writersWait()) {
      this.#checkpointDue = false;
      await this.checkpoint();
      return true;
    }
    this.#idle ??= this.#state.clock.after(CHECKPOINT_IDLE_MS, () => {
      this.#idle = undefined;
      this.#checkpointDue = true;
      this.poke();
    });
    return false;
  }

  /** Makes the applied position durable. In the lane. */
  async checkpoint(): Promise<void> {
    if (this.#rewindIfLost()) this.poke();
    const lsn = this.#appliedLsn;
    const losses = this.#state.volumeLosses;
    await this.#state.syncVolumes();
    await this.#recordCheckpoint(lsn, losses);
  }

  /** The same for where it is now, while the next units are applied: only the record is written in the lane. */
  #checkpointAside(): void {
    if (this.#checkpointing !== undefined) return;
    const lsn = this.#appliedLsn;
    const losses = this.#state.volumeLosses;
    this.#checkpointing = this.#state
      .syncVolumes()
      .then(() => this.#state.lane(() => this.#recordCheckpoint(lsn, losses)))
      // What could not be made durable is in the log still: the next checkpoint covers it, or says why not.
      .catch(() => {})
      .finally(() => {
        this.#checkpointing = undefined;
        this.poke();
      });
  }

  /** Everything below `lsn` is in the volumes, durably, unless a sync has failed since there were so many `losses`. In the lane. */
  async #recordCheckpoint(lsn: Lsn, losses: number): Promise<void> {
    if (losses !== this.#state.volumeLosses || lsn <= this.#state.checkpointLsn) return;
    await this.#hooks.flushMaps();
    await this.#state.writeRecord(lsn);
    this.#retained = this.#retained.filter((batch) => batch.endLsn > lsn);
    this.#hooks.checkpointed();
    this.freeSoon();
  }

  /** Gives log space back, once it is worth a write of the superblock. To be called when somebody lets go of the log, too. */
  freeSoon(): void {
    const { log, freeableLsn } = this.#state;
    const freeable = (freeableLsn - log.tailLsn) * LOG_SECTOR_BYTES;
    if (freeable <= 0 || this.#freeing !== undefined || this.#closing || log.failure !== undefined) return;
    if (freeable < log.capacityBytes * FREE_SHARE && !this.#hooks.writersWait()) return;
    const { tailLsn } = log;
    this.#freeing = this.freeLog().finally(() => {
      this.#freeing = undefined;
      // A checkpoint may have passed meanwhile. What a disk refuses is tried again after a while.
      if (log.tailLsn > tailLsn) this.freeSoon();
      else if (!this.#closing) this.#state.clock.after(STALL_RETRY_MS, () => this.freeSoon());
    });
  }

  /** Gives all log space that nobody needs back, as soon as nobody reads there any more. A log that refuses has told why. */
  async freeLog(): Promise<void> {
    const { log, freeableLsn, readers } = this.#state;
    this.#state.raiseLogFloor(freeableLsn);
    await readers.drained();
    await log.free(freeableLsn).catch(() => {});
  }

  /**
   * A volume may have lost what it was given since its last sync: all since the checkpoint is pending again (L6). Readers see that at once; the
   * applier begins again at its next step.
   */
  #volumeLost(): void {
    this.#lost = true;
    for (const volume of this.#state.volumes) {
      volume.disk.forgive();
      volume.pending.clear();
    }
    for (const batch of [...this.#retained, ...this.#queue]) {
      if (batch.control !== undefined)
        for (const volume of this.#state.volumes) volume.pending.nodeAppended(batch.lsn);
      for (const record of batch.records) this.#state.volumes[record.volumeIndex]?.pending.add(record);
    }
    this.poke();
  }

  /** Whether it went back to the checkpoint. */
  #rewindIfLost(): boolean {
    if (!this.#lost) return false;
    this.#lost = false;
    this.#queue.unshift(...this.#retained);
    this.#retained = [];
    this.#appliedLsn = this.#state.checkpointLsn;
    return true;
  }

  /** Returns whether to try again at once. */
  async #stalled(error: unknown): Promise<boolean> {
    if (!(error instanceof EngineError)) {
      this.#hooks.bug(error);
      this.#closing = true;
      return false;
    }
    const full = error.errno === 'ENOSPC' || error.errno === 'EDQUOT';
    // What cannot be given up either leaves things as they are.
    if (full && (await this.#hooks.giveUp().catch(() => false))) return true;
    if (this.#stall === undefined) {
      this.#stall = error.message;
      const message = `applying the log is held, and tried again from time to time: ${error.message}`;
      this.#state.emit({ type: 'group.stalled', message, data: { errno: error.errno ?? null } });
    }
    this.#stall = error.message;
    this.#retry = this.#state.clock.after(STALL_RETRY_MS, () => {
      this.#retry = undefined;
      this.poke();
    });
    this.#hooks.stalled();
    return false;
  }

  #recovered(): void {
    if (this.#stall === undefined) return;
    this.#stall = undefined;
    this.#state.emit({ type: 'group.resumed', message: 'applying the log goes on' });
  }
}
