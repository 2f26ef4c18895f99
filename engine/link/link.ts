/**
 * A link at work: it connects to its secondary and serves it, again and again, by exponential back-off; and sees that it does not hold the log back for
 * longer than it may (rule K6).
 */
import type { Timer } from '../clock.ts';
import { Condition } from '../condition.ts';
import { EngineError } from '../errors.ts';
import type { GroupState } from '../group-state.ts';
import { LOG_SECTOR_BYTES, type Lsn } from '../units.ts';
import { Connection, type ConnectionHost, RefusedPeer } from './connection.ts';
import type { LinkSettings, LinkState } from './link-state.ts';
import type { LinkCounters, LinkView } from './link-view.ts';
import { viewOf } from './link-view.ts';
import { markUnshipped } from './overflow.ts';
import type { Announcement, PeerConnector, PeerSession, PeerState } from './peer.ts';
import { Rate } from './rate.ts';
import { Verification, type VerifyHost, type VerifyOptions } from './verification.ts';

/** From the first try again to the next, doubled each time up to the last. */
const FIRST_BACK_OFF_MS = 100;
const LAST_BACK_OFF_MS = 30_000;
/** Share of the ring that a link may hold unless told otherwise, and at most unless it blocks: writers need the rest. */
const LIMIT_SHARE = 1 / 2;
const MOST_SHARE = 3 / 4;

export interface LinkHost extends Pick<ConnectionHost, 'feeder' | 'applied' | 'appliedLsn'> {
  /** Why there is to be no connection now, or undefined. */
  readonly noSession: () => string | undefined;
  readonly announcement: (link: LinkState) => Announcement;
  readonly connector: PeerConnector;
  /** Name of the group, here. */
  readonly groupName: string;
  readonly otherPeers: (link: LinkState) => readonly { readonly linkName: string; readonly peerId: string }[];
  readonly end: ConnectionHost['end'];
  readonly beginVerify: (link: LinkState, verifyId: string) => ReturnType<VerifyHost['begin']>;
  /** Age of the oldest record from `lsn` on, in ms; and how many there are. */
  readonly ageMs: (lsn: Lsn) => number;
  readonly recordsFrom: (lsn: Lsn) => number | undefined;
  /** What is logged a second, in bytes. */
  readonly loggedBytesPerSecond: () => number | undefined;
  /** The log is kept for it no more. */
  readonly freed: () => void;
  /** Something changed that writers, or people, wait for. */
  readonly changed: () => void;
  /** What only a bug explains. */
  readonly bug: (error: unknown) => void;
}

export class Link {
  readonly link: LinkState;
  readonly counters: LinkCounters = { bytesShipped: 0, regionsResynced: 0, bytesResynced: 0 };
  readonly #shippedBytes = new Rate();
  readonly #resyncedBytes = new Rate();
  readonly #resyncedRegions = new Rate();
  readonly #state: GroupState;
  readonly #host: LinkHost;
  readonly #changes = new Condition();
  #connection: Connection | undefined;
  #running: Promise<void> | undefined;
  #closing = false;
  #retry: Timer | undefined;
  #retryAtMs = 0;
  #failures = 0;
  /** Why it is not connected, and whether the other side is to be mended first. */
  #problem: { readonly reason: string; readonly refused: boolean } | undefined;
  /** The log is being let go of: no connection meanwhile. */
  #overflowing: Promise<void> | undefined;
  #blocks = false;
  /** The one under way, or the last one. */
  verification: Verification | undefined;

  constructor(state: GroupState, link: LinkState, host: LinkHost) {
    this.#state = state;
    this.link = link;
    this.#host = host;
  }

  start(): void {
    this.#running ??= this.#run().catch((error: unknown) => this.#host.bug(error));
  }

  /** Ends what is under way. Its state stays as it is. */
  async close(): Promise<void> {
    this.#closing = true;
    this.#reconnect('the group is closing');
    await this.#running;
    await this.#overflowing;
    await this.verification?.ended;
  }

  /** Begins to compare with the secondary. Throws `in-use` and `unavailable`, with the reason, when that cannot be now. */
  verify(options: VerifyOptions): Verification {
    const { name, wanted } = this.link.settings;
    if (this.verification?.isOver === false)
      throw new EngineError('in-use', `link ${name} is being verified: wait for its end, or cancel that`);
    if (wanted !== 'active') throw new EngineError('in-use', `link ${name} is ${wanted}: resume it first`);
    if (this.#connection?.peer === undefined) {
      const why = this.#problem === undefined ? '' : `: ${this.#problem.reason}`;
      throw new EngineError('unavailable', `link ${name} is not connected${why}`);
    }
    this.verification = new Verification(this.#state, this.link, options, this.#connection.line, {
      begin: (verifyId) => this.#host.beginVerify(this.link, verifyId),
      end: this.#host.end,
      tell: (what, message, data) => this.tell(what, message, data),
      bug: this.#host.bug,
    });
    return this.verification;
  }

  get connection(): Connection | undefined {
    return this.#connection;
  }

  /** What the secondary said last, while it is connected. */
  get peer(): PeerState | undefined {
    return this.#connection?.peer;
  }

  get view(): LinkView {
    const { heldLsn, logLsn, baseLsn } = this.link;
    const nowMs = this.#state.clock.nowMs();
    return viewOf(this.#state, this.link, {
      connection: this.#connection,
      problem: this.#problem,
      retryInMs: this.#retry === undefined ? undefined : Math.max(0, this.#retryAtMs - nowMs),
      noSession: this.#host.noSession(),
      ageMs: this.#host.ageMs(heldLsn ?? baseLsn),
      lagRecords: this.#host.recordsFrom(logLsn ?? baseLsn),
      acknowledging: this.#state.acknowledgement.standingOf(this),
      counters: this.counters,
      rates: {
        loggedBytes: this.#host.loggedBytesPerSecond(),
        shippedBytes: this.#shippedBytes.perSecond(nowMs),
        resyncedBytes: this.#resyncedBytes.perSecond(nowMs),
        resyncedRegions: this.#resyncedRegions.perSecond(nowMs),
      },
    });
  }

  /** Its settings have changed in memory and in the record; a connection that they concern begins anew. */
  configured(before: LinkSettings): void {
    const { settings } = this.link;
    if (before.uri !== settings.uri || before.wanted !== settings.wanted)
      this.#reconnect('its settings were changed');
    this.#failures = 0;
    this.poke();
  }

  /** It does now what it would do later by itself. */
  retry(): void {
    if (this.#connection === undefined) this.#reconnect('it was asked for');
    this.poke();
  }

  /** More log is durable, or something else has changed. */
  poke(): void {
    this.#connection?.poke();
    this.check();
  }

  /** What it is fed by is another now, or does something else. */
  feederChanged(): void {
    this.#changes.changed();
    this.poke();
  }

  /** Ends the connection; resolves when nothing of the link is under way any more. Another one may begin at once, unless `noSession` says otherwise. */
  async interrupt(why: string): Promise<void> {
    this.#reconnect(why);
    await this.#changes.until(() => this.#connection === undefined && this.#overflowing === undefined);
  }

  /** What is not shipped becomes marks, and the log is let go of. There is no connection meanwhile. Rejects with `disk`. */
  async letGo(why: string): Promise<void> {
    if (this.link.heldLsn === null) return;
    const { appliedLsn } = this.#host;
    await markUnshipped(this.#state, this.link, {
      appliedLsn,
      applied: (lsn) => this.#unlessClosed(this.#host.applied(lsn)),
    });
    const regions = this.link.dcm.count;
    const message = `${why}: what is not shipped is noted as regions, ${regions} in all`;
    this.tell('overflow', message, { regions });
    this.#host.freed();
    this.#host.changed();
  }

  /** Whether it holds more of the log than it may. What that leads to goes on by itself. */
  check(): void {
    if (this.#overflowing !== undefined || this.#closing || this.link.heldLsn === null) return;
    // What is not applied here is kept in any case.
    if (this.link.heldLsn > this.#host.appliedLsn() || this.#host.noSession() !== undefined) return;
    const { wanted, onFull } = this.link.settings;
    const why = wanted === 'detached' ? 'it is detached' : this.#excess();
    if (why === undefined) {
      this.#blocks = false;
      return;
    }
    if (wanted === 'active' && onFull === 'block') {
      if (!this.#blocks) this.tell('blocks', `${why}: writers wait when the log is full`);
      this.#blocks = true;
      return;
    }
    const detaches = wanted === 'active' && onFull === 'detach';
    this.#overflowing = this.#overflow(why, detaches).finally(() => {
      this.#overflowing = undefined;
      this.#changes.changed();
    });
  }

  /** Why it holds more than it may, or undefined. */
  #excess(): string | undefined {
    const { log } = this.#state;
    const { limitBytes, limitSeconds, wanted, onFull } = this.link.settings;
    const heldLsn = this.link.heldLsn ?? log.endLsn;
    const heldBytes = (log.endLsn - heldLsn) * LOG_SECTOR_BYTES;
    const mostBytes =
      log.capacityBytes * (wanted === 'active' && onFull === 'block' ? LIMIT_SHARE : MOST_SHARE);
    const bytes = Math.min(limitBytes === 0 ? log.capacityBytes * LIMIT_SHARE : limitBytes, mostBytes);
    if (heldBytes > bytes) return `it holds ${heldBytes} bytes of the log, above its limit of ${bytes}`;
    if (limitSeconds > 0 && this.#host.ageMs(heldLsn) > limitSeconds * 1000)
      return `it holds the log since more than ${limitSeconds} seconds, which is its limit`;
    return undefined;
  }

  async #overflow(why: string, detaches: boolean): Promise<void> {
    this.#reconnect(why);
    await this.#changes.until(() => this.#connection === undefined);
    try {
      if (detaches) this.link.settings = { ...this.link.settings, wanted: 'detached' };
      await this.letGo(why);
      if (detaches) this.tell('detached', 'it is detached now, as --on-full says: resume it to go on');
    } catch (error) {
      if (!(error instanceof EngineError)) this.#host.bug(error);
      if (this.#closing) return;
      // A disk refuses: the log is held on, and that is tried again with the next look.
      this.tell('overflow-failed', `${why}, and what it lacks cannot be noted: ${messageOf(error)}`);
    }
  }

  /** A stalled applier may keep it waiting for as long as it likes, and who closes the link waits for no applier. */
  async #unlessClosed(work: Promise<void>): Promise<void> {
    let isOver = false;
    const over = (): void => {
      isOver = true;
      this.#changes.changed();
    };
    work.then(over, over);
    await this.#changes.until(() => isOver || this.#closing);
    if (!isOver) throw new EngineError('unavailable', 'the link is closed');
    await work;
  }

  readonly tell = (what: string, message: string, data: Readonly<Record<string, unknown>> = {}): void => {
    const { name } = this.link.settings;
    this.#state.emit({
      type: `link.${what}`,
      message: `link ${name}: ${message}`,
      data: { link: name, ...data },
    });
  };

  /** Ends the connection, or the wait for the next try. */
  #reconnect(why: string): void {
    this.#retry?.cancel();
    this.#retry = undefined;
    this.#failures = 0;
    this.#connection?.end(new Reconnect(why));
    this.#changes.changed();
  }

  get #mayConnect(): boolean {
    const isFree = this.#overflowing === undefined && this.#retry === undefined;
    return isFree && this.#host.noSession() === undefined && this.link.settings.wanted === 'active';
  }

  async #run(): Promise<void> {
    for (;;) {
      await this.#changes.until(() => this.#closing || this.#mayConnect);
      if (this.#closing) return;
      try {
        const session = await this.#connect();
        if (session !== undefined) await this.#serve(session);
      } catch (error) {
        this.#lost(error);
      }
      this.#host.changed();
    }
  }

  /** Undefined when nobody wants the connection any more. */
  async #connect(): Promise<PeerSession | undefined> {
    const { uri } = this.link.settings;
    let session: PeerSession | undefined;
    let failure: { readonly error: unknown } | undefined;
    /** Somebody waits for this try; another one may begin before it ends. */
    let isAwaited = true;
    void this.#host.connector.connect(uri, this.#host.groupName, this.link.id).then(
      (found) => {
        if (isAwaited) session = found;
        else found.close();
        this.#changes.changed();
      },
      (error: unknown) => {
        failure = { error };
        this.#changes.changed();
      },
    );
    const isOver = () => this.#closing || !this.#mayConnect || this.link.settings.uri !== uri;
    await this.#changes.until(() => session !== undefined || failure !== undefined || isOver());
    isAwaited = false;
    if (failure !== undefined) throw failure.error;
    if (!isOver()) return session;
    session?.close();
    return undefined;
  }

  async #serve(session: PeerSession): Promise<void> {
    // The last word before it: what begins from here on ends the connection, and waits for that.
    if (!this.#mayConnect) {
      session.close();
      return;
    }
    const connection = new Connection(this.#state, this.link, session, this.#connectionHost());
    this.#connection = connection;
    try {
      await connection.run();
    } finally {
      this.#connection = undefined;
      this.#state.acknowledgement.moved();
      this.#changes.changed();
    }
  }

  #connectionHost(): ConnectionHost {
    const host = this.#host;
    return {
      ...host,
      announcement: () => host.announcement(this.link),
      otherPeers: () => host.otherPeers(this.link),
      tell: (what, message, data) => this.tell(what, message, data),
      connected: () => {
        this.#problem = undefined;
        this.tell('connected', 'it is connected');
      },
      shipped: (bytes) => {
        // A round that fails ships its own record, each time.
        if (this.#connection?.isStreaming === true) this.#failures = 0;
        this.counters.bytesShipped += bytes;
        this.#shippedBytes.add(bytes, this.#state.clock.nowMs());
        this.#state.acknowledgement.moved();
      },
      moved: (regions, bytes) => {
        this.#failures = 0;
        this.counters.regionsResynced += regions;
        this.counters.bytesResynced += bytes;
        this.#resyncedRegions.add(regions, this.#state.clock.nowMs());
        this.#resyncedBytes.add(bytes, this.#state.clock.nowMs());
      },
    };
  }

  #lost(error: unknown): void {
    if (error instanceof Reconnect) return;
    // What only a bug explains, here or there, is the link's alone: the group goes on, and the link is tried again like one that is refused.
    const isFault = !(error instanceof EngineError || error instanceof RefusedPeer);
    const refused = isFault || error instanceof RefusedPeer;
    const reason = isFault ? `it stopped because of a bug: ${messageOf(error)}` : error.message;
    const isNews = this.#problem?.reason !== reason || this.#problem.refused !== refused;
    this.#problem = { reason, refused };
    const where = isFault && error instanceof Error ? { stack: error.stack } : {};
    if (isNews) this.tell(refused ? 'failed' : 'lost-connection', reason, where);
    const delayMs = refused
      ? LAST_BACK_OFF_MS
      : Math.min(LAST_BACK_OFF_MS, FIRST_BACK_OFF_MS * 2 ** Math.min(this.#failures, 16));
    this.#failures++;
    this.#retryAtMs = this.#state.clock.nowMs() + delayMs;
    this.#retry = this.#state.clock.after(delayMs, () => {
      this.#retry = undefined;
      this.#changes.changed();
    });
  }
}

/** The connection is ended here, and another one may begin at once. */
class Reconnect extends Error {}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
