/**
 * Brings a secondary up to what it has received, and has it stand there: before its log goes on elsewhere, and before regions come out of order. There is no
 * delay meanwhile: readers keep what they see now (rule K12).
 */
import { EngineError } from '../errors.ts';
import type { Lsn } from '../units.ts';
import type { ReplicaParts } from './parts.ts';
import { replicaOf } from './replica-record.ts';

export class CatchUp {
  readonly #parts: ReplicaParts;

  constructor(parts: ReplicaParts) {
    this.#parts = parts;
  }

  /** Has everything below `lsn` admitted. Throws as `refuseFrozen`, and `unavailable` when the session is over. */
  async to(lsn: Lsn, session: number): Promise<void> {
    const { state, host, admission, session: sessions } = this.#parts;
    await state.log.sync();
    const isThere = () => admission.horizonLsn >= lsn;
    if (isThere()) return;
    this.refuseFrozen();
    await this.endDelay(session);
    admission.hurry();
    await host.until(() => isThere() || replicaOf(state).frozen || sessions.isOver(session));
    sessions.check(session);
    if (!isThere()) this.refuseFrozen();
  }

  /** Throws `unavailable` where its operator has frozen it, with the one error of NBD that says *later*. */
  refuseFrozen(): void {
    if (!replicaOf(this.#parts.state).frozen) return;
    const what = 'the secondary is frozen, and has what it may not apply: its operator has to thaw it first';
    throw new EngineError('unavailable', what, { errno: 'ENOSPC' });
  }

  /** Readers get what they see now until the resync is over, so that nothing has to wait for the delay. */
  async endDelay(session: number): Promise<void> {
    const { state, resync } = this.#parts;
    const replica = replicaOf(state);
    if (replica.applyDelaySeconds === 0 || replica.resync !== null) return;
    await this.whileApplied(session, async () => {
      this.#parts.session.check(session);
      await resync.guard(await this.checkpointHere(), () => ({}));
    });
  }

  /** Runs `work` in the lane, when all that is admitted is applied; nothing more is admitted meanwhile. */
  async whileApplied(session: number, work: () => Promise<void>): Promise<void> {
    const resume = this.#parts.admission.pause();
    try {
      // A step of the admission that was under way may have let in more.
      while (!(await this.#whenApplied(session, work)));
    } finally {
      resume();
    }
  }

  /** Whether it ran: nothing was left to apply in the lane. */
  async #whenApplied(session: number, work: () => Promise<void>): Promise<boolean> {
    const { state, host, session: sessions } = this.#parts;
    const { applier } = host;
    applier.hurry();
    await host.until(() => applier.isCaughtUp || sessions.isOver(session));
    sessions.check(session);
    return await state.lane(async () => {
      if (!applier.isCaughtUp) return false;
      await work();
      return true;
    });
  }

  /** Makes a checkpoint at the horizon, up to which all is applied; returns it. In the lane. Throws `disk` when a volume has lost some of it. */
  async checkpointHere(): Promise<Lsn> {
    const { state, host } = this.#parts;
    const { applier } = host;
    await applier.checkpoint();
    const { horizonLsn } = replicaOf(state);
    if (applier.isCaughtUp && state.checkpointLsn === horizonLsn) return horizonLsn;
    throw new EngineError('disk', 'a sync of a volume failed meanwhile', { errno: 'EIO' });
  }
}
