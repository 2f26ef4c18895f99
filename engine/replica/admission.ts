/**
 * Lets what a secondary has received become part of what it shows (rule K12): the record gets the new horizon, durably; then, in one go, the batches up
 * to it join the pending index and the head of the chain, and go to the applier. So what readers see is always the state at the horizon, between two
 * batches, on all volumes; and a start replays to it, and no further.
 *
 * It stops where it has to: at the LSN at which a resync holds; where a link that this node feeds wants an image (`stops.ts`); before a restore of which
 * regions are lacking here, until all before it is applied; before a refresh of a snapshot that is not ready for that here; when frozen; for the delay that
 * its operator wants; when the applier is far behind. Nothing that waits is in memory: it is read from the ring.
 *
 * After a resync of one that applies late the volumes are younger than the delay allows: readers keep the image from before until they are not, and nothing
 * is admitted meanwhile.
 */

import type { Background } from '../background.ts';
import type { Timer } from '../clock.ts';
import { type ControlQueue, controlOf } from '../control-queue.ts';
import { EngineError } from '../errors.ts';
import type { GroupState } from '../group-state.ts';
import type { Applier } from '../log/applier.ts';
import { LogReader } from '../log/reader.ts';
import type { LogBatch } from '../log/record.ts';
import type { ControlEffects, Snapshot } from '../snapshot/control-effects.ts';
import { LOG_SECTOR_BYTES, type Lsn, MIB } from '../units.ts';
import { Arrivals } from './arrivals.ts';
import { onSecondary } from './controls.ts';
import { type Lacking, lackingOf, restoreLacking } from './lacking.ts';
import type { Needs } from './needs.ts';
import { waitOf } from './refresh-wait.ts';
import { replicaOf, writeReplica } from './replica-record.ts';
import type { Resync } from './resync.ts';
import { RESYNCING, Stops } from './stops.ts';
import { ToldNames } from './told-names.ts';
import type { Verifying } from './verifying.ts';

/** Admitted at a time, in bytes of log: each costs a write of the record. */
const ADMIT_BYTES = 4 * MIB;
/** For fewer it waits so long, unless somebody waits for it. */
const PATIENCE_MS = 50;
/** Admitted and not applied at most, in bytes of log: so much is in the pending index, without payload. */
const MAX_AHEAD_BYTES = 64 * MIB;
/** Between two looks at a delay at most: timers do not last for weeks. */
const LONGEST_LOOK_MS = 86_400_000;
/** Below every LSN: nothing at 0 is as old as that either. */
const NOWHERE: Lsn = -1;
/** What a disk refused is tried again after so long. */
const RETRY_MS = 1000;

export interface AdmissionHost {
  readonly applier: Applier;
  readonly controls: ControlQueue;
  readonly background: Pick<Background, 'hurry' | 'isStuck' | 'poke'>;
  readonly changed: () => void;
  readonly bug: (error: unknown) => void;
  /** The links of this node. */
  readonly fed: () => { interrupt(why: string): Promise<void> };
  /** A nameless layer may go. */
  readonly freed: () => void;
}

export class Admission {
  readonly #state: GroupState;
  readonly #effects: ControlEffects;
  readonly #resync: Resync;
  readonly #needs: Needs;
  readonly #verifying: Verifying;
  readonly #host: AdmissionHost;
  readonly #reader: LogReader;
  readonly #arrivals = new Arrivals();
  readonly stops: Stops;
  /** Somebody waits for what has come to be admitted, up to there. */
  #hurryLsn: Lsn = 0;
  #paused = 0;
  #pokes = 0;
  #wake: (() => void) | undefined;
  #patience: Timer | undefined;
  #delay: Timer | undefined;
  #retry: Timer | undefined;
  #problem: string | undefined;
  #closing = false;
  #running: Promise<void> | undefined;
  #idle = false;
  /** The log is full, and what came finds no room. */
  wantsRoom = false;
  /** What the next record waits for here. */
  waitsFor: string | undefined;
  readonly names: ToldNames;
  /** See `PeerState.restoredByReferenceLsn`. */
  restoredByReferenceLsn: Lsn | null = null;

  constructor(
    state: GroupState,
    effects: ControlEffects,
    resync: Resync,
    needs: Needs,
    verifying: Verifying,
    host: AdmissionHost,
  ) {
    this.#state = state;
    this.#verifying = verifying;
    this.#effects = effects;
    this.#resync = resync;
    this.#needs = needs;
    this.#host = host;
    this.#reader = new LogReader(state.log);
    this.names = new ToldNames(state, effects);
    this.stops = new Stops(state, effects);
    this.arrived();
  }

  get horizonLsn(): Lsn {
    return replicaOf(this.#state).horizonLsn;
  }

  /** Why it cannot go on, though it could; a disk refuses, as a rule. */
  get problem(): string | undefined {
    return this.#problem;
  }

  /** Whether it waits because of the delay. */
  get isDelayed(): boolean {
    return this.#delay !== undefined;
  }

  /** Whether it has found nothing to do since the last poke. */
  get isIdle(): boolean {
    return this.#idle;
  }

  start(): void {
    this.#running ??= this.#run();
  }

  /** More has come. */
  arrived(): void {
    this.#arrivals.note(this.#state.log.endLsn, this.#state.clock.nowMs());
  }

  /** What had come beyond the end is gone. */
  cut(): void {
    this.#arrivals.cut(this.#state.log.endLsn);
  }

  /** The log goes on elsewhere. */
  restarted(): void {
    this.#arrivals.restart(this.#state.log.endLsn, this.#state.clock.nowMs());
  }

  /** When readers get what a resync has brought, unless something shortens the delay; in ms of the clock. */
  get showsAtMs(): number | undefined {
    const { horizonLsn, applyDelaySeconds, oldImage } = replicaOf(this.#state);
    if (oldImage === null) return undefined;
    const cameAtMs = this.#arrivals.cameAt(horizonLsn);
    return cameAtMs === undefined ? undefined : cameAtMs + applyDelaySeconds * 1000;
  }

  poke(): void {
    this.#pokes++;
    this.#idle = false;
    const wake = this.#wake;
    this.#wake = undefined;
    wake?.();
  }

  hurry(): void {
    this.#hurryLsn = this.#state.log.endLsn;
    this.poke();
  }

  /** Nothing is admitted until the returned function is called. */
  pause(): () => void {
    this.#paused++;
    return () => {
      this.#paused--;
      this.poke();
    };
  }

  async close(): Promise<void> {
    this.#closing = true;
    for (const timer of [this.#patience, this.#delay, this.#retry]) timer?.cancel();
    this.stops.postpone('the group is closing');
    this.poke();
    await this.#running;
  }

  async #run(): Promise<void> {
    while (!this.#closing) {
      const seen = this.#pokes;
      try {
        if (this.#retry === undefined && (await this.#state.lane(() => this.#step()))) {
          this.#problem = undefined;
          this.#host.changed();
          continue;
        }
      } catch (error) {
        if (this.#closing) return;
        if (!this.#held(error)) return;
      }
      if (this.#pokes !== seen) continue;
      this.#idle = true;
      this.#host.changed();
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  /** False when only a bug explains it. */
  #held(error: unknown): boolean {
    if (!(error instanceof EngineError)) {
      this.#host.bug(error);
      return false;
    }
    this.#problem = error.message;
    this.#retry = this.#state.clock.after(RETRY_MS, () => {
      this.#retry = undefined;
      this.poke();
    });
    return true;
  }

  get #isApplied(): boolean {
    const { applier } = this.#host;
    return applier.isCaughtUp && applier.appliedLsn === this.horizonLsn;
  }

  async #step(): Promise<boolean> {
    if (this.#closing) return false;
    if (!this.stops.isEmpty && replicaOf(this.#state).resync !== null) this.stops.postpone(RESYNCING);
    if (this.stops.lsn === this.horizonLsn) return await this.#reachStop();
    const { hold } = this.#resync;
    if (hold?.reached === false && hold.lsn === this.horizonLsn) return await this.#reachHold();
    this.waitsFor = undefined;
    if (replicaOf(this.#state).oldImage !== null) return await this.#showWhenOld();
    const gone = this.#mayAdmit ? this.names.gone(this.horizonLsn) : [];
    if (gone.length > 0) return await this.#takeNames(gone);
    const to = this.#limit();
    if (to <= this.horizonLsn || !this.#isDue(to)) return false;
    const batches = await this.#reader.batches(this.horizonLsn, to, ADMIT_BYTES);
    const [first] = batches;
    if (first === undefined) return false;
    if (this.#waits(first)) return false;
    const lacking = this.#lackingAt(first);
    if (lacking !== undefined && (lacking.count > 0 || lacking.source === undefined))
      return await this.#restoreLacking(first, lacking);
    const next = batches.findIndex((batch, index) => index > 0 && this.#isLookedAt(batch));
    await this.#admit(next === -1 ? batches : batches.slice(0, next));
    return true;
  }

  async #takeNames(gone: readonly Snapshot[]): Promise<boolean> {
    if (!this.#isApplied) {
      this.#host.applier.hurry();
      return false;
    }
    await this.names.take(gone);
    // Those below are told at their next hand-over, which is this.
    void this.#host.fed().interrupt('snapshots that the primary has no more were taken away');
    this.#host.background.poke();
    return true;
  }

  /** What is under way meanwhile is not paced. */
  #waits(batch: LogBatch): boolean {
    if (batch.control === undefined) return false;
    const state = this.#state;
    const { applier, background } = this.#host;
    const { log, checkpointLsn } = state;
    const isFreed = checkpointLsn >= this.horizonLsn && log.tailLsn >= state.freeableLsn;
    const facts = {
      isApplied: this.#isApplied,
      isStuck: background.isStuck,
      isFull: this.wantsRoom && isFreed,
    };
    this.waitsFor = waitOf(state, this.#effects, controlOf(state, batch), facts);
    if (this.waitsFor === undefined) return false;
    if (facts.isApplied) background.hurry();
    else applier.hurry();
    return true;
  }

  /** All of these, in order, as one. What a restore lacks, or a refresh waits for, depends on what comes before: it is looked at when it is the first. */
  async #admit(batches: readonly LogBatch[]): Promise<void> {
    const horizonLsn = batches.at(-1)?.endLsn ?? this.horizonLsn;
    await writeReplica(this.#state, this.#state.checkpointLsn, { horizonLsn });
    for (const batch of batches) {
      if (batch.control === undefined) this.#admitData(batch);
      else this.#admitControl(batch);
    }
    if (horizonLsn >= this.#hurryLsn || this.#resync.hold !== undefined) this.#host.applier.hurry();
  }

  #admitData(batch: LogBatch): void {
    for (const record of batch.records) this.#state.volumes[record.volumeIndex]?.pending.add(record);
    this.#host.applier.enqueue(batch);
  }

  #admitControl(batch: LogBatch): void {
    const written = controlOf(this.#state, batch);
    const control = this.#verifying.controlOf(written) ?? onSecondary(this.#state, this.#effects, written);
    if (control?.type === 'restore') this.#noteRestored(batch.lsn, control.volumes.length);
    this.#host.controls.admit(batch, control);
    if (control?.type === 'verify') this.#verifying.admitted(control);
  }

  #noteRestored(lsn: Lsn, volumes: number): void {
    if (volumes === this.#state.volumes.length) this.restoredByReferenceLsn = lsn;
  }

  #isLookedAt(batch: LogBatch): boolean {
    if (batch.control === undefined) return false;
    const { type } = controlOf(this.#state, batch);
    return type === 'restore' || type === 'refresh';
  }

  #lackingAt(batch: LogBatch): Lacking | undefined {
    if (batch.control === undefined) return undefined;
    const control = controlOf(this.#state, batch);
    return control.type === 'restore' ? lackingOf(this.#state, this.#effects, control) : undefined;
  }

  async #restoreLacking(batch: LogBatch, lacking: Lacking): Promise<boolean> {
    if (!this.#isApplied) {
      this.#host.applier.hurry();
      return false;
    }
    const control = onSecondary(this.#state, this.#effects, controlOf(this.#state, batch));
    if (control?.type !== 'restore') throw new Error('bug: a restore is one everywhere');
    const begins = replicaOf(this.#state).resync === null && lacking.count > 0;
    if (begins && (await this.#state.space.isShort()))
      throw new EngineError(
        'unavailable',
        'there is no room to keep what readers see until the regions of a restore have come',
        {
          errno: 'ENOSPC',
        },
      );
    await restoreLacking(this.#state, this.#effects, this.#needs, { batch, control, lacking });
    this.#host.applier.jumpTo(batch.endLsn);
    if (lacking.source === undefined) this.restoredByReferenceLsn = null;
    else this.#noteRestored(batch.lsn, control.volumes.length);
    if (lacking.count === 0) return true;
    const message = `a restore of the primary needs ${lacking.count} regions that are not in the log: they are asked for`;
    this.#state.emit({ type: 'resync.needed', message, data: { regions: lacking.count } });
    return true;
  }

  /** Rule K12. */
  async #showWhenOld(): Promise<boolean> {
    const { horizonLsn, frozen } = replicaOf(this.#state);
    if (this.#paused > 0 || frozen || (!this.#isUndelayed && this.#ripeLsn() < horizonLsn)) return false;
    await this.#resync.show();
    this.#host.freed();
    return true;
  }

  async #reachHold(): Promise<boolean> {
    const { hold } = this.#resync;
    if (hold === undefined) return false;
    if (!this.#isApplied) {
      this.#host.applier.hurry();
      return false;
    }
    await this.#host.applier.checkpoint();
    if (this.#state.checkpointLsn !== hold.lsn) return false;
    await this.#resync.reach(hold);
    return true;
  }

  get #mayAdmit(): boolean {
    const { frozen, restart } = replicaOf(this.#state);
    return this.#paused === 0 && !frozen && restart === null;
  }

  async #reachStop(): Promise<boolean> {
    const { horizonLsn } = this;
    if (!this.#isApplied) {
      this.#host.applier.hurry();
      return false;
    }
    await this.#host.applier.checkpoint();
    if (this.#state.checkpointLsn !== horizonLsn) return false;
    await this.stops.take(horizonLsn);
    return true;
  }

  /** Up to where may be admitted now. */
  #limit(): Lsn {
    const { log } = this.#state;
    const { horizonLsn, resync } = replicaOf(this.#state);
    const aheadBytes = (horizonLsn - this.#host.applier.appliedLsn) * LOG_SECTOR_BYTES;
    if (!this.#mayAdmit || aheadBytes > MAX_AHEAD_BYTES) return horizonLsn;
    const { hold } = this.#resync;
    const to = Math.min(hold?.lsn ?? log.durableLsn, log.durableLsn, this.stops.lsn);
    this.#endDelay();
    // There is no delay while readers see the guard.
    if (this.#isUndelayed || resync !== null || to <= horizonLsn) return to;
    return Math.max(horizonLsn, Math.min(to, this.#ripeLsn()));
  }

  /** A full ring shortens the delay (rule K12). */
  get #isUndelayed(): boolean {
    return replicaOf(this.#state).applyDelaySeconds === 0 || this.wantsRoom;
  }

  /** Below it everything has come so long ago as the delay is; `NOWHERE`: not even the first. When there is more it is looked at again. */
  #ripeLsn(): Lsn {
    this.#endDelay();
    const { clock } = this.#state;
    const ripeMs = clock.nowMs() - replicaOf(this.#state).applyDelaySeconds * 1000;
    const nextMs = this.#arrivals.firstAfter(ripeMs);
    if (nextMs !== undefined)
      this.#delay = clock.after(Math.min(nextMs - ripeMs, LONGEST_LOOK_MS), () => this.poke());
    return this.#arrivals.cameBy(ripeMs) ?? NOWHERE;
  }

  #endDelay(): void {
    this.#delay?.cancel();
    this.#delay = undefined;
  }

  /** Whether to go on with what there is up to `to`, or to wait for more. */
  #isDue(to: Lsn): boolean {
    const bytes = (to - this.horizonLsn) * LOG_SECTOR_BYTES;
    const isAwaited = this.#resync.hold !== undefined || !this.stops.isEmpty;
    if (isAwaited || this.horizonLsn < this.#hurryLsn || this.wantsRoom || bytes >= ADMIT_BYTES) return true;
    this.#patience ??= this.#state.clock.after(PATIENCE_MS, () => {
      this.#patience = undefined;
      this.hurry();
    });
    return false;
  }
}
