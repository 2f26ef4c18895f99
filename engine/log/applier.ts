/**
 * Applies the log to the volumes, in its order: the one consumer that every group has.
 *
 * This is its loop. A step, in the lane, is one of three: a unit of data batches (`unit-choice.ts`, `unit.ts`), a control record (`barrier.ts`), or a
 * checkpoint (`checkpoints.ts`), after which log space is given back (`freeing.ts`). Where there is nothing to do it sleeps until it is *poked*. What
 * is still to be applied, and applied again when a volume has lost it, is in `applier-queue.ts`; a disk that refuses makes it stall (`stall.ts`).
 */
import { EngineError } from '../errors.ts';
import type { GroupState } from '../group-state.ts';
import type { Lsn } from '../units.ts';
import { ApplierQueue } from './applier-queue.ts';
import { applyControl, type BarrierHooks } from './barrier.ts';
import { type CheckpointHooks, Checkpoints } from './checkpoints.ts';
import { Freeing, type FreeingHooks } from './freeing.ts';
import type { LogBatch } from './record.ts';
import { Stall, type StallHooks } from './stall.ts';
import { applyUnit } from './unit.ts';
import { UnitChoice, type UnitChoiceHooks } from './unit-choice.ts';

export interface ApplierHooks
  extends UnitChoiceHooks,
    BarrierHooks,
    CheckpointHooks,
    FreeingHooks,
    StallHooks {
  /** Something was applied: there may be work for others. */
  readonly progress: () => void;
  /** Something happened that only a bug explains. */
  readonly bug: (error: unknown) => void;
}

export class Applier {
  readonly #state: GroupState;
  readonly #hooks: ApplierHooks;
  readonly #recordHooks: BarrierHooks & CheckpointHooks;
  readonly #queue: ApplierQueue;
  readonly #choice: UnitChoice;
  readonly #checkpoints: Checkpoints;
  readonly #freeing: Freeing;
  readonly #stall: Stall;
  #wake: (() => void) | undefined;
  /** Counts pokes, so that one that comes between a look and the sleep after it is not missed. */
  #pokes = 0;
  #paused = 0;
  #closing = false;
  #running: Promise<void> | undefined;

  constructor(state: GroupState, hooks: ApplierHooks) {
    const wake = () => this.poke();
    this.#state = state;
    this.#hooks = hooks;
    this.#queue = new ApplierQueue(state);
    this.#choice = new UnitChoice(state, hooks, () => this.hurry());
    this.#freeing = new Freeing(state, hooks);
    this.#recordHooks = this.#withFreeing(hooks);
    this.#checkpoints = new Checkpoints(state, this.#queue, this.#recordHooks, wake);
    this.#stall = new Stall(state, hooks, wake);
    state.onVolumeLost = () => this.#volumeLost();
  }

  /** Up to where records are in the volumes. */
  get appliedLsn(): Lsn {
    return this.#queue.appliedLsn;
  }

  /** Why nothing is applied at the moment, or undefined. */
  get stall(): string | undefined {
    return this.#stall.reason;
  }

  /** Whether everything that was appended is applied. */
  get isCaughtUp(): boolean {
    return this.#queue.isCaughtUp;
  }

  /** Whether all of that is durable in the volumes. */
  get isSettled(): boolean {
    return this.isCaughtUp && this.appliedLsn === this.#state.checkpointLsn;
  }

  start(): void {
    this.#running ??= this.#run();
    // A checkpoint of the process before may have freed nothing yet, and there may be none before writers need the space.
    this.#freeing.soon();
  }

  /** A batch has begun. */
  enqueue(batch: LogBatch): void {
    this.#queue.enqueue(batch);
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

  /** Something may have changed that it waits for. */
  poke(): void {
    this.#pokes++;
    const wake = this.#wake;
    this.#wake = undefined;
    wake?.();
  }

  /** Somebody waits: what is logged by now is applied without waiting for more. */
  hurry(): void {
    this.#choice.hurry();
    if (!this.isCaughtUp) this.poke();
  }

  /** Has a checkpoint made as soon as there is nothing to apply. What a disk refuses is tried again, as with any step: see `stall`. */
  checkpointSoon(): void {
    this.#checkpoints.soon();
  }

  /** Makes the applied position durable. In the lane. */
  checkpoint(): Promise<void> {
    return this.#checkpoints.make();
  }

  /** Somebody has let go of the log. */
  freeSoon(): void {
    this.#freeing.soon();
  }

  /** Gives all log space below the checkpoint back, as soon as nobody reads there any more. A log that refuses has told why. */
  freeLog(): Promise<void> {
    return this.#freeing.now();
  }

  /** The log goes on at `lsn`: everything before is durable in the volumes, or will not come. In the lane. */
  jumpTo(lsn: Lsn): void {
    this.#queue.jumpTo(lsn);
  }

  /** Space was freed, or the like: a stalled applier tries again at once. */
  retryNow(): void {
    this.#stall.retryNow();
  }

  /** Ends after the step under way. What is not applied stays in the log. */
  async close(): Promise<void> {
    this.#stop();
    this.poke();
    await this.#running;
    await this.#checkpoints.ended();
    await this.#freeing.ended();
  }

  #stop(): void {
    this.#closing = true;
    this.#choice.stop();
    this.#checkpoints.stop();
    this.#freeing.stop();
    this.#stall.stop();
  }

  async #run(): Promise<void> {
    while (!this.#closing) {
      const seen = this.#pokes;
      try {
        const worked = await this.#state.lane(() => this.#step());
        if (worked) {
          this.#stall.recovered();
          this.#hooks.progress();
          continue;
        }
      } catch (error) {
        if (this.#closing) return;
        if (await this.#failed(error)) continue;
      }
      if (this.#pokes !== seen) continue;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  /** Applies one unit or control record, or makes a checkpoint that is due. False when there is nothing to do now. */
  async #step(): Promise<boolean> {
    if (this.#closing || this.#paused > 0 || this.#stall.holds) return false;
    this.#queue.rewindIfLost();
    const batches = this.#choice.next(this.#queue.batches);
    if (batches === undefined) return false;
    const [first] = batches;
    if (first === undefined) return await this.#checkpoints.whenIdle();
    if (first.control === undefined) {
      await applyUnit(this.#state, this.#queue, batches);
      this.#checkpoints.afterUnit();
    } else await applyControl(this.#state, this.#queue, this.#recordHooks, first);
    return true;
  }

  /** Returns whether to try again at once. */
  #failed(error: unknown): Promise<boolean> {
    if (error instanceof EngineError) return this.#stall.refused(error);
    this.#hooks.bug(error);
    this.#stop();
    return Promise.resolve(false);
  }

  #volumeLost(): void {
    this.#queue.volumeLost();
    this.poke();
  }

  /** Log space is given back after each checkpoint. A barrier is one too, and may be the last one for long. */
  #withFreeing(hooks: ApplierHooks): BarrierHooks & CheckpointHooks {
    return {
      ...hooks,
      controlApplied: (batch) => {
        hooks.controlApplied(batch);
        this.#freeing.soon();
      },
      checkpointed: () => {
        hooks.checkpointed();
        this.#freeing.soon();
      },
    };
  }
}
