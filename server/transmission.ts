import {
  NBD_CMD_DISC,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_READ,
  NBD_CMD_WRITE,
  NBD_EINVAL,
  NBD_ESHUTDOWN,
  NBD_SUCCESS,
} from '../protocol/constants.ts';
import { ReplyEncoder, type ReplyMode } from '../protocol/reply.ts';
import { payloadIsTolerable, type TransmissionRules, validateRequest } from '../protocol/request.ts';
import { RequestParser } from '../protocol/request-parser.ts';
import type { NegotiatedSession } from '../protocol/session.ts';
import type { Counters } from './counters.ts';
import { Jobs } from './jobs.ts';
import { type LargeBuffers, largeCapacity } from './large-buffers.ts';
import { LARGE_REQUEST_BYTES, type ServerLimits, SHARE_OF_ONE } from './limits.ts';
import type { Logger } from './logger.ts';
import type { OpenedExport } from './opened-export.ts';
import type { PermitHolder, Permits } from './permits.ts';
import type { Receiver } from './receiver.ts';
import { Replies } from './replies.ts';
import { RequestService } from './request-service.ts';
import type { Sender } from './sender.ts';

/** What a transmission needs of the connection that it runs on. */
export interface TransmissionHost extends PermitHolder {
  readonly receiver: Receiver;
  readonly sender: Sender;
  readonly permits: Permits;
  readonly largeBuffers: LargeBuffers;
  readonly limits: ServerLimits;
  readonly counters: Counters;
  readonly logger: Logger;
  nowMs(): number;
  /** What the transmission waited for has happened: offer it the held bytes again. */
  goOn(): void;
  /** The client has said goodbye, or what was in flight has ended: close when all is sent. */
  finish(): void;
  /** The stream makes no sense any more. */
  fail(reason: string): void;
  /** The connection is gone, and now the last of its jobs has ended. */
  drained(): void;
  /** Permits have been granted: from now on, progress is expected. */
  granted(): void;
  /** Something happened that only a bug of ours can cause. */
  bug(error: unknown): void;
}

/**
 * The transmission phase of one connection: the way of a request from the bytes received to the device, and of its reply back.
 *
 * 1. `consume` reads a header in place, judges it, and waits for the whole payload.
 * 2. `RequestService` hands it to the device at once (`tryRead`, `tryWrite`: the page cache), and the reply is written into the batch.
 *    No promise, no closure and no object is made on this way.
 * 3. What cannot be done at once (a cold read, a flush, a trim, a large request) becomes a job, with memory of its own.
 *
 * `consume` takes no further request while the connection owes too much (see `#mustWait`); the connection is not read from
 * meanwhile, so that a client that does not take its replies stops itself and nobody else.
 */
export class Transmission {
  readonly served: OpenedExport;
  readonly rules: TransmissionRules;
  requests = 0;

  readonly #host: TransmissionHost;
  readonly #parser: RequestParser;
  readonly #replies: Replies;
  readonly #jobs: Jobs;
  readonly #service: RequestService;
  #waiting = false;
  #draining = false;
  #disconnecting = false;
  #closed = false;
  /** Permits that were asked for and have not come. */
  #askedBytes = 0;
  /** Permits that were waited for and are there now, for the request at the head of the held bytes. */
  #grantedBytes = 0;
  /** A large payload that is being received; permits are held for its length. */
  #diverted: Buffer | null = null;

  constructor(host: TransmissionHost, session: NegotiatedSession, served: OpenedExport) {
    this.#host = host;
    this.served = served;
    this.#parser = new RequestParser(session.extendedHeaders);
    const encoder = new ReplyEncoder(replyMode(session));
    this.#replies = new Replies(encoder, host.sender, host.counters, host.logger);
    this.#jobs = new Jobs(this.#replies, {
      ended: () => this.#jobEnded(),
      bug: (error) => host.bug(error),
    });
    const contexts = served.contextsOf(session.contexts);
    this.#service = new RequestService({
      device: served.device,
      parser: this.#parser,
      replies: this.#replies,
      jobs: this.#jobs,
      sender: host.sender,
      counters: host.counters,
      largeBuffers: host.largeBuffers,
      image: served.image,
      contexts,
    });
    this.rules = {
      sizeBytes: served.sizeBytes,
      transmissionFlags: session.transmissionFlags,
      minimumBlockBytes: served.minimumBlockBytes,
      maximumPayloadBytes: served.maximumPayloadBytes,
      extendedHeaders: session.extendedHeaders,
      contextCount: contexts.length,
    };
  }

  get bytesRead(): number {
    return this.#service.bytesRead;
  }

  get bytesWritten(): number {
    return this.#service.bytesWritten;
  }

  get inFlight(): number {
    return this.#jobs.count;
  }

  /** True when it takes no further request now: the connection must not be read from until `goOn`. */
  get waiting(): boolean {
    return this.#waiting;
  }

  get draining(): boolean {
    return this.#draining;
  }

  /** See `RequestService.settle`. */
  settle(): void {
    this.#service.settle();
  }

  /** Takes whole requests from `buffer[start, end)`; returns up to where it took them (see `Receiver`). */
  consume(buffer: Buffer, start: number, end: number): number {
    const parser = this.#parser;
    let at = start;
    this.#waiting = false;
    while (end - at >= parser.headerBytes && !this.#disconnecting && !this.#closed) {
      if (this.#mustWait()) break;
      if (!parser.read(buffer, at)) {
        this.#host.fail('a request that does not start with the magic number');
        return end;
      }
      const payloadAt = at + parser.headerBytes;
      const error = this.#judge();
      if (error !== NBD_SUCCESS) {
        at = this.#refuse(error, payloadAt, end);
      } else if (this.#isLarge()) {
        if (!this.#takePermits(this.#permitsFor(parser.length))) break;
        this.#count();
        at = payloadAt;
        const { length } = parser;
        if (parser.type === NBD_CMD_WRITE) at = this.#receiveLarge(buffer, payloadAt, end);
        else this.#service.readLarge(() => this.#release(this.#permitsFor(length)));
      } else if (parser.type === NBD_CMD_DISC) {
        this.#count();
        this.#disconnect();
      } else {
        if (end - payloadAt < parser.payloadBytes) break;
        this.#count();
        this.#service.serve(buffer, payloadAt);
        at = payloadAt + parser.payloadBytes;
      }
    }
    return this.#disconnecting || this.#closed ? end : at;
  }

  /** At shutdown: requests from now on get ESHUTDOWN, and the session ends once what is in flight is answered. */
  drain(): void {
    this.#draining = true;
    this.#finishWhenIdle();
  }

  /** The connection is gone. Jobs go on to their ends, and their replies are dropped. */
  close(): void {
    this.#closed = true;
    this.#jobs.close();
    this.#service.close();
    this.#host.permits.cancel(this.#host);
    const held = this.#grantedBytes + (this.#diverted === null ? 0 : this.#permitsFor(this.#diverted.length));
    this.#grantedBytes = 0;
    if (this.#diverted !== null) this.#host.largeBuffers.giveBack(this.#diverted);
    this.#diverted = null;
    if (held > 0) this.#host.permits.release(held, this.#host);
  }

  #judge(): number {
    const { type, flags, offset, offsetLow, length } = this.#parser;
    if (this.#draining && type !== NBD_CMD_DISC) return NBD_ESHUTDOWN;
    const error = validateRequest(type, flags, offset, length, this.rules);
    // An offset above 2^53 is rounded, perhaps to a multiple of the block; the low half says whether it was one.
    const isOdd = type !== NBD_CMD_DISC && offsetLow % this.rules.minimumBlockBytes !== 0;
    return error === NBD_SUCCESS && isOdd ? NBD_EINVAL : error;
  }

  #isLarge(): boolean {
    const { type, length } = this.#parser;
    return length > LARGE_REQUEST_BYTES && (type === NBD_CMD_READ || type === NBD_CMD_WRITE);
  }

  #count(): void {
    this.requests += 1;
    this.#host.counters.countRequest(this.#parser.type);
  }

  /** True when the connection owes so much that the next request has to wait. */
  #mustWait(): boolean {
    const { limits, sender } = this.#host;
    const owesBytes = this.#jobs.ownedBytes + sender.unsentBytes;
    if (this.#jobs.count < limits.maxRequestsInFlight && owesBytes <= limits.privateBytesPerConnection) {
      return false;
    }
    // What is gathered must leave, or nobody would ever wake us.
    sender.flush();
    this.#waiting = true;
    return true;
  }

  /** Answers a request that is not legal; its payload is thrown away. Returns where the next bytes are. */
  #refuse(error: number, payloadAt: number, end: number): number {
    const { payloadBytes } = this.#parser;
    if (!payloadIsTolerable(payloadBytes, this.rules)) {
      this.#host.fail(`a payload of ${payloadBytes} bytes`);
      return end;
    }
    this.#count();
    this.#replies.refusal(this.#parser, error);
    const here = Math.min(end - payloadAt, payloadBytes);
    this.#host.receiver.discard(payloadBytes - here);
    return payloadAt + here;
  }

  /**
   * A write above `LARGE_REQUEST_BYTES`, for which permits are held: its payload lands in a buffer of its own. Returns up to
   * where bytes were taken.
   */
  #receiveLarge(buffer: Buffer, payloadAt: number, end: number): number {
    const { offset, length, flags } = this.#parser;
    const to = this.#parser.replyTo();
    const payload = this.#host.largeBuffers.take(length);
    const here = buffer.copy(payload, 0, payloadAt, Math.min(end, payloadAt + length));
    this.#diverted = payload;
    const whole = (): void => {
      this.#diverted = null;
      const fua = (flags & NBD_CMD_FLAG_FUA) !== 0;
      this.#service.writeLarge(to, offset, payload, fua, () => {
        this.#host.largeBuffers.giveBack(payload);
        this.#release(this.#permitsFor(length));
      });
    };
    if (here === length) whole();
    else this.#host.receiver.divert(payload, here, whole);
    return payloadAt + here;
  }

  /** Permits for a large request: the memory that it takes. */
  #permitsFor(lengthBytes: number): number {
    const capacity = largeCapacity(lengthBytes + this.#replies.encoder.readHeaderBytes);
    return Math.min(capacity, this.#host.permits.totalBytes);
  }

  /** True when the permits for the request at hand are held. Otherwise `goOn` comes when there is a chance. */
  #takePermits(bytes: number): boolean {
    const { permits } = this.#host;
    if (this.#grantedBytes === bytes) {
      this.#grantedBytes = 0;
      return true;
    }
    const held = permits.heldBy(this.#host);
    // A connection waits for its own requests, and not in the queue, where it would be in the way of others.
    const mayAsk = held === 0 || held + bytes <= permits.totalBytes * SHARE_OF_ONE;
    if (this.#askedBytes === 0 && mayAsk && permits.tryAcquire(bytes, this.#host)) {
      if (held === 0) this.#host.granted();
      return true;
    }
    this.#host.sender.flush();
    this.#waiting = true;
    if (this.#askedBytes > 0 || !mayAsk) return false;
    this.#askedBytes = bytes;
    permits.acquire(bytes, this.#host, this.#host.nowMs(), () => {
      this.#askedBytes = 0;
      this.#grantedBytes = bytes;
      this.#host.granted();
      this.#host.goOn();
    });
    return false;
  }

  #release(bytes: number): void {
    this.#host.permits.release(bytes, this.#host);
  }

  #disconnect(): void {
    this.#disconnecting = true;
    this.#finishWhenIdle();
  }

  #jobEnded(): void {
    if (this.#closed) {
      if (this.#jobs.count === 0) this.#host.drained();
      return;
    }
    this.#host.sender.flushSoon();
    this.#finishWhenIdle();
    if (this.#waiting && !this.#mustWait()) this.#host.goOn();
  }

  #finishWhenIdle(): void {
    if ((this.#disconnecting || this.#draining) && this.#jobs.count === 0) this.#host.finish();
  }
}

function replyMode(session: NegotiatedSession): ReplyMode {
  if (session.extendedHeaders) return 'extended';
  return session.structuredReplies ? 'structured' : 'simple';
}
