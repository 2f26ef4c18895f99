/**
 * A group that takes its writes from a primary ([0062]): what it answers the primary's link, and what its own users may do with it.
 *
 *   received   `append` puts batches into the ring as they came; they are the primary's, byte for byte
 *   durable    `sync`: the primary's cursor moves by that (rule K3)
 *   admitted   `Admission`: part of what readers see, up to the horizon (K12)
 *   applied    the applier, as on a primary
 *
 * One session at a time: a hand-over (`begin`) ends the one before. What changes the log runs one call after the other, in the order of the calls; regions go
 * in the lane. Where a primary's log has no more what this one needs, its log goes on elsewhere (`restart`) and regions bring the rest (`hold`, `writeRegions`,
 * `release`; see `Resync`).
 */
import { turnstile } from '../disk/turnstile.ts';
import { EngineError } from '../errors.ts';
import type { ReplicaRecord } from '../group-record.ts';
import { checkApplyDelay } from '../group-spec.ts';
import type { GroupState, GroupVolume } from '../group-state.ts';
import type { Announcement, LogRestart, PeerState, RegionContent, ReplicaPort } from '../link/peer.ts';
import { LogIntake } from '../log/intake.ts';
import { LogReader } from '../log/reader.ts';
import type { LogBatch } from '../log/record.ts';
import type { RegionRun } from '../map/region-map.ts';
import type { ControlEffects } from '../snapshot/control-effects.ts';
import type { Lsn, RegionIndex } from '../units.ts';
import { Admission } from './admission.ts';
import { refuseInside, takeLocal } from './between-batches.ts';
import { Cascade } from './cascade.ts';
import { CatchUp } from './catch-up.ts';
import { refusalOf } from './hand-over.ts';
import { LogRestarts } from './log-restart.ts';
import type { Needs } from './needs.ts';
import type { ReplicaHost, ReplicaParts } from './parts.ts';
import { heldBackOf, peerStateOf, type Shown, shownOf } from './peer-state.ts';
import { replicaOf, writeReplica } from './replica-record.ts';
import { Resync } from './resync.ts';
import { Session } from './session.ts';
import { Verifying } from './verifying.ts';

export class Replica implements ReplicaPort {
  readonly #state: GroupState;
  readonly #parts: ReplicaParts;
  readonly #host: ReplicaHost;
  readonly #session: Session;
  readonly #admission: Admission;
  readonly #resync: Resync;
  readonly #verifying: Verifying;
  readonly #intake: LogIntake;
  readonly #reader: LogReader;
  readonly #catchUp: CatchUp;
  readonly #restarts: LogRestarts;
  /** As what its own links are fed (rule K11). */
  readonly feeder: Cascade;
  /** What changes the log, and the hand-over: in the order of the calls. */
  readonly #inTurn = turnstile(1);

  constructor(state: GroupState, effects: ControlEffects, needs: Needs, host: ReplicaHost) {
    this.#state = state;
    this.#host = host;
    this.#session = new Session(state, host.isClosing);
    this.#resync = new Resync(state, needs);
    this.#verifying = new Verifying(state, () => host.freed());
    this.#admission = new Admission(state, effects, this.#resync, needs, this.#verifying, host);
    this.#intake = new LogIntake(state.log, (batch) => this.#judge(batch));
    this.#reader = new LogReader(state.log);
    this.#parts = {
      state,
      effects,
      needs,
      host,
      session: this.#session,
      intake: this.#intake,
      admission: this.#admission,
      resync: this.#resync,
      verifying: this.#verifying,
    };
    this.#catchUp = new CatchUp(this.#parts);
    this.#restarts = new LogRestarts(this.#parts, this.#catchUp);
    this.feeder = new Cascade(this.#parts);
  }

  start(): void {
    this.#admission.start();
  }

  /** Something has become durable, or was applied: there may be more to admit. */
  poke(): void {
    this.#admission.poke();
  }

  /** Whether the log has no room for what comes, so that a checkpoint is due, and there is no delay. */
  get wantsRoom(): boolean {
    return this.#admission.wantsRoom;
  }

  get isBlank(): boolean {
    return replicaOf(this.#state).upstream === null;
  }

  /** Nothing is taken, and nothing admitted, from here on. What was admitted stays to be applied. */
  async close(): Promise<void> {
    this.#session.endAny();
    this.#resync.hold = undefined;
    await this.#verifying.close();
    await this.#admission.close();
    await this.#inTurn(async () => {});
    await this.#state.lane(async () => {});
  }

  closeFiles(): Promise<void> {
    return this.#parts.needs.close();
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
    // It may have room again, and nothing else would look.
    if (this.#state.space.wasShort) void this.#state.space.isShort().catch(() => {});
    return peerStateOf(this.#parts);
  }

  /** Why what is there is not applied, or undefined. */
  get heldBack(): string | undefined {
    return heldBackOf(this.#parts);
  }

  begin(announced: Announcement): Promise<{ readonly session: number; readonly state: PeerState }> {
    return this.#inTurn(async () => {
      this.#session.checkOpen();
      this.#session.checkTimely(announced);
      await this.#state.lane(() => this.#restarts.finish());
      const refusal = refusalOf(this.#state.record, announced);
      if (refusal !== undefined) throw refusal;
      const session = this.#session.begin(announced);
      this.#resync.hold = undefined;
      this.#verifying.end();
      this.#intake.reset();
      this.#admission.wantsRoom = false;
      try {
        await this.#state.log.sync();
        await this.#handOverWithLinks(announced);
      } catch (error) {
        this.#session.end(session);
        throw error;
      }
      this.#admission.poke();
      return { session, state: this.state() };
    });
  }

  /** What its own links have said and read of this log may not hold any more: then they begin anew (rule K11). */
  async #handOverWithLinks(announced: Announcement): Promise<void> {
    const fed = this.#host.fed();
    const { path } = this.feeder;
    const isCut = !this.isBlank && this.#state.log.endLsn > announced.durableLsn;
    const resume = isCut ? await fed.suspend('the log of this node is cut') : () => {};
    try {
      // Regions of the session before are written, or will be refused.
      await this.#state.lane(() => this.#handOver(announced));
    } finally {
      resume();
    }
    if (path.join() !== this.feeder.path.join())
      await fed.interrupt('there are other nodes above this one now');
  }

  /** In the lane: nothing is admitted meanwhile. */
  async #handOver(announced: Announcement): Promise<void> {
    const refusal = refusalOf(this.#state.record, announced);
    if (refusal !== undefined) throw refusal;
    this.#admission.names.note(announced.named);
    if (this.isBlank) return;
    await this.#cutTo(announced.durableLsn);
    const { upstream } = replicaOf(this.#state);
    const { linkId, linkName, memberId, path } = announced;
    const isKnown = upstream?.linkId === linkId && upstream.linkName === linkName;
    if (isKnown && upstream.path.join() === path.join()) return;
    await writeReplica(this.#state, this.#state.checkpointLsn, {
      upstream: { linkId, linkName, memberId, path },
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
    const { links } = this.#state;
    for (const link of links) {
      link.cutTo(lsn);
      await link.flush();
    }
    await log.cut(lsn, crc);
    this.#intake.reset();
    this.#admission.cut();
    if (links.length > 0) await writeReplica(this.#state, this.#state.checkpointLsn, {});
  }

  restart(session: number, restart: LogRestart): Promise<void> {
    return this.#inTurn(() => this.#restarts.run(session, restart));
  }

  append(session: number, lsn: Lsn, bytes: Buffer): Promise<void> {
    return this.#inTurn(async () => {
      this.#session.check(session);
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
    // What is applied, with its checkpoint, may be little, and yet what keeps the next append out.
    this.#host.applier.freeSoon();
  }

  sync(session: number): Promise<void> {
    return this.#inTurn(async () => {
      this.#session.check(session);
      await this.#state.log.sync();
    });
  }

  hold(session: number, roundId: string, lsn: Lsn): Promise<void> {
    return this.#inTurn(async () => {
      await this.#state.lane(async () => {
        this.#session.check(session);
        const { horizonLsn } = this.#admission;
        if (horizonLsn > lsn)
          throw new EngineError('unavailable', `it has applied beyond LSN ${lsn}, where it is to hold`);
        const isInside = lsn < this.#state.log.endLsn;
        if (isInside && (await this.#reader.chainAt(lsn)) === undefined)
          throw new EngineError('invalid', `no batch of its log ends at LSN ${lsn}, where it is to hold`);
        if (!this.isBlank && horizonLsn < lsn) this.#catchUp.refuseFrozen();
        this.#resync.hold = { session, roundId, lsn, reached: false };
      });
      await this.#catchUp.endDelay(session);
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
      this.#session.check(session);
      this.#resync.check(session, roundId);
      await this.#resync.write(this.#volume(volume), regions);
    });
  }

  async syncRegions(session: number, roundId: string): Promise<void> {
    await this.#state.lane(async () => {
      this.#session.check(session);
      this.#resync.check(session, roundId);
      await this.#resync.sync();
    });
  }

  /** `complete`, and something is needed all the same: it goes on as after a round that was not, and asks. */
  async release(session: number, roundId: string, complete: boolean): Promise<void> {
    await this.#state.lane(async () => {
      this.#session.check(session);
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

  needs(session: number, volume: string, from = 0, most = Number.POSITIVE_INFINITY): readonly RegionRun[] {
    this.#session.check(session);
    return this.#parts.needs.runs(this.#volume(volume), from, most);
  }

  async beginVerify(session: number, verifyId: string): Promise<void> {
    this.#session.check(session);
    await this.#verifying.begin(session, verifyId, () => void this.#session.check(session));
  }

  async content(
    session: number,
    verifyId: string,
    volume: string,
    first: RegionIndex,
    end: RegionIndex,
  ): Promise<readonly RegionRun[]> {
    this.#session.check(session);
    return await this.#verifying.content(session, verifyId, this.#volume(volume), first, end);
  }

  async checksums(
    session: number,
    verifyId: string,
    volume: string,
    first: RegionIndex,
    end: RegionIndex,
  ): Promise<Buffer> {
    this.#session.check(session);
    return await this.#verifying.checksums(session, verifyId, this.#volume(volume), first, end);
  }

  async endVerify(session: number, verifyId: string): Promise<void> {
    this.#session.check(session);
    this.#verifying.end(verifyId);
  }

  ended(session: number, _reason: string): void {
    if (!this.#session.end(session)) return;
    this.#resync.hold = undefined;
    this.#verifying.end();
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
    return this.#session.isOpen;
  }

  get frozen(): boolean {
    return replicaOf(this.#state).frozen;
  }

  get applyDelaySeconds(): number {
    return replicaOf(this.#state).applyDelaySeconds;
  }

  get shows(): Shown {
    return shownOf(this.#parts);
  }

  /** What a resync that is under way has brought, as far as this run of the node has seen. */
  get received(): { readonly regions: number; readonly bytes: number } {
    return { ...this.#resync.received };
  }

  /** Why this copy is not restored here ([0080]). */
  get restoreRefusal(): EngineError {
    const { name } = this.#state.record;
    const { upstream } = this;
    if (upstream === undefined || !this.connected)
      return new EngineError(
        'unsupported',
        `group ${name} is a secondary here, and its link is down: it could be restored apart from its primary once roles are there; until then restore the group on its primary`,
      );
    const what = `group ${name} is a secondary here, and takes what link ${upstream.linkName} of its primary sends: restore the group on its primary, and this copy follows`;
    return new EngineError('invalid', what);
  }

  /** Keeps it from applying what comes ([0061]), durably. */
  freeze(): Promise<void> {
    return this.#setRecord({ frozen: true });
  }

  /** It goes on; and readers get at once what a resync has brought, however young it is (rule K12). */
  async thaw(): Promise<void> {
    const state = this.#state;
    await state.lane(async () => {
      if (replicaOf(state).oldImage !== null) await this.#resync.show({ frozen: false });
      else await writeReplica(state, state.checkpointLsn, { frozen: false });
    });
    this.#host.freed();
    this.#admission.poke();
    this.#host.changed();
  }

  /** What comes is applied so many seconds after it came. Durable. Throws `invalid`. */
  async setApplyDelay(applyDelaySeconds: number): Promise<void> {
    checkApplyDelay(applyDelaySeconds);
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
        this.#session.checkOpen();
        if (applier.stall !== undefined)
          throw new EngineError('unavailable', `what came before cannot be applied: ${applier.stall}`);
        if (await this.#state.lane(() => takeLocal(this.#state, applier, name))) return;
      }
    } finally {
      resume();
    }
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
