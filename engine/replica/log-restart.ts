/**
 * The log of a secondary goes on elsewhere (rule L5): at the LSN of a primary's round, with nothing in it; what lies before comes as regions. All that it had
 * is applied first, and readers see the volumes as they are then (K9). What is to be is in the record before the first byte of the log is touched: a
 * crash in between does it again (`finish`, and `restarted` in group-recovery.ts).
 *
 * For the links that this node feeds that is an overflow (rule K11): what they have not shipped is marked before the intent is recorded, and what comes as regions
 * is as it comes. None is connected meanwhile, so that nobody reads the log while it is exchanged.
 */
import { EngineError } from '../errors.ts';
import type { ReplicaRecord } from '../group-record.ts';
import type { LogRestart } from '../link/peer.ts';
import type { CatchUp } from './catch-up.ts';
import { takeNames } from './names.ts';
import type { ReplicaParts } from './parts.ts';
import { replicaOf, writeReplica } from './replica-record.ts';

export class LogRestarts {
  readonly #parts: ReplicaParts;
  readonly #catchUp: CatchUp;

  constructor(parts: ReplicaParts, catchUp: CatchUp) {
    this.#parts = parts;
    this.#catchUp = catchUp;
  }

  /** Throws `unavailable` for a position below what was applied, and as `CatchUp.to`; `disk`. */
  async run(session: number, restart: LogRestart): Promise<void> {
    const { state, host, session: sessions } = this.#parts;
    sessions.check(session);
    const resume = await host.fed().suspend('the log of this node begins anew');
    try {
      await this.#run(session, restart);
    } finally {
      resume();
    }
    state.emit({
      type: 'replica.log-restarted',
      message: `the log goes on at LSN ${restart.lsn}: what lies before comes as regions`,
      data: { lsn: restart.lsn },
    });
  }

  async #run(session: number, restart: LogRestart): Promise<void> {
    const { state, host, admission } = this.#parts;
    if (replicaOf(state).upstream !== null) {
      if (restart.lsn < admission.horizonLsn)
        throw new EngineError('unavailable', 'its log cannot go on below what was applied: it has diverged');
      // What the log has counts as had by the secondary (K3): it is not dropped.
      await this.#catchUp.to(state.log.endLsn, session);
    }
    await host.fed().letGo('the log of this node begins anew');
    await this.#catchUp.whileApplied(session, () => this.#begin(session, restart));
  }

  /** In the lane; all that is admitted is applied. */
  async #begin(session: number, { lsn, chain, snapshots }: LogRestart): Promise<void> {
    const { state, effects, resync, session: sessions } = this.#parts;
    const { origin, linkId, linkName, memberId, path } = sessions.check(session);
    await this.finish();
    const from = await this.#catchUp.checkpointHere();
    const { groupId, generation } = origin;
    const intent: Pick<ReplicaRecord, 'upstream' | 'restart'> = {
      upstream: { linkId, linkName, memberId, path },
      restart: { lsn, chain, groupId, generation },
    };
    const names = takeNames(effects, snapshots);
    try {
      if (replicaOf(state).resync !== null) await writeReplica(state, from, intent);
      else await resync.guard(from, () => ({ replica: { ...replicaOf(state), ...intent } }));
    } catch (error) {
      names.giveBack();
      throw error;
    }
    names.tell();
    this.#parts.host.freed();
    await this.finish();
  }

  /** Carries through what the record says of a restart, if anything. In the lane. */
  async finish(): Promise<void> {
    const { state, host, intake, admission } = this.#parts;
    const { restart } = replicaOf(state);
    if (restart === null) return;
    const { lsn, chain, groupId, generation } = restart;
    await state.readers.drained();
    await state.log.restart({ groupId, generation: generation.number }, lsn, chain);
    await state.log.allocate();
    await writeReplica(state, lsn, { horizonLsn: lsn, restart: null }, { id: groupId, generation });
    state.raiseLogFloor(lsn);
    host.applier.jumpTo(lsn);
    intake.reset();
    admission.restarted();
    admission.wantsRoom = false;
  }
}
