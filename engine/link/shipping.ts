/**
 * Ships the log to a secondary, over one connection (rule K1: what is durable here, and no more).
 *
 * Four positions, in this order: `durable` (the secondary has it durably: the link's cursor, rule K3) ≤ `received` ≤ `sent` ≤ the log's durable end here,
 * or the ship limit where a round has set one. Nothing is kept for it in memory but what is under way: whole batches are read from the ring as they lie there.
 */
import { EngineError } from '../errors.ts';
import type { GroupState } from '../group-state.ts';
import { LOG_SECTOR_BYTES, type Lsn, MIB } from '../units.ts';
import type { PeerSession } from './peer.ts';

/** Of an append at most, in bytes, and as a share of the secondary's ring, which takes an append whole or not at all; or one batch. */
const APPEND_BYTES = 1 * MIB;
const RING_SHARE = 1 / 4;
/** Under way at most, and what is sent before it is synced there at the latest, in bytes. */
const FLIGHT_BYTES = 8 * MIB;
/** A secondary that lacks so little of the log has caught up, in bytes. */
const CAUGHT_UP_BYTES = 1 * MIB;
/** A secondary that has no room is asked again after so long; it doubles up to the second as long as nothing gets through. */
const FIRST_RETRY_MS = 50;
const LAST_RETRY_MS = 1000;

export interface ShippingHooks {
  /** The secondary has everything below `lsn` durably. */
  readonly durable: (lsn: Lsn) => void;
  readonly shipped: (bytes: number) => void;
  /** Somebody waits for all that it gets to be durable there. */
  readonly syncsAtOnce: () => boolean;
  /** It has no room, or has some again. */
  readonly full: (reason: string | undefined) => void;
  /** The connection is of no more use. */
  readonly failed: (error: unknown) => void;
}

export class Shipping {
  readonly #state: GroupState;
  readonly #session: PeerSession;
  readonly #hooks: ShippingHooks;
  #sentLsn: Lsn;
  #receivedLsn: Lsn;
  #durableLsn: Lsn;
  /** Nothing is shipped from there on: a round stands there. */
  #limitLsn = Number.POSITIVE_INFINITY;
  #flightBytes = 0;
  #sync: Promise<void> | undefined;
  #wake: (() => void) | undefined;
  #pokes = 0;
  /** It has not begun, or is over. */
  #stopped = true;
  #running: Promise<void> = Promise.resolve();
  #appendBytes = APPEND_BYTES;
  /** An append was refused. Those behind it do not follow what is there, so that nothing is to be learnt from what becomes of them. */
  #refusal: { readonly error: unknown } | undefined;
  #retryMs = FIRST_RETRY_MS;
  #isCaughtUp = false;
  readonly #appends = new Set<Promise<void>>();

  constructor(state: GroupState, session: PeerSession, hooks: ShippingHooks) {
    this.#state = state;
    this.#session = session;
    this.#hooks = hooks;
    this.#sentLsn = 0;
    this.#receivedLsn = 0;
    this.#durableLsn = 0;
  }

  /** Whether it is under way. */
  get isRunning(): boolean {
    return !this.#stopped;
  }

  /** Up to where the secondary has the log, though a power cut there may take it. */
  get receivedLsn(): Lsn {
    return this.#receivedLsn;
  }

  /** Whether it has come near the end of the log since it began, since the last limit, and since it last had no room. It is so until then, however fast the log grows. */
  get isCaughtUp(): boolean {
    return this.#isCaughtUp;
  }

  /** Up to where the secondary may have the log. */
  get sentLsn(): Lsn {
    return this.#sentLsn;
  }

  #lookWhetherCaughtUp(): void {
    this.#isCaughtUp ||=
      (this.#state.log.durableLsn - this.#receivedLsn) * LOG_SECTOR_BYTES <= CAUGHT_UP_BYTES;
  }

  /** Up to where the secondary has the log durably. */
  get durableLsn(): Lsn {
    return this.#durableLsn;
  }

  /** Nothing from `lsn` on is sent, until it is lifted. */
  limit(lsn: Lsn): void {
    this.#limitLsn = lsn;
  }

  lift(): void {
    this.#limitLsn = Number.POSITIVE_INFINITY;
    this.#isCaughtUp = false;
    this.#lookWhetherCaughtUp();
    this.poke();
  }

  /** Begins where the secondary's log ends, durably. That has a ring of so many bytes. */
  start(fromLsn: Lsn, ringBytes: number): void {
    this.#appendBytes = Math.min(APPEND_BYTES, ringBytes * RING_SHARE);
    this.#sentLsn = fromLsn;
    this.#receivedLsn = fromLsn;
    this.#durableLsn = fromLsn;
    this.#isCaughtUp = false;
    this.#lookWhetherCaughtUp();
    this.#stopped = false;
    this.#running = this.#run().catch((error: unknown) => {
      this.#stopped = true;
      this.#hooks.failed(error);
    });
  }

  /** Sends nothing more. Resolves when what is under way has ended, which it does as the connection is over. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.poke();
    await this.#running;
    await Promise.allSettled([...this.#appends, this.#sync]);
  }

  /** There is more that is durable, or more may be sent. */
  poke(): void {
    this.#pokes++;
    const wake = this.#wake;
    this.#wake = undefined;
    wake?.();
  }

  get #toLsn(): Lsn {
    return Math.min(this.#state.log.durableLsn, this.#limitLsn);
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      const seen = this.#pokes;
      if (this.#refusal !== undefined) await this.#afterRefusal(this.#refusal.error);
      else if (this.#sentLsn < this.#toLsn && this.#flightBytes < FLIGHT_BYTES) await this.#send();
      else if (this.#pokes === seen)
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
    }
  }

  async #send(): Promise<void> {
    const lsn = this.#sentLsn;
    const read = await this.#state.logReader.ship(lsn, this.#toLsn, this.#appendBytes);
    // A round may have set a limit meanwhile.
    const bytes = read.subarray(0, Math.max(0, this.#limitLsn - lsn) * LOG_SECTOR_BYTES);
    if (this.#stopped || bytes.length === 0) return;
    this.#sentLsn = lsn + bytes.length / LOG_SECTOR_BYTES;
    this.#flightBytes += bytes.length;
    const append = this.#append(lsn, bytes).finally(() => {
      this.#flightBytes -= bytes.length;
      this.#appends.delete(append);
      this.poke();
    });
    this.#appends.add(append);
  }

  async #append(lsn: Lsn, bytes: Buffer): Promise<void> {
    try {
      await this.#session.append(lsn, bytes);
    } catch (error) {
      this.#refused(error);
      return;
    }
    const endLsn = lsn + bytes.length / LOG_SECTOR_BYTES;
    this.#retryMs = FIRST_RETRY_MS;
    this.#hooks.full(undefined);
    this.#receivedLsn = Math.max(this.#receivedLsn, endLsn);
    this.#lookWhetherCaughtUp();
    this.#hooks.shipped(bytes.length);
    const unsynced = (this.#receivedLsn - this.#durableLsn) * LOG_SECTOR_BYTES;
    if (unsynced >= FLIGHT_BYTES || endLsn === this.#sentLsn || this.#hooks.syncsAtOnce()) this.#syncSoon();
  }

  /** One at a time: it covers what was received before, and is followed by another where more has come. */
  #syncSoon(): void {
    if (this.#sync !== undefined || this.#stopped || this.#receivedLsn === this.#durableLsn) return;
    const lsn = this.#receivedLsn;
    this.#sync = this.#session.sync().then(
      () => {
        this.#sync = undefined;
        this.#durableLsn = Math.max(this.#durableLsn, lsn);
        this.#hooks.durable(this.#durableLsn);
        this.#syncSoon();
      },
      (error: unknown) => {
        this.#sync = undefined;
        this.#fail(error);
      },
    );
  }

  /** The answers may come in any order: that it is full explains the others. */
  #refused(error: unknown): void {
    if (this.#refusal === undefined || isFull(error)) this.#refusal = { error };
    this.poke();
  }

  #fail(error: unknown): void {
    if (this.#stopped) return;
    this.#stopped = true;
    this.poke();
    this.#hooks.failed(error);
  }

  /** Where it had no room, what was refused is sent again, from where its log ends now. */
  async #afterRefusal(first: unknown): Promise<void> {
    await Promise.all([...this.#appends]);
    const error = this.#refusal?.error ?? first;
    if (!isFull(error)) {
      this.#fail(error);
      return;
    }
    this.#isCaughtUp = false;
    this.#hooks.full(error.message);
    this.#syncSoon();
    await this.#pause(this.#retryMs);
    if (this.#stopped) return;
    this.#retryMs = Math.min(LAST_RETRY_MS, this.#retryMs * 2);
    const { endLsn } = await this.#session.state();
    // What it had durably it has, and what was not sent it cannot have.
    if (endLsn < this.#durableLsn || endLsn > this.#sentLsn)
      throw new EngineError(
        'unavailable',
        `the secondary says that its log ends at LSN ${endLsn}, which cannot be: it has it durably up to ${this.#durableLsn}, and was sent it up to ${this.#sentLsn}`,
      );
    this.#sentLsn = endLsn;
    this.#receivedLsn = endLsn;
    this.#refusal = undefined;
    this.#syncSoon();
  }

  /** Ends early when it is stopped. */
  async #pause(ms: number): Promise<void> {
    let over = false;
    const timer = this.#state.clock.after(ms, () => {
      over = true;
      this.poke();
    });
    while (!over && !this.#stopped)
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    timer.cancel();
  }
}

/** It has no room now. */
export function isFull(error: unknown): error is EngineError {
  return error instanceof EngineError && error.errno === 'ENOSPC';
}
