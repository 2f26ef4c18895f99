/**
 * The links of a group to its secondaries, as its users ask for them. What they change is durable when the promise resolves; what follows from that goes on
 * by itself.
 */
import type { Timer } from '../clock.ts';
import { turnstile } from '../disk/turnstile.ts';
import { EngineError } from '../errors.ts';
import { checkLogSize } from '../group-spec.ts';
import type { GroupState, GroupVolume } from '../group-state.ts';
import { RegionMap, type RegionRun } from '../map/region-map.ts';
import { checkName } from '../names.ts';
import type { OperationView } from '../operations.ts';
import type { RestorePlan } from '../snapshots.ts';
import { LOG_SECTOR_BYTES, type Lsn } from '../units.ts';
import { Dcm } from './dcm.ts';
import type { Feeder } from './feeder.ts';
import { forecastOf, isCertain, type LinkForecast } from './forecast.ts';
import { LagMarks } from './lag.ts';
import { Link, type LinkHost } from './link.ts';
import {
  changed,
  checkHolding,
  checkSettings,
  type LinkChanges,
  type LinkSpec,
  settingsOf,
} from './link-settings.ts';
import { type LinkSettings, LinkState } from './link-state.ts';
import type { LinkView } from './link-view.ts';
import { type Announcement, type PeerConnector, REPLICATION_PROTOCOL } from './peer.ts';
import { Rate } from './rate.ts';
import { RecordCounts } from './record-counts.ts';
import type { Verification, VerifyOptions } from './verification.ts';

/** Of a group. Each may hold the log, and gets all of it. */
export const MAX_LINKS = 16;

/** Between two looks at how much of the log each link holds. */
const CHECK_MS = 1000;

export interface LinksHost {
  readonly connector: PeerConnector | undefined;
  /** Leaves direct mode if need be; when it resolves, all that was written before is durable. */
  readonly beginLogging: () => Promise<void>;
  readonly feeder: Feeder;
  /** Resolves once the log is applied beyond the position. */
  readonly applied: (lsn: Lsn) => Promise<void>;
  readonly appliedLsn: () => Lsn;
  /** Log, or layers, are needed no more. */
  readonly freed: () => void;
  /** Something changed that others wait for. */
  readonly changed: () => void;
  /** Throws why the group takes no changes. */
  readonly check: () => void;
  readonly bug: (error: unknown) => void;
}

export class Links {
  readonly #state: GroupState;
  readonly #host: LinksHost;
  /** One change at a time. */
  readonly #turns = turnstile(1);
  readonly #links: Link[] = [];
  readonly #marks = new LagMarks();
  readonly #counts: RecordCounts;
  readonly #loggedBytes = new Rate();
  #loggedLsn: Lsn;
  /** Why no link is to have a connection for a while. */
  #suspended: string | undefined;
  #busy = 0;
  #timer: Timer | undefined;
  #closed = false;

  constructor(state: GroupState, host: LinksHost) {
    this.#state = state;
    this.#host = host;
    const { endLsn, recordCount } = state.log;
    this.#counts = new RecordCounts(endLsn, recordCount);
    this.#loggedLsn = endLsn;
    for (const link of state.links) {
      link.cutRestores(state.log.endLsn);
      // Of those that the group's record had not come to nobody remembers what was known of them.
      for (const { applied, lsn } of state.chain.restores) if (!applied) link.openRestore(lsn);
      this.#links.push(this.#linkOf(link));
    }
    state.acknowledgement.links = this.#links;
    state.acknowledgement.changed();
  }

  /** Whether a change is under way, so that the group has to go on logging. */
  get isBusy(): boolean {
    return this.#busy > 0;
  }

  views(): LinkView[] {
    return this.#links.map((link) => link.view);
  }

  start(): void {
    // What is there counts as of now: its age is not kept.
    if (this.#links.length > 0) this.#marks.note(this.#state.log.durableLsn, this.#state.clock.nowMs());
    for (const link of this.#links) link.start();
    this.#watch();
  }

  /** Ends all connections. The links stay, and are flushed and closed with the group. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#timer?.cancel();
    // Whoever changes something now is the last one.
    await this.#turns(async () => {});
    await Promise.all(this.#links.map((link) => link.close()));
  }

  /** The group is about to be closed: who waits for a link that is not in its mode is refused, now and from now on. */
  refuseHeld(): void {
    this.#state.acknowledgement.close();
  }

  /** More of the log is durable. */
  logDurable(): void {
    const { durableLsn, endLsn, recordCount, tailLsn } = this.#state.log;
    const loggedBytes = Math.max(0, durableLsn - this.#loggedLsn) * LOG_SECTOR_BYTES;
    this.#loggedLsn = durableLsn;
    this.#counts.note(endLsn, recordCount);
    if (this.#links.length === 0) {
      // A link that is made now begins where the applier is.
      this.#counts.forget(tailLsn);
      return;
    }
    const nowMs = this.#state.clock.nowMs();
    this.#marks.note(durableLsn, nowMs);
    this.#loggedBytes.add(loggedBytes, nowMs);
    for (const link of this.#links) link.poke();
  }

  /** What the group is fed by, if anything, does something else now. */
  feederChanged(): void {
    for (const link of this.#links) link.feederChanged();
  }

  /** Ends all connections; none begins until the returned function is called. One call at a time, and in no lane: what they have under way ends first. */
  async suspend(why: string): Promise<() => void> {
    this.#suspended = why;
    await this.interrupt(why);
    return () => {
      this.#suspended = undefined;
      this.feederChanged();
    };
  }

  /** Ends all connections. Those that begin then announce the group as it is then. */
  async interrupt(why: string): Promise<void> {
    await Promise.all(this.#links.map((link) => link.interrupt(why)));
  }

  /** No link keeps the log any more: what is not shipped becomes marks, durably (rule K6). While they are suspended. In no lane. Rejects with `disk`. */
  async letGo(why: string): Promise<void> {
    await this.#turns(async () => {
      for (const link of this.#links) await link.letGo(why);
    });
  }

  #watch(): void {
    if (this.#closed || this.#links.length === 0 || this.#timer !== undefined) return;
    this.#timer = this.#state.clock.after(CHECK_MS, () => {
      this.#timer = undefined;
      this.#marks.forget(Math.min(...this.#links.map(({ link }) => link.heldLsn ?? link.baseLsn)));
      this.#counts.forget(Math.min(...this.#links.map(({ link }) => link.logLsn ?? link.baseLsn)));
      for (const link of this.#links) link.check();
      this.#watch();
    });
  }

  /**
   * Makes a link: all that is written here by now is copied to the secondary, and then it gets the log. Resolves when the link is recorded; the rest follows
   * by itself. Throws `invalid`, `exists`, `unavailable`, `disk`.
   */
  add(spec: LinkSpec): Promise<LinkView> {
    return this.#inTurn(async () => {
      this.#checkSpec(spec);
      await this.#host.beginLogging();
      const state = await this.#create(spec);
      const link = this.#linkOf(state);
      this.#links.push(link);
      this.#state.acknowledgement.changed();
      link.tell('added', `it leads to ${spec.uri}`, { regions: state.dcm.count });
      link.start();
      this.#watch();
      return link.view;
    });
  }

  async #create(spec: LinkSpec): Promise<LinkState> {
    const state = this.#state;
    const id = state.newId();
    return await state.lane(async () => {
      await state.settleRecord();
      const dcm = await Dcm.create(state, id, (volume) =>
        spec.assumeEqual === true ? [] : contentOf(state, volume),
      );
      const position = { baseLsn: this.#host.appliedLsn(), logLsn: null };
      const record = { id, ...settingsOf(spec), position, peerId: null };
      const link = new LinkState(record, dcm, state.logFloorLsn);
      state.links.push(link);
      try {
        await state.writeRecord(state.checkpointLsn);
      } catch (error) {
        state.links.pop();
        await dcm.close();
        throw error;
      }
      state.logHolds.add(link);
      return link;
    });
  }

  /** Changes what is named. Throws `not-found`, `invalid`, `disk`. */
  set(name: string, changes: LinkChanges): Promise<LinkView> {
    return this.#inTurn(async () => {
      const link = this.#require(name);
      const settings = changed(link.link.settings, changes);
      this.#checkSettings(settings);
      checkHolding(settings);
      await this.#configure(link, changes);
      return link.view;
    });
  }

  /** The log is kept for the secondary up to the link's limit; then what it lacks is noted. */
  pause(name: string): Promise<LinkView> {
    return this.#want(name, 'paused');
  }

  /** Nothing is kept for the secondary but a map of what it lacks. */
  detach(name: string): Promise<LinkView> {
    return this.#want(name, 'detached');
  }

  resume(name: string): Promise<LinkView> {
    return this.#want(name, 'active');
  }

  #want(name: string, wanted: LinkSettings['wanted']): Promise<LinkView> {
    return this.#inTurn(async () => {
      const link = this.#require(name);
      checkHolding({ ...link.link.settings, wanted });
      await this.#configure(link, { wanted });
      return link.view;
    });
  }

  /** What a restore would do on each link, as things stand (Fig. 5): its secondary decides (rule K10). */
  forecastRestore(plan: RestorePlan): LinkForecast[] {
    const { name } = this.#state.record;
    return this.#links.map((link) => forecastOf(link, plan, this.#state.regionBytes, name));
  }

  /** The record of a restore has just been logged: what comes after it is where a link's mode wants it once it is known which way that takes (rule K4). */
  restoreLogged(plan: RestorePlan, lsn: Lsn): void {
    for (const link of this.#links)
      if (!isCertain(link, plan, this.#state.regionBytes)) link.link.openRestore(lsn);
  }

  /** Throws `in-use` where a restore would have to be refused without force, as things stand ([0079]). */
  checkRestore(plan: RestorePlan): void {
    const refused = this.forecastRestore(plan).find((forecast) => forecast.refused !== undefined);
    if (refused !== undefined) throw new EngineError('in-use', `link ${refused.link}: ${refused.refused}`);
  }

  /**
   * Has what the secondary lacks copied now, also where its policy is `manual`; with `full`, everything. Throws `not-found`, `in-use` when the link is not
   * active, `disk`.
   */
  resync(name: string, options: { readonly full?: boolean } = {}): Promise<LinkView> {
    return this.#inTurn(async () => {
      const link = this.#require(name);
      if (link.link.settings.wanted !== 'active')
        throw new EngineError('in-use', `link ${name} is ${link.link.settings.wanted}: resume it first`);
      if (options.full === true)
        await this.#state.lane(async () => {
          for (const volume of this.#state.volumes)
            for (const run of everything(this.#state, volume)) link.link.mark(volume.index, run);
          await link.link.flush();
        });
      if (link.link.settings.resync === 'manual') await this.#configure(link, { resyncAllowed: true });
      link.retry();
      return link.view;
    });
  }

  /** Begins to compare the two sides of a link. Throws `not-found`, `invalid`, and as `Link.verify`. */
  verify(name: string, options: VerifyOptions = {}): Promise<Verification> {
    return this.#inTurn(async () => {
      if (this.#state.record.role !== 'primary')
        throw new EngineError(
          'unsupported',
          'a secondary cannot mark a place in the log: verify on its primary',
        );
      const { rateBytesPerSecond = 0 } = options;
      if (!Number.isSafeInteger(rateBytesPerSecond) || rateBytesPerSecond < 0)
        throw new EngineError('invalid', `a rate of ${rateBytesPerSecond} bytes a second cannot be`);
      return this.#require(name).verify(options);
    });
  }

  /** The one under way on a link, or its last one since the group was opened. Throws `not-found`. */
  verification(name: string): Verification {
    const { verification } = this.#require(name);
    if (verification !== undefined) return verification;
    throw new EngineError('not-found', `link ${name} was not verified since this node was started`);
  }

  /** Verifications under way. */
  get operations(): OperationView[] {
    return this.#links.flatMap(({ verification }) =>
      verification?.isOver === false ? [verification.operation] : [],
    );
  }

  /** The secondary gets nothing more, and nothing is kept for it. */
  remove(name: string): Promise<void> {
    return this.#inTurn(async () => {
      const link = this.#require(name);
      await link.close();
      try {
        await this.#state.lane(() => this.#forget(link.link));
      } catch (error) {
        // It is still there, and goes on.
        const again = this.#linkOf(link.link);
        this.#links[this.#links.indexOf(link)] = again;
        this.#state.acknowledgement.changed();
        again.start();
        throw error;
      }
      this.#links.splice(this.#links.indexOf(link), 1);
      this.#state.acknowledgement.changed();
      link.tell('removed', 'it was removed');
      this.#host.freed();
      await link.link.dcm.close();
      // What stays behind is named by nothing, and goes when the group is opened.
      await link.link.dcm.remove().catch(() => {});
    });
  }

  async #forget(link: LinkState): Promise<void> {
    const { links, logHolds } = this.#state;
    const at = links.indexOf(link);
    links.splice(at, 1);
    try {
      await this.#state.writeRecord(this.#state.checkpointLsn);
    } catch (error) {
      links.splice(at, 0, link);
      throw error;
    }
    logHolds.delete(link);
  }

  async #configure(link: Link, changes: Partial<LinkSettings>): Promise<void> {
    const state = link.link;
    // From here on it is what status shows, and what acknowledgements wait for.
    const become = (next: LinkSettings): void => {
      if (state.settings.mode !== next.mode) state.unmet();
      state.settings = next;
      this.#state.acknowledgement.changed();
    };
    const before = await this.#state.lane(async () => {
      const old = state.settings;
      become(changed(old, changes));
      try {
        await this.#state.writeRecord(this.#state.checkpointLsn);
      } catch (error) {
        become(old);
        throw error;
      }
      return old;
    });
    link.configured(before);
    const { wanted } = state.settings;
    if (before.wanted !== wanted) link.tell(wanted, `it is ${wanted} now`);
  }

  async #inTurn<T>(change: () => Promise<T>): Promise<T> {
    this.#busy++;
    try {
      return await this.#turns(async () => {
        if (this.#closed)
          throw new EngineError('unavailable', 'the group is closing', { errno: 'ESHUTDOWN' });
        this.#host.check();
        return await change();
      });
    } finally {
      this.#busy--;
      this.#host.freed();
    }
  }

  #require(name: string): Link {
    const link = this.#links.find((candidate) => candidate.link.settings.name === name);
    if (link !== undefined) return link;
    throw new EngineError('not-found', `the group has no link ${JSON.stringify(name)}: see link list`);
  }

  #checkSpec(spec: LinkSpec): void {
    const { record } = this.#state;
    checkName('link', spec.name);
    if (this.#links.some((link) => link.link.settings.name === spec.name))
      throw new EngineError('exists', `there is a link ${spec.name} already: use another name`);
    if (this.#links.some((link) => link.link.settings.uri === spec.uri))
      throw new EngineError('exists', `there is a link to ${spec.uri} already`);
    if (this.#links.length >= MAX_LINKS)
      throw new EngineError('unavailable', `a group has at most ${MAX_LINKS} links: remove one first`);
    this.#checkSettings(settingsOf(spec));
    // Restores and the like travel as records (rule L7).
    checkLogSize(record.log.sizeBytes, record.volumes, record.regionBytes);
  }

  #checkSettings(settings: LinkSettings): void {
    checkSettings(settings);
    if (this.#state.record.role === 'primary' || settings.mode === 'async') return;
    const what = `link ${settings.name}: this node is a secondary, and no client waits for what it passes on: take "async"`;
    throw new EngineError('invalid', what);
  }

  #linkOf(link: LinkState): Link {
    return new Link(this.#state, link, this.#linkHost());
  }

  #linkHost(): LinkHost {
    const { connector, feeder, applied, appliedLsn, freed, bug } = this.#host;
    const { record, clock, acknowledgement } = this.#state;
    return {
      connector: connector ?? nowhere,
      groupName: record.name,
      feeder,
      noSession: () => this.#suspended ?? feeder.noSession,
      announcement: (link) => this.#announcement(link),
      applied,
      appliedLsn,
      freed,
      changed: () => {
        acknowledgement.moved();
        this.#host.changed();
      },
      bug,
      otherPeers: (link) =>
        this.#state.links.flatMap(({ id, peerId, settings }) =>
          id === link.id || peerId === null ? [] : [{ linkName: settings.name, peerId }],
        ),
      beginVerify: (link, verifyId) => feeder.verifyImage(link, verifyId),
      end: (layer) => {
        layer.users--;
        freed();
      },
      ageMs: (lsn) => this.#marks.ageMs(lsn, clock.nowMs()),
      recordsFrom: (lsn) => this.#counts.from(lsn, this.#state.log.endLsn, this.#state.log.recordCount),
      loggedBytesPerSecond: () => this.#loggedBytes.perSecond(clock.nowMs()),
    };
  }

  #announcement(link: LinkState): Announcement {
    const { record, log } = this.#state;
    return {
      protocol: REPLICATION_PROTOCOL,
      origin: { groupId: record.id, generation: record.generation },
      linkId: link.id,
      linkName: link.settings.name,
      memberId: record.memberId,
      path: this.#host.feeder.path,
      regionBytes: record.regionBytes,
      volumes: record.volumes.map(({ name, sizeBytes }) => ({ name, sizeBytes })),
      durableLsn: log.durableLsn,
      named: this.#host.feeder.named,
    };
  }
}

/** What a volume has that a blank one has not: what was written, and what restores have still to bring. */
function contentOf(state: GroupState, volume: GroupVolume): RegionRun[] {
  const map = new RegionMap(state.regionCount(volume));
  for (const { first, end } of volume.map.written.runs()) map.setRange(first, end);
  for (const restore of state.chain.restores)
    for (const { first, end } of restore.parts[volume.index]?.toCome.runs() ?? []) map.setRange(first, end);
  return [...map.runs()];
}

function everything(state: GroupState, volume: GroupVolume): RegionRun[] {
  return [{ first: 0, end: state.regionCount(volume) }];
}

const nowhere: PeerConnector = {
  connect: () => Promise.reject(new EngineError('unavailable', 'this node connects to no other')),
};
