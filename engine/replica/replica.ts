/**
 * A group that takes its writes from a primary ([0062]): what it answers the primary's link, and what its own users may do with it.
 *
 *   received   `append` puts batches into the ring as they came; they are the primary's, byte for byte
 *   durable    `sync`: the primary's cursor moves by that (rule K3)
 *   admitted   `Admission`: part of what readers see, up to the horizon (K12)
 *   applied    the applier, as on a primary
 *
 * One session at a time: a hand-over (`begin`) ends the one before. What changes the log runs one call after the other, in the order of the calls; regions go
 * in the lane.
 */
import { turnstile } from '../disk/turnstile.ts';
import { EngineError } from '../errors.ts';
import type { ReplicaRecord } from '../group-record.ts';
import type { GroupState, GroupVolume } from '../group-state.ts';
import {
  type Announcement,
  type LogRestart,
  type PeerState,
  REPLICATION_PROTOCOL,
  type RegionContent,
  type ReplicaPort,
} from '../link/peer.ts';
import { LogIntake } from '../log/intake.ts';
import { LogReader } from '../log/reader.ts';
import type { LogBatch } from '../log/record.ts';
import type { RegionRun } from '../map/region-map.ts';
import type { ControlEffects } from '../snapshot/control-effects.ts';
import type { Lsn } from '../units.ts';
import { Admission, type AdmissionHost } from './admission.ts';
import { refuseInside, takeLocal } from './between-batches.ts';
import { refusalOf } from './hand-over.ts';
import { takeNames } from './names.ts';
import type { Needs } from './needs.ts';
import { replicaOf, writeReplica } from './replica-record.ts';
import { Resync } from './resync.ts';

export interface ReplicaHost extends AdmissionHost {
  /** Resolves when `holds`, which is looked at whenever something has changed. */
  readonly until: (holds: () => boolean) => Promise<void>;
  readonly isClosing: () => boolean;
  /** A nameless layer may go. */
  readonly freed: () => void;
}

export class Replica implements ReplicaPort {
  readonly #state: GroupState;
  readonly #effects: ControlEffects;
  readonly #needs: Needs;
  readonly #host: ReplicaHost;
  readonly #admission: Admission;
  readonly #resync: Resync;
  readonly #intake: LogIntake;
  readonly #reader: LogReader;
  /** What changes the log, and the hand-over: in the order of the calls. */
  readonly #inTurn = turnstile(1);
  #session = 0;
  #announced: Announcement | undefined;

  constructor(state: GroupState, effects: ControlEffects, needs: Needs, host: ReplicaHost) {
    this.#state = state;
    this.#effects = effects;
    this.#needs = needs;
    this.#host = host;
    this.#resync = new Resync(state, needs);
    this.#admission = new Admission(state, effects, this.#resync, needs, host);
    this.#intake = new LogIntake(state.log, (batch) => this.#judge(batch));
    this.#reader = new LogReader(state.log);
  }

  start(): void {
    this.#admission.start();
  }

  /** Something has become durable, or was applied: there may be more to admit. */
  poke(): void {
    this.#admission.poke();
  }

  /** Whether the log has no room for what comes, so that a checkpoint is due. */
  get wantsRoom(): boolean {
    return this.#admission.wantsRoom;
  }

  get isBlank(): boolean {
    return replicaOf(this.#state).upstream === null;
  }

  /** Nothing is taken, and nothing admitted, from here on. What was admitted stays to be applied. */
  async close(): Promise<void> {
    this.#session++;
    this.#resync.hold = undefined;
    await this.#admission.close();
    await this.#inTurn(async () => {});
    await this.#state.lane(async () => {});
  }

  closeFiles(): Promise<void> {
    return this.#needs.close();
  }

  /** Whether there is nothing to admit, or nothing that may be. */
  get isIdle(): boolean {
    return this.#admission.isIdle;
  }

  /** Resolves when all that may be admitted is, or cannot be. */
  async settled(): Promise<void> {
    this.#admission.hurry();
    await this.#host.until(() => this.#admission.isIdle || this.#host.isClosing());
  }

  state(): PeerState {
    const { record, log } = this.#state;
    const replica = replicaOf(this.#state);
    const { hold } = this.#resync;
    return {
      protocol: REPLICATION_PROTOCOL,
      memberId: record.memberId,
      role: record.role,
      name: record.name,
      origin: this.isBlank ? null : { groupId: record.id, generation: record.generation },
      regionBytes: record.regionBytes,
      volumes: record.volumes.map(({ name, sizeBytes }) => ({ name, sizeBytes })),
      logBytes: log.capacityBytes,
      endLsn: log.endLsn,
      endChain: log.writtenCrc,
      durableLsn: log.durableLsn,
      appliedLsn: this.#host.applier.appliedLsn,
      horizonLsn: replica.horizonLsn,
      holding: hold?.reached === true ? { roundId: hold.roundId, lsn: hold.lsn } : null,
      resyncing: replica.resync !== null,
      needs: this.#needs.count > 0 ? replica.needs.version : 0,
      restoredByReferenceLsn: this.#admission.restoredByReferenceLsn,
      heldBack: this.heldBack ?? null,
      snapshots: this.#effects.named
        .filter((snapshot) => !snapshot.local)
        .map(({ id, name, lsn }) => ({ id, name: name ?? '', lsn })),
    };
  }

  /** Why what is there is not applied, or undefined. */
  get heldBack(): string | undefined {
    const { frozen, horizonLsn, applyDelaySeconds } = replicaOf(this.#state);
    if (frozen && horizonLsn < this.#state.log.endLsn) return 'frozen: see thaw';
    if (this.#admission.isDelayed)
      return `delayed: records are applied ${applyDelaySeconds} s after they came`;
    return this.#admission.problem ?? this.#host.applier.stall;
  }

  begin(announced: Announcement): Promise<{ readonly session: number; readonly state: PeerState }> {
    return this.#inTurn(async () => {
      this.#checkOpen();
      await this.#state.lane(() => this.#endRestart());
      const refusal = refusalOf(this.#state.record, announced);
      if (refusal !== undefined) throw refusal;
      const session = ++this.#session;
      this.#announced = announced;
      this.#resync.hold = undefined;
      this.#intake.reset();
      this.#admission.wantsRoom = false;
      await this.#state.log.sync();
      // Regions of the session before are written, or will be refused.
      await this.#state.lane(() => this.#handOver(announced));
      this.#admission.poke();
      return { session, state: this.state() };
    });
  }

  /** In the lane: nothing is admitted meanwhile. */
  async #handOver(announced: Announcement): Promise<void> {
    const refusal = refusalOf(this.#state.record, announced);
    if (refusal !== undefined) throw refusal;
    if (this.isBlank) return;
    await this.#cutTo(announced.durableLsn);
    const { upstream } = replicaOf(this.#state);
    const { linkId, linkName, memberId } = announced;
    if (upstream?.linkId === linkId && upstream.linkName === linkName) return;
    await writeReplica(this.#state, this.#state.checkpointLsn, {
      upstream: { linkId, linkName, memberId },
    });
  }

  /** What lies above was never durable on the primary, and was never applied here (rule K2). */
  async #cutTo(durableLsn: Lsn): Promise<void> {
    const { log } = this.#state;
    if (log.endLsn <= durableLsn) return;
    const { horizonLsn } = replicaOf(this.#state);
    const chain = await this.#reader.chainAt(durableLsn);
    // Where the primary's log has other batches, they part at the horizon or before.
    const lsn = chain === undefined ? horizonLsn : durableLsn;
    const crc = chain ?? (await this.#reader.chainAt(horizonLsn));
    if (crc === undefined) throw new Error('bug: no batch ends at the horizon');
    await log.cut(lsn, crc);
    this.#intake.reset();
    this.#admission.cut();
  }

  restart(session: number, restart: LogRestart): Promise<void> {
    return this.#inTurn(async () => {
      const announced = this.#check(session);
      if (restart.lsn < this.#admission.horizonLsn && !this.isBlank)
        throw new EngineError('unavailable', 'its log cannot go on below what was applied: it has diverged');
      // What the log has counts as had by the secondary (K3): it is not dropped.
      if (!this.isBlank) await this.#admitUpTo(session, this.#state.log.endLsn);
      const resume = this.#admission.pause();
      try {
        await this.#applied(session);
        await this.#state.lane(() => this.#restart(session, announced, restart));
      } finally {
        resume();
      }
      this.#state.emit({
        type: 'replica.log-restarted',
        message: `the log goes on at LSN ${restart.lsn}: what lies before comes as regions`,
        data: { lsn: restart.lsn },
      });
    });
  }

  /**
   * Has everything below `lsn` admitted, without the delay: there is none during a resync, and readers keep what they see now (rule K12). Refused for one that
   * is frozen, with the one error of NBD that says *later*.
   */
  async #admitUpTo(session: number, lsn: Lsn): Promise<void> {
    const state = this.#state;
    await state.log.sync();
    const isThere = () => this.#admission.horizonLsn >= lsn;
    if (isThere()) return;
    this.#refuseFrozen();
    await this.#endDelay(session);
    this.#admission.hurry();
    const isOver = () => session !== this.#session || this.#host.isClosing();
    await this.#host.until(() => isThere() || replicaOf(state).frozen || isOver());
    this.#check(session);
    if (!isThere()) this.#refuseFrozen();
  }

  #refuseFrozen(): void {
    if (!replicaOf(this.#state).frozen) return;
    const what = 'the secondary is frozen, and has what it may not apply: its operator has to thaw it first';
    throw new EngineError('unavailable', what, { errno: 'ENOSPC' });
  }

  /** Readers get what they see now until the resync is over, so that nothing has to wait for the delay. */
  async #endDelay(session: number): Promise<void> {
    const { applyDelaySeconds, resync } = replicaOf(this.#state);
    if (applyDelaySeconds === 0 || resync !== null) return;
    const resume = this.#admission.pause();
    try {
      await this.#applied(session);
      await this.#state.lane(async () => {
        this.#check(session);
        await this.#resync.guard(await this.#checkpointHere(), () => ({}));
      });
    } finally {
      resume();
    }
  }

  /** Makes a checkpoint at the horizon, up to which all is applied; returns it. In the lane. */
  async #checkpointHere(): Promise<Lsn> {
    const { applier } = this.#host;
    await applier.checkpoint();
    const { horizonLsn } = replicaOf(this.#state);
    if (applier.isCaughtUp && this.#state.checkpointLsn === horizonLsn) return horizonLsn;
    throw new EngineError('disk', 'a sync of a volume failed meanwhile', { errno: 'EIO' });
  }

  /** Resolves when all that is admitted is applied. */
  async #applied(session: number): Promise<void> {
    const { applier } = this.#host;
    applier.hurry();
    const isOver = () => session !== this.#session || this.#host.isClosing();
    await this.#host.until(() => applier.isCaughtUp || isOver());
    this.#check(session);
  }

  /** In the lane; all that is admitted is applied. */
  async #restart(
    session: number,
    { origin, linkId, linkName, memberId }: Announcement,
    { lsn, chain, snapshots }: LogRestart,
  ): Promise<void> {
    this.#check(session);
    await this.#endRestart();
    const state = this.#state;
    const from = await this.#checkpointHere();
    const { groupId, generation } = origin;
    const intent: Pick<ReplicaRecord, 'upstream' | 'restart'> = {
      upstream: { linkId, linkName, memberId },
      restart: { lsn, chain, groupId, generation },
    };
    const names = takeNames(this.#effects, snapshots);
    try {
      if (replicaOf(state).resync !== null) await writeReplica(state, from, intent);
      else await this.#resync.guard(from, () => ({ replica: { ...replicaOf(state), ...intent } }));
    } catch (error) {
      names.giveBack();
      throw error;
    }
    names.tell();
    await this.#endRestart();
  }

  /** Carries through what the record says of a restart (rule L5), if anything. In the lane. */
  async #endRestart(): Promise<void> {
    const state = this.#state;
    const { restart } = replicaOf(state);
    if (restart === null) return;
    const { lsn, chain, groupId, generation } = restart;
    await state.readers.drained();
    await state.log.restart({ groupId, generation: generation.number }, lsn, chain);
    await state.log.allocate();
    await writeReplica(state, lsn, { horizonLsn: lsn, restart: null }, { id: groupId, generation });
    this.#host.applier.jumpTo(lsn);
    this.#intake.reset();
    this.#admission.cut();
    this.#admission.wantsRoom = false;
  }

  append(session: number, lsn: Lsn, bytes: Buffer): Promise<void> {
    return this.#inTurn(async () => {
      this.#check(session);
      if (this.isBlank)
        throw new EngineError(
          'unavailable',
          'this node has no log of a primary yet: it has to be restarted first',
        );
      try {
        await this.#intake.take(lsn, bytes);
      } catch (error) {
        if (error instanceof EngineError && error.errno === 'ENOSPC') this.#makeRoom();
        throw error;
      }
      this.#admission.wantsRoom = false;
      this.#state.counters.bytesReceived += bytes.length;
      this.#admission.arrived();
    });
  }

  /** What is in the log is wanted out of it: applied, with a checkpoint, and freed. */
  #makeRoom(): void {
    this.#admission.wantsRoom = true;
    this.#admission.hurry();
    this.#host.applier.hurry();
    this.#host.applier.checkpointSoon();
  }

  sync(session: number): Promise<void> {
    return this.#inTurn(async () => {
      this.#check(session);
      await this.#state.log.sync();
    });
  }

  hold(session: number, roundId: string, lsn: Lsn): Promise<void> {
    return this.#inTurn(async () => {
      await this.#state.lane(async () => {
        this.#check(session);
        const { horizonLsn } = this.#admission;
        if (horizonLsn > lsn)
          throw new EngineError('unavailable', `it has applied beyond LSN ${lsn}, where it is to hold`);
        const isInside = lsn < this.#state.log.endLsn;
        if (isInside && (await this.#reader.chainAt(lsn)) === undefined)
          throw new EngineError('invalid', `no batch of its log ends at LSN ${lsn}, where it is to hold`);
        if (!this.isBlank && horizonLsn < lsn) this.#refuseFrozen();
        this.#resync.hold = { session, roundId, lsn, reached: false };
      });
      await this.#endDelay(session);
      this.#admission.hurry();
    });
  }

  async writeRegions(
    session: number,
    roundId: string,
    volume: string,
    regions: readonly RegionContent[],
  ): Promise<void> {
    await this.#state.lane(async () => {
      this.#check(session);
      this.#resync.check(session, roundId);
      await this.#resync.write(this.#volume(volume), regions);
    });
  }

  async syncRegions(session: number, roundId: string): Promise<void> {
    await this.#state.lane(async () => {
      this.#check(session);
      this.#resync.check(session, roundId);
      await this.#resync.sync();
    });
  }

  /** `complete`, and something is needed all the same: it goes on as after a round that was not, and asks. */
  async release(session: number, roundId: string, complete: boolean): Promise<void> {
    await this.#state.lane(async () => {
      this.#check(session);
      const { hold } = this.#resync;
      if (hold?.roundId !== roundId && !complete) return;
      if (complete) {
        this.#resync.check(session, roundId);
        if (await this.#resync.complete()) this.#host.freed();
      }
      this.#resync.hold = undefined;
    });
    this.#admission.poke();
    this.#host.changed();
  }

  needs(session: number, volume: string): readonly RegionRun[] {
    this.#check(session);
    return this.#needs.runs(this.#volume(volume));
  }

  ended(session: number, _reason: string): void {
    if (session !== this.#session) return;
    this.#session++;
    this.#announced = undefined;
    this.#resync.hold = undefined;
    this.#admission.wantsRoom = false;
    this.#admission.poke();
    this.#host.changed();
  }

  /** The link that feeds it, once it has met its primary. */
  get upstream(): NonNullable<ReplicaRecord['upstream']> | undefined {
    return replicaOf(this.#state).upstream ?? undefined;
  }

  /** A session of that link is open. */
  get connected(): boolean {
    return this.#announced !== undefined;
  }

  get frozen(): boolean {
    return replicaOf(this.#state).frozen;
  }

  get applyDelaySeconds(): number {
    return replicaOf(this.#state).applyDelaySeconds;
  }

  freeze(): Promise<void> {
    return this.setFrozen(true);
  }

  thaw(): Promise<void> {
    return this.setFrozen(false);
  }

  /** Keeps it from applying what comes ([0061]), or lets it go on. Durable. */
  async setFrozen(frozen: boolean): Promise<void> {
    await this.#setRecord({ frozen });
  }

  async setApplyDelay(applyDelaySeconds: number): Promise<void> {
    if (!Number.isSafeInteger(applyDelaySeconds) || applyDelaySeconds < 0)
      throw new EngineError('invalid', 'a delay is a whole number of seconds');
    await this.#setRecord({ applyDelaySeconds });
  }

  async #setRecord(changes: Partial<ReplicaRecord>): Promise<void> {
    await this.#state.lane(() => writeReplica(this.#state, this.#state.checkpointLsn, changes));
    this.#admission.poke();
    this.#host.changed();
  }

  /** A snapshot of this node's own, of what its readers see (rule S7): between two batches, with the checkpoint there. */
  async takeLocal(name: string): Promise<void> {
    const resume = this.#admission.pause();
    try {
      for (;;) {
        refuseInside(this.#state);
        const { applier } = this.#host;
        applier.hurry();
        await this.#host.until(
          () => applier.isCaughtUp || applier.stall !== undefined || this.#host.isClosing(),
        );
        this.#checkOpen();
        if (applier.stall !== undefined)
          throw new EngineError('unavailable', `what came before cannot be applied: ${applier.stall}`);
        if (await this.#state.lane(() => takeLocal(this.#state, applier, name))) return;
      }
    } finally {
      resume();
    }
  }

  #checkOpen(): void {
    if (this.#host.isClosing())
      throw new EngineError('unavailable', 'the group is closing', { errno: 'ESHUTDOWN' });
    const { failure } = this.#state.log;
    if (failure !== undefined) throw failure;
  }

  #check(session: number): Announcement {
    this.#checkOpen();
    if (session === this.#session && this.#announced !== undefined) return this.#announced;
    throw new EngineError(
      'unavailable',
      'the session is over: a newer one has taken its place, or it has ended',
    );
  }

  #volume(name: string): GroupVolume {
    const volume = this.#state.volumes.find((candidate) => candidate.name === name);
    if (volume !== undefined) return volume;
    throw new EngineError('not-found', `the group has no volume ${JSON.stringify(name)}`);
  }

  /** Throws `invalid` for a batch that writes where the group has nothing. */
  #judge(batch: LogBatch): void {
    for (const { volumeIndex, offsetBytes, lengthBytes } of batch.records) {
      const volume = this.#state.volumes[volumeIndex];
      if (volume === undefined || offsetBytes + lengthBytes > volume.sizeBytes)
        throw new EngineError(
          'invalid',
          `the batch at LSN ${batch.lsn} writes where the group has no volume`,
        );
    }
  }
}
