/** The requests of one client connection: those in flight, and those that wait for room. */
import { assert } from '../engine/errors.ts';
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_CACHE,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_TRIM,
  NBD_CMD_WRITE,
  NBD_CMD_WRITE_ZEROES,
  NBD_SUCCESS,
} from '../protocol/constants.ts';
import { ExpectedReply, type SentRequest } from '../protocol/expected-reply.ts';
import type { RepliesAwaited } from '../protocol/reply-parser.ts';
import { NbdClientError, NbdConnectionError } from './nbd-client-errors.ts';

/** Requests that may wait for room. A caller that has more than that outstanding has lost count. */
export const MAX_WAITING_REQUESTS = 65_536;

/** A request as it is to be sent. */
export interface Outgoing extends SentRequest {
  /** Of a write: `length` bytes. Null for all others. */
  readonly payload: Uint8Array | null;
}

export interface FlightLimits {
  readonly maxInFlight: number;
  readonly maxInFlightBytes: number;
  /** Puts a request on its way. */
  readonly send: (request: Outgoing, cookieHigh: number, cookieLow: number) => void;
}

interface Flight {
  readonly request: Outgoing;
  readonly reply: ExpectedReply;
  readonly resolve: (reply: ExpectedReply) => void;
  readonly reject: (error: Error) => void;
  /** The high half of its cookie, which no other request in this slot has had lately. */
  serial: number;
}

/**
 * A cookie is the number of a slot (low half) and a serial number (high half): the slot finds the request without a search, and the
 * serial number tells a second reply to the request before it in the same slot, which breaks the protocol, from a reply to this one.
 */
export class Flights implements RepliesAwaited {
  readonly #limits: FlightLimits;
  readonly #slots: (Flight | undefined)[] = [];
  readonly #freeSlots: number[] = [];
  readonly #waiting: Flight[] = [];
  readonly #idleWaiters: (() => void)[] = [];
  #serial = 0;
  #inFlight = 0;
  #inFlightBytes = 0;

  constructor(limits: FlightLimits) {
    assert(limits.maxInFlight >= 1, 'at least one request has to be let go');
    this.#limits = limits;
    for (let slot = limits.maxInFlight - 1; slot >= 0; slot--) {
      this.#slots.push(undefined);
      this.#freeSlots.push(slot);
    }
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  /** Sends the request, now or when there is room. Settles with its reply, or with why there is none. */
  add(request: Outgoing): Promise<ExpectedReply> {
    if (this.#waiting.length >= MAX_WAITING_REQUESTS) {
      const why = `more than ${MAX_WAITING_REQUESTS} requests wait to be sent`;
      return Promise.reject(new NbdConnectionError('overloaded', why));
    }
    return new Promise((resolve, reject) => {
      this.#waiting.push({ request, reply: new ExpectedReply(request), resolve, reject, serial: 0 });
      this.#sendWaiting();
    });
  }

  /** Resolves when nothing is in flight and nothing waits. */
  idle(): Promise<void> {
    if (this.#isIdle) return Promise.resolve();
    return new Promise((resolve) => {
      this.#idleWaiters.push(resolve);
    });
  }

  /** The connection is over. */
  rejectAll(error: Error): void {
    const outstanding = [...this.#slots.filter((flight) => flight !== undefined), ...this.#waiting];
    this.#slots.fill(undefined);
    this.#waiting.length = 0;
    this.#inFlight = 0;
    this.#inFlightBytes = 0;
    for (const flight of outstanding) flight.reject(error);
    this.#tellIdle();
  }

  find(cookieHigh: number, cookieLow: number): ExpectedReply | undefined {
    const flight = this.#slots[cookieLow];
    return flight?.serial === cookieHigh ? flight.reply : undefined;
  }

  finished(reply: ExpectedReply, _cookieHigh: number, cookieLow: number): void {
    const flight = this.#slots[cookieLow];
    assert(flight?.reply === reply, 'a reply finishes that was found');
    this.#slots[cookieLow] = undefined;
    this.#freeSlots.push(cookieLow);
    this.#inFlight--;
    this.#inFlightBytes -= payloadBytes(flight.request);
    if (reply.error === NBD_SUCCESS) flight.resolve(reply);
    else flight.reject(new NbdClientError(nameOf(flight.request), reply.error, reply.errorText));
    this.#sendWaiting();
    if (this.#isIdle) this.#tellIdle();
  }

  get #isIdle(): boolean {
    return this.#inFlight === 0 && this.#waiting.length === 0;
  }

  #sendWaiting(): void {
    for (;;) {
      const flight = this.#waiting[0];
      if (flight === undefined) return;
      const bytes = payloadBytes(flight.request);
      // One that is larger than the bound goes alone: it would wait for ever.
      if (this.#inFlight > 0 && this.#inFlightBytes + bytes > this.#limits.maxInFlightBytes) return;
      const slot = this.#freeSlots.pop();
      if (slot === undefined) return;
      this.#waiting.shift();
      this.#inFlight++;
      this.#inFlightBytes += bytes;
      this.#serial = (this.#serial + 1) >>> 0;
      flight.serial = this.#serial;
      this.#slots[slot] = flight;
      this.#limits.send(flight.request, flight.serial, slot);
    }
  }

  #tellIdle(): void {
    for (const resolve of this.#idleWaiters.splice(0)) resolve();
  }
}

function payloadBytes(request: Outgoing): number {
  return request.target?.length ?? request.payload?.length ?? 0;
}

const COMMAND_NAMES = new Map([
  [NBD_CMD_READ, 'read'],
  [NBD_CMD_WRITE, 'write'],
  [NBD_CMD_FLUSH, 'flush'],
  [NBD_CMD_TRIM, 'trim'],
  [NBD_CMD_CACHE, 'cache'],
  [NBD_CMD_WRITE_ZEROES, 'write zeroes'],
  [NBD_CMD_BLOCK_STATUS, 'block status'],
]);

function nameOf(request: Outgoing): string {
  const command = COMMAND_NAMES.get(request.type) ?? `command ${request.type}`;
  return request.type === NBD_CMD_FLUSH
    ? command
    : `${command} of ${request.length} bytes at ${request.offset}`;
}
