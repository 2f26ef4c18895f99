/**
 * A link while it is connected: the hand-over, then three things side by side until the connection is over: the log is shipped (`Shipping`), the secondary
 * is asked how it stands, and rounds of a resync run while it lacks regions (`round.ts`).
 */
import { Condition } from '../condition.ts';
import { turnstile } from '../disk/turnstile.ts';
import { EngineError } from '../errors.ts';
import type { GroupState } from '../group-state.ts';
import { LOG_SECTOR_BYTES, type Lsn } from '../units.ts';
import { type Feeder, type RoundImage, RoundPostponed } from './feeder.ts';
import { judgeLog, judgePeer, judgePosition, type Refusal } from './judgement.ts';
import type { LinkState } from './link-state.ts';
import { markUnshipped } from './overflow.ts';
import type { Announcement, PeerSession, PeerState } from './peer.ts';
import { type RoundHost, runRound } from './round.ts';
import { isFull, Shipping } from './shipping.ts';
import type { VerifyLine } from './verification.ts';

/** Between two looks at a secondary; while something there is waited for; and how long one may take before the connection counts as dead. */
const LOOK_MS = 1000;
const EAGER_LOOK_MS = 100;
const LOOK_TIMEOUT_MS = 30_000;
/** The hand-over waits for writes of the session before; so long, and the connection counts as dead. */
const HAND_OVER_TIMEOUT_MS = 120_000;
/** A round that found no room is tried again after so long, or when the secondary gives another reason; it doubles up to the last. */
const FIRST_ROUND_RETRY_MS = 5000;
const LAST_ROUND_RETRY_MS = 300_000;
/** A round waits until so little of the ring is still to be shipped: it does not ship it faster. */
const LAG_SHARE = 1 / 8;

export interface ConnectionHost extends Pick<RoundHost, 'end' | 'moved'> {
  readonly feeder: Feeder;
  readonly announcement: () => Announcement;
  readonly otherPeers: () => readonly { readonly linkName: string; readonly peerId: string }[];
  /** Resolves when the log is applied beyond the position, durably where it is a control record. */
  readonly applied: (lsn: Lsn) => Promise<void>;
  readonly appliedLsn: () => Lsn;
  /** The hand-over is done. */
  readonly connected: () => void;
  readonly shipped: (bytes: number) => void;
  readonly tell: (what: string, message: string, data?: Readonly<Record<string, unknown>>) => void;
  /** Something changed that others wait for. */
  readonly changed: () => void;
}

/** The node there is not fit to be the secondary, as things stand. */
export class RefusedPeer extends Error {
  readonly refusal: Refusal;

  constructor(refusal: Refusal) {
    super(refusal.reason);
    this.refusal = refusal;
  }
}

export class Connection {
  readonly #state: GroupState;
  readonly #link: LinkState;
  readonly #session: PeerSession;
  readonly #host: ConnectionHost;
  readonly shipping: Shipping;
  readonly #changes = new Condition();
  #ended: { readonly why: unknown } | undefined;
  #peer: PeerState | undefined;
  /** Its log has to begin anew. */
  #restarts = false;
  #round = false;
  #isSending = false;
  /** What is asked for is marked by one after the other. */
  readonly #marking = turnstile(1);
  /** What keeps it from going on. */
  #obstacle: string | undefined;
  #fullReason: string | undefined;
  /** How many wait for what the secondary says. */
  #waiting = 0;
  /** The number of the needs that were marked last. */
  #needs = 0;
  #wakeLook: (() => void) | undefined;

  constructor(state: GroupState, link: LinkState, session: PeerSession, host: ConnectionHost) {
    this.#state = state;
    this.#link = link;
    this.#session = session;
    this.#host = host;
    this.shipping = new Shipping(state, session, {
      durable: (lsn) => this.#moved(lsn),
      shipped: (bytes) => host.shipped(bytes),
      syncsAtOnce: () => link.settings.mode === 'sync',
      full: (reason) => {
        const isNews = this.#fullReason !== reason;
        this.#fullReason = reason;
        if (isNews) host.changed();
      },
      failed: (error) => this.end(error),
    });
  }

  /** What the secondary said last. */
  get peer(): PeerState | undefined {
    return this.#peer;
  }

  get #isResyncing(): boolean {
    return this.#round || this.#isRoundNeeded;
  }

  /** Everything that it lacks comes through the log. */
  get isStreaming(): boolean {
    return this.#ended === undefined && this.shipping.isRunning && !this.#isResyncing;
  }

  /** Regions are to be copied, and its operator has to say so first. */
  get waitsForOperator(): boolean {
    const { settings, dcm } = this.#link;
    if (settings.resync === 'auto' || settings.resyncAllowed || !this.#isRoundNeeded) return false;
    return this.#restarts || dcm.count > 0;
  }

  /** What it waits for, or undefined. */
  get obstacle(): string | undefined {
    const { noRound, holdUp } = this.#host.feeder;
    const ownReason = this.#isResyncing ? (noRound ?? holdUp) : undefined;
    return this.#fullReason ?? this.#obstacle ?? ownReason ?? this.#peer?.heldBack ?? undefined;
  }

  /** What a verification goes over. */
  get line(): VerifyLine {
    return {
      session: this.#session,
      isStreaming: () => this.isStreaming,
      obstacle: () => this.obstacle,
      until: (holds) => this.#until(holds),
      peer: (holds) => this.#whenPeer(holds),
      over: () => this.#ended && messageOf(this.#ended.why),
      changed: () => this.#changes.changed(),
    };
  }

  /** Ends it: `run` rejects with the first reason. */
  end(why: unknown): void {
    if (this.#ended !== undefined) return;
    this.#ended = { why };
    this.#session.close();
    this.#wakeLook?.();
    this.#changes.changed();
    this.#host.changed();
  }

  /** There is more to ship, or something else has changed. */
  poke(): void {
    this.shipping.poke();
    this.#changes.changed();
  }

  /** Serves the link until the connection is over; rejects with why. Nothing of it is under way then. */
  async run(): Promise<never> {
    void this.#session.closed.then((reason) => this.end(new EngineError('unavailable', reason)));
    const tasks: Promise<void>[] = [];
    try {
      await this.#handOver();
      tasks.push(this.#task(this.#look()), this.#task(this.#rounds()));
      await this.#until(() => false);
    } catch (error) {
      this.end(error);
    } finally {
      await Promise.all([...tasks, this.shipping.stop()]);
    }
    throw this.#ended?.why;
  }

  /** Its failure ends the connection. */
  async #task(work: Promise<void>): Promise<void> {
    await work.catch((error: unknown) => this.end(error));
  }

  async #until(holds: () => boolean): Promise<void> {
    await this.#changes.until(() => this.#ended !== undefined || holds());
    if (this.#ended !== undefined) throw this.#ended.why;
  }

  #refuseIf(refusal: Refusal | undefined): void {
    if (refusal !== undefined) throw new RefusedPeer(refusal);
  }

  /** Rule K2. */
  async #handOver(): Promise<void> {
    const own = this.#host.announcement();
    const judge = (said: PeerState) =>
      judgePeer(own, this.#host.otherPeers(), said) ?? judgeLog(this.#host.feeder.leastRingBytes, said);
    const before = await this.#session.state();
    this.#refuseIf(judge(before));
    const announcement = { ...own, handOvers: before.handOvers };
    const peer = await this.#within(HAND_OVER_TIMEOUT_MS, () => this.#session.begin(announcement));
    this.#refuseIf(judge(peer));
    const { logFloorLsn, logReader } = this.#state;
    const isKept = peer.endLsn >= logFloorLsn && peer.endLsn <= own.durableLsn;
    const chain = isKept && peer.origin !== null ? await logReader.chainAt(peer.endLsn) : undefined;
    // The floor may have risen meanwhile: what is judged here holds from here on, because the link holds the log in the same turn.
    const facts = { floorLsn: this.#state.logFloorLsn, durableLsn: own.durableLsn, chain };
    const verdict = judgePosition(this.#link.record(), facts, peer);
    if (verdict.kind === 'refused') throw new RefusedPeer(verdict);
    this.#peer = peer;
    if (verdict.kind === 'stream') {
      this.#link.moveTo(verdict.fromLsn);
      this.shipping.start(verdict.fromLsn, peer.logBytes);
      await this.#markNeeds(peer);
      if (!this.#isRoundNeeded) await this.#endPermission();
    } else {
      this.#restarts = true;
      if (verdict.lost !== undefined) await this.#markAll(verdict.lost);
    }
    this.#host.connected();
    this.#host.changed();
  }

  async #markAll(why: string): Promise<void> {
    this.#host.tell('lost', `the secondary has lost what it had: everything is copied again: ${why}`);
    this.#link.markAll();
    await this.#state.lane(() => this.#link.flush());
  }

  #moved(lsn: Lsn): void {
    // While marks are made for it, log that is under way still changes nothing.
    if (this.#link.logLsn !== null) this.#link.moveTo(lsn);
    this.#changes.changed();
    this.#host.changed();
  }

  async #look(): Promise<void> {
    for (;;) {
      const eager =
        this.#waiting > 0 ||
        this.#peer?.heldBack != null ||
        this.#link.restore?.path === 'pending' ||
        (this.#link.openRestoreLsn !== undefined && this.#link.settings.mode !== 'async');
      await this.#pause(eager ? EAGER_LOOK_MS : LOOK_MS);
      await this.#ask();
    }
  }

  /** Rejects when the connection is over. */
  async #pause(ms: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = this.#state.clock.after(ms, resolve);
      this.#wakeLook = () => {
        timer.cancel();
        resolve();
      };
    });
    this.#wakeLook = undefined;
    if (this.#ended !== undefined) throw this.#ended.why;
  }

  async #ask(): Promise<void> {
    await this.#within(LOOK_TIMEOUT_MS, async () => {
      const peer = await this.#session.state();
      this.#peer = peer;
      this.#link.closeRestores(peer.appliedLsn);
      this.#noteRestore(peer);
      // A round has asked for all that there was before it; what is said while it sends them is of before, and would be copied again.
      if (!this.#isSending) await this.#markNeeds(peer);
    });
    this.#changes.changed();
    this.#host.changed();
  }

  /** What takes longer ends the connection. */
  async #within<T>(ms: number, work: () => Promise<T>): Promise<T> {
    const why = 'the secondary does not answer';
    const timeout = this.#state.clock.after(ms, () => this.end(new EngineError('unavailable', why)));
    try {
      return await work();
    } finally {
      timeout.cancel();
    }
  }

  /**
   * Rule K10: what the secondary asks for joins the DCM, and comes with the next round. A round asks `again`: a restore by reference may have taken marks away
   * that it still asks for ([0072]).
   */
  #markNeeds(peer: PeerState, again = false): Promise<void> {
    return this.#marking(() => this.#markNeedsNow(peer, again));
  }

  async #markNeedsNow(peer: PeerState, again: boolean): Promise<void> {
    if (peer.needs === this.#needs && !again) return;
    if (peer.needs > 0) {
      for (const volume of this.#state.volumes)
        for (const run of await this.#session.needs(volume.name)) {
          const regions = this.#state.regionCount(volume);
          if (!(run.first >= 0 && run.first < run.end && run.end <= regions))
            throw new EngineError(
              'unavailable',
              `the secondary needs regions ${run.first} to ${run.end} of volume ${volume.name}, which has ${regions}`,
            );
          this.#link.mark(volume.index, run);
        }
      await this.#state.lane(() => this.#link.flush());
      this.#link.noteRestorePath(peer.horizonLsn, 'by regions');
    }
    this.#needs = peer.needs;
  }

  #noteRestore({ restoredByReferenceLsn, appliedLsn, needs }: PeerState): void {
    const restore = this.#link.restore;
    if (restore?.path !== 'pending' || appliedLsn <= restore.lsn) return;
    // [0072]: whatever it lacked of these regions, it has them now; what it asks for comes on top.
    if (restoredByReferenceLsn === restore.lsn)
      this.#link.restoredByReference(needs === this.#needs ? 'by reference' : 'by regions');
    // Of one volume's it says nothing but what it needs.
    else if (needs === this.#needs) this.#link.noteRestorePath(appliedLsn, 'by reference');
  }

  get #isRoundNeeded(): boolean {
    const { logLsn, dcm } = this.#link;
    if (this.#restarts || logLsn === null || dcm.count > 0) return true;
    return this.#peer?.resyncing === true;
  }

  #isRoundDue(): boolean {
    if (!this.#isRoundNeeded || this.waitsForOperator || this.#host.feeder.noRound !== undefined)
      return false;
    if (this.#restarts) return true;
    const { log } = this.#state;
    return (log.endLsn - this.shipping.durableLsn) * LOG_SECTOR_BYTES <= log.capacityBytes * LAG_SHARE;
  }

  async #rounds(): Promise<void> {
    for (let retryMs = FIRST_ROUND_RETRY_MS; ; ) {
      await this.#until(() => this.#isRoundDue() || this.waitsForOperator);
      if (this.waitsForOperator) {
        await this.#untilAllowed();
        continue;
      }
      try {
        this.#round = true;
        await this.#runRound();
        this.#obstacle = undefined;
        retryMs = FIRST_ROUND_RETRY_MS;
      } catch (error) {
        if (error instanceof RoundPostponed && this.#ended === undefined) continue;
        if (this.#ended !== undefined || !isFull(error)) throw error;
        this.#obstacle = error.message;
        await this.#ask();
        const heldBack = this.#peer?.heldBack;
        // What it was refused for is over at once when it is another reason, or none, that holds the secondary back.
        await this.#wait(retryMs, () => this.#peer?.heldBack !== heldBack);
        retryMs = Math.min(LAST_ROUND_RETRY_MS, retryMs * 2);
      } finally {
        this.#round = false;
        this.#host.changed();
      }
    }
  }

  async #untilAllowed(): Promise<void> {
    const regions = this.#link.dcm.count;
    const { name } = this.#link.settings;
    const what = `regions are to be copied, and its operator wants to be asked: tidemark resync ${this.#state.record.name} --link ${name}`;
    this.#host.tell('resync-waits', what, { regions });
    this.#host.changed();
    await this.#until(() => !this.waitsForOperator);
  }

  /** What its operator has said was for the resync that is complete now. */
  async #endPermission(): Promise<void> {
    if (!this.#link.settings.resyncAllowed) return;
    await this.#state.lane(async () => {
      this.#link.settings = { ...this.#link.settings, resyncAllowed: false };
      try {
        await this.#state.writeRecord(this.#state.checkpointLsn);
      } catch (error) {
        this.#link.settings = { ...this.#link.settings, resyncAllowed: true };
        throw error;
      }
    });
  }

  async #runRound(): Promise<void> {
    // Its log will begin after what is logged by now, which it then lacks; also what came after a round that was given up.
    const host = this.#roundHost();
    if (this.#restarts)
      await markUnshipped(this.#state, this.#link, { ...host, appliedLsn: this.#host.appliedLsn });
    const parts = {
      state: this.#state,
      link: this.#link,
      session: this.#session,
      shipping: this.shipping,
      host,
    };
    this.#isSending = true;
    const complete = await runRound(parts, this.#restarts).finally(() => {
      this.#isSending = false;
    });
    await this.#ask();
    if (!complete || this.#isRoundNeeded) return;
    await this.#endPermission();
    this.#host.tell('resync-completed', 'the secondary is consistent, and gets the log from here on');
  }

  #roundHost(): RoundHost {
    return {
      ...this.#host,
      begin: (roundId) => this.#beginRound(roundId),
      applied: (lsn) => this.#orEnded(this.#host.applied(lsn)),
      peer: (holds) => this.#whenPeer(holds),
      shipped: (lsn) => this.#until(() => this.shipping.durableLsn >= lsn),
      adopted: (lsn) => this.#adopted(lsn),
      markNeeds: async (peer) => {
        await this.#markNeeds(peer, true);
        const regions = this.#link.dcm.count;
        this.#host.tell('resync-round', `a round of the resync begins: ${regions} regions`, { regions });
      },
      delay: (ms, isOver) => this.#wait(ms, isOver),
    };
  }

  async #beginRound(roundId: string): Promise<RoundImage> {
    const image = this.#host.feeder.begin({
      link: this.#link,
      roundId,
      shipping: this.shipping,
      // The log of one that never met a primary is none.
      leastLsn: () => Math.max(this.shipping.sentLsn, this.#peer?.origin == null ? 0 : this.#peer.endLsn),
      isWanted: () => this.#ended === undefined,
    });
    try {
      return await this.#orEnded(image);
    } catch (error) {
      // It may come all the same, and nobody needs it then.
      void image.then(
        ({ layer }) => this.#host.end(layer),
        () => {},
      );
      throw error;
    }
  }

  async #adopted(lsn: Lsn): Promise<void> {
    this.#restarts = false;
    const { memberId } = this.#peer ?? {};
    await this.#state.lane(async () => {
      const before = this.#link.peerId;
      this.#link.moveTo(lsn);
      this.#link.peerId = memberId ?? before;
      try {
        await this.#state.writeRecord(this.#state.checkpointLsn);
      } catch (error) {
        this.#link.peerId = before;
        throw error;
      }
    });
  }

  async #whenPeer(holds: (peer: PeerState) => boolean): Promise<PeerState> {
    this.#waiting++;
    this.#wakeLook?.();
    try {
      await this.#until(() => this.#peer !== undefined && holds(this.#peer));
      if (this.#peer === undefined) throw new Error('bug: the secondary has said nothing');
      return this.#peer;
    } finally {
      this.#waiting--;
    }
  }

  /** Ends early when `isOver`, which is looked at whenever something has changed. */
  async #wait(ms: number, isOver: () => boolean): Promise<void> {
    let over = false;
    const timer = this.#state.clock.after(ms, () => {
      over = true;
      this.#changes.changed();
    });
    try {
      await this.#until(() => over || isOver());
    } finally {
      timer.cancel();
    }
  }

  /** What may take longer than the connection lasts. */
  async #orEnded<T>(work: Promise<T>): Promise<T> {
    let settled = false;
    const settle = (): void => {
      settled = true;
      this.#changes.changed();
    };
    work.then(settle, settle);
    await this.#until(() => settled);
    return await work;
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
