/**
 * Lets what a secondary has received become part of what it shows (rule K12): the record gets the new horizon, durably; then, in one go, the batches up
 * to it join the pending index and the head of the chain, and go to the applier. So what readers see is always the state at the horizon, between two
 * batches, on all volumes; and a start replays to it, and no further.
 *
 * It stops where it has to: at the LSN at which a resync holds; where a link that this node feeds wants an image (`stops.ts`); before a restore of which
 * regions are lacking here, until all before it is applied; when frozen; for the delay that its operator wants; when the applier is far behind. Nothing that
 * waits is in memory: it is read from the ring.
 */
import type { Timer } from '../clock.ts';
import { type ControlQueue, controlOf } from '../control-queue.ts';
import { EngineError } from '../errors.ts';
import type { GroupState } from '../group-state.ts';
import type { Applier } from '../log/applier.ts';
import { LogReader } from '../log/reader.ts';
import type { LogBatch } from '../log/record.ts';
import type { ControlEffects } from '../snapshot/control-effects.ts';
import { LOG_SECTOR_BYTES, type Lsn, MIB } from '../units.ts';
import { Arrivals } from './arrivals.ts';
import { onSecondary } from './controls.ts';
import { type Lacking, lackingOf, restoreLacking } from './lacking.ts';
import type { Needs } from './needs.ts';
import { replicaOf, writeReplica } from './replica-record.ts';
import type { Resync } from './resync.ts';
import { RESYNCING, Stops } from './stops.ts';

/** Admitted at a time, in bytes of log: each costs a write of the record. */
const ADMIT_BYTES = 4 * MIB;
/** For fewer it waits so long, unless somebody waits for it. */
const PATIENCE_MS = 50;
/** Admitted and not applied at most, in bytes of log: so much is in the pending index, without payload. */
const MAX_AHEAD_BYTES = 64 * MIB;
/** What a disk refused is tried again after so long. */
const RETRY_MS = 1000;

export interface AdmissionHost {
  readonly applier: Applier;
  readonly controls: ControlQueue;
  readonly changed: () => void;
  readonly bug: (error: unknown) => void;
}

export class Admission {
  readonly #state: GroupState;
  readonly #effects: ControlEffects;
  readonly #resync: Resync;
  readonly #needs: Needs;
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
  /** See `PeerState.restoredByReferenceLsn`. */
  restoredByReferenceLsn: Lsn | null = null;

  constructor(state: GroupState, effects: ControlEffects, resync: Resync, needs: Needs, host: AdmissionHost) {
    this.#state = state;
    this.#effects = effects;
    this.#resync = resync;
    this.#needs = needs;
    this.#host = host;
    this.#reader = new LogReader(state.log);
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
    const to = this.#limit();
    if (to <= this.horizonLsn || !this.#isDue(to)) return false;
    const batches = await this.#reader.batches(this.horizonLsn, to, ADMIT_BYTES);
    const [first] = batches;
    if (first === undefined) return false;
    const lacking = this.#lackingAt(first);
    if (lacking !== undefined && (lacking.count > 0 || lacking.source === undefined))
      return await this.#restoreLacking(first, lacking);
    const next = batches.findIndex((batch, index) => index > 0 && this.#isRestore(batch));
    await this.#admit(next === -1 ? batches : batches.slice(0, next));
    return true;
  }

  /** All of these, in order, as one. What a restore lacks depends on what comes before it, so that one is looked at when it is the first. */
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
    const control = onSecondary(this.#state, this.#effects, controlOf(this.#state, batch));
    if (control?.type === 'restore') this.#noteRestored(batch.lsn, control.volumes.length);
    this.#host.controls.admit(batch, control);
  }

  #noteRestored(lsn: Lsn, volumes: number): void {
    if (volumes === this.#state.volumes.length) this.restoredByReferenceLsn = lsn;
  }

  #isRestore(batch: LogBatch): boolean {
    return batch.control !== undefined && controlOf(this.#state, batch).type === 'restore';
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
    const { log, clock } = this.#state;
    const { horizonLsn, frozen, applyDelaySeconds, resync, restart } = replicaOf(this.#state);
    const aheadBytes = (horizonLsn - this.#host.applier.appliedLsn) * LOG_SECTOR_BYTES;
    if (this.#paused > 0 || frozen || restart !== null || aheadBytes > MAX_AHEAD_BYTES) return horizonLsn;
    const { hold } = this.#resync;
    const to = Math.min(hold?.lsn ?? log.durableLsn, log.durableLsn, this.stops.lsn);
    this.#delay?.cancel();
    this.#delay = undefined;
    // A full ring shortens the delay; and there is none while readers see the guard.
    if (applyDelaySeconds === 0 || resync !== null || this.wantsRoom || to <= horizonLsn) return to;
    const ripeMs = clock.nowMs() - applyDelaySeconds * 1000;
    const nextMs = this.#arrivals.firstAfter(ripeMs);
    if (nextMs !== undefined) this.#delay = clock.after(nextMs - ripeMs, () => this.poke());
    return Math.max(horizonLsn, Math.min(to, this.#arrivals.cameBy(ripeMs) ?? horizonLsn));
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
