/**
 * What a write waits for before anyone is told that it is done (rule K4), beside that it is logged here: where the modes of the links want it.
 *
 * `async` wants nothing. `memory`: durable here, and received by the secondary. `sync`: durable on both. Of several links, all. A link is *in its mode* only while its
 * secondary lacks nothing but the end of the log. Else its policy holds: `go-on` wants nothing meanwhile, and `block` holds whatever was not where the mode wants it before.
 *
 * What is asked for is one number, the LSN up to which things may be acknowledged, and it is made anew whenever it is looked at: nothing here remembers that a link was well.
 * Whoever changes what it depends on says so.
 */
import type { Clock } from '../clock.ts';
import { EngineError } from '../errors.ts';
import type { Lsn } from '../units.ts';
import type { LinkState } from './link-state.ts';
import type { PeerState } from './peer.ts';

/** The log here, as far as it matters. */
export interface AcknowledgedLog {
  readonly writtenLsn: Lsn;
  readonly durableLsn: Lsn;
  sync(): Promise<void>;
}

/** The same of a link. */
export interface AcknowledgingLink {
  readonly link: Pick<LinkState, 'settings' | 'metLsn' | 'met' | 'openRestoreLsn'>;
  /** While there is one. */
  readonly connection:
    | {
        readonly isStreaming: boolean;
        readonly peer: Pick<PeerState, 'needs'> | undefined;
        readonly obstacle: string | undefined;
        readonly shipping: {
          readonly receivedLsn: Lsn;
          readonly durableLsn: Lsn;
          readonly isCaughtUp: boolean;
        };
      }
    | undefined;
  readonly tell: (what: string, message: string, data?: Readonly<Record<string, unknown>>) => void;
}

/** How a link stands to its mode, for people. */
export interface ModeStanding {
  /** An `async` one always is. */
  readonly inMode: boolean;
  /** Why it is not in its mode; its policy holds then. */
  readonly reason: string | undefined;
  /** Requests that wait for it now, and for how long the oldest has. */
  readonly heldRequests: number;
  readonly heldSeconds: number;
}

interface Waiter {
  readonly lsn: Lsn;
  readonly requests: number;
  readonly sinceMs: number;
  readonly resolve: () => void;
  readonly reject: (error: EngineError) => void;
}

const ALL = Number.POSITIVE_INFINITY;

export class Acknowledgement {
  /** Those of the group, as they are at any time. `changed` is told of those that come and go. */
  links: readonly AcknowledgingLink[] = [];
  readonly #clock: Pick<Clock, 'nowMs'>;
  readonly #log: AcknowledgedLog;
  #isNeeded = false;
  /** In the order in which they came. Bounded by the requests that connections may have in flight. */
  #waiters: Waiter[] = [];
  /** What was logged in this turn, and waits together. */
  #turn: Promise<void> | undefined;
  #turnRequests = 0;
  /** Who holds writers by its policy, and was said to. */
  readonly #holders = new Set<AcknowledgingLink>();
  #refusal: EngineError | undefined;
  #closing = false;

  constructor(clock: Pick<Clock, 'nowMs'>, log: AcknowledgedLog) {
    this.#clock = clock;
    this.#log = log;
  }

  /** Whether there is a link that wants more than `async` does. */
  get isNeeded(): boolean {
    return this.#isNeeded;
  }

  /** Resolves when all that was logged before may be acknowledged. `settle` is called once for all that one turn of the loop brought. */
  settled(settle: () => void): Promise<void> {
    this.#turn ??= this.#settledSoon(settle);
    this.#turnRequests++;
    return this.#turn;
  }

  async #settledSoon(settle: () => void): Promise<void> {
    await Promise.resolve();
    const requests = this.#turnRequests;
    this.#turn = undefined;
    this.#turnRequests = 0;
    settle();
    await this.reached(this.#log.writtenLsn, requests);
  }

  /** Resolves when what lies below `lsn`, and is logged, may be acknowledged. Rejects with `unavailable` when it never will be. */
  reached(lsn: Lsn, requests = 1): Promise<void> {
    if (this.#refusal !== undefined) return Promise.reject(this.#refusal);
    if (this.#limitLsn() >= lsn) return Promise.resolve();
    // Only what is durable here is shipped (rule K1). Whoever comes meanwhile shares the next sync; a failed one is told by the log.
    if (this.#log.durableLsn < lsn) void this.#log.sync().catch(() => {});
    return new Promise<void>((resolve, reject) => {
      this.#waiters.push({ lsn, requests, sinceMs: this.#clock.nowMs(), resolve, reject });
      this.moved();
    });
  }

  /** Links, or their modes and policies, have changed. */
  changed(): void {
    this.#isNeeded = this.links.some(({ link }) => link.settings.mode !== 'async');
    this.moved();
  }

  /** A link has come further, or has become another state. */
  moved(): void {
    if (this.#waiters.length > 0) {
      const limitLsn = this.#limitLsn();
      const waiters = this.#waiters;
      this.#waiters = [];
      for (const waiter of waiters)
        if (waiter.lsn <= limitLsn) waiter.resolve();
        else if (this.#closing && this.#isHeldByPolicy(waiter)) waiter.reject(closing());
        else this.#waiters.push(waiter);
    }
    this.#tellHolders();
  }

  /** Who waits for a link that is not in its mode is refused, now and from now on: it will not come back. */
  close(): void {
    this.#closing = true;
    this.moved();
  }

  /** Nothing that waits is ever acknowledged, nor what comes. */
  fail(error: EngineError): void {
    this.#refusal ??= error;
    for (const waiter of this.#waiters.splice(0)) waiter.reject(error);
    this.#tellHolders();
  }

  standingOf(of: AcknowledgingLink): ModeStanding {
    const reason = whyNotInMode(of);
    const limitLsn = limitOf(of);
    const held = this.#waiters.filter(({ lsn }) => lsn > limitLsn);
    const [oldest] = held;
    return {
      inMode: reason === undefined,
      reason,
      heldRequests: held.reduce((sum, { requests }) => sum + requests, 0),
      heldSeconds: oldest === undefined ? 0 : (this.#clock.nowMs() - oldest.sinceMs) / 1000,
    };
  }

  /** Of several links, all have to have it ([0064]). */
  #limitLsn(): Lsn {
    let least = ALL;
    for (const link of this.links) least = Math.min(least, limitOf(link));
    return least;
  }

  #isHeldByPolicy({ lsn }: Waiter): boolean {
    return this.links.some((link) => whyNotInMode(link) !== undefined && limitOf(link) < lsn);
  }

  #tellHolders(): void {
    if (this.#waiters.length === 0 && this.#holders.size === 0) return;
    for (const of of this.links) {
      const reason = whyNotInMode(of);
      const limitLsn = limitOf(of);
      const holds = reason !== undefined && this.#waiters.some(({ lsn }) => lsn > limitLsn);
      if (holds === this.#holders.has(of)) continue;
      const { mode } = of.link.settings;
      if (holds) {
        this.#holders.add(of);
        of.tell('holding', `writers are held, because it is not in mode ${mode}: ${reason}`, { mode });
      } else {
        this.#holders.delete(of);
        of.tell('released', 'it holds no writers any more', { mode });
      }
    }
    for (const of of this.#holders) if (!this.links.includes(of)) this.#holders.delete(of);
  }
}

/** Up to where a link lets things be acknowledged. */
function limitOf(of: AcknowledgingLink): Lsn {
  const { link, connection } = of;
  const { mode, onLost } = link.settings;
  if (mode === 'async') return ALL;
  if (connection !== undefined && isWhole(of)) {
    const { receivedLsn, durableLsn } = connection.shipping;
    link.met(mode === 'sync' ? durableLsn : receivedLsn);
  }
  if (onLost === 'go-on' && whyNotInMode(of) !== undefined) return ALL;
  return link.metLsn;
}

/** All that its secondary lacks comes through the log. */
function isWhole({ connection }: AcknowledgingLink): boolean {
  return connection?.isStreaming === true && connection.peer?.needs === 0;
}

/** Undefined: it is in its mode. */
function whyNotInMode(of: AcknowledgingLink): string | undefined {
  const { link, connection } = of;
  const { mode, wanted } = link.settings;
  if (mode === 'async') return undefined;
  if (wanted !== 'active') return `it is ${wanted}`;
  if (connection?.peer === undefined) return 'it is not connected';
  if (!isWhole(of)) return 'its secondary lacks regions, and is resynchronised';
  const { openRestoreLsn } = link;
  if (openRestoreLsn !== undefined)
    return `its secondary has still to come to the restore at LSN ${openRestoreLsn}, and may lack regions then`;
  if (connection.shipping.isCaughtUp) return undefined;
  return connection.obstacle ?? 'its secondary has still to get what is logged';
}

function closing(): EngineError {
  const what =
    'the group is closing, and a link holds what was written: it is logged here, and not where the mode of the link wants it';
  return new EngineError('unavailable', what, { errno: 'ESHUTDOWN' });
}
