import { EngineError, errnoOf } from '../engine/errors.ts';
import { NBD_EINVAL, NBD_ENOSPC, NBD_EOVERFLOW, NBD_EPERM, NBD_ESHUTDOWN } from '../protocol/constants.ts';
import { nbdErrorOf } from '../protocol/errors.ts';
import type { BlockStatusExtent, ReplyEncoder, ReplyTo } from '../protocol/reply.ts';
import type { Counters } from './counters.ts';
import type { Logger } from './logger.ts';
import type { Sender } from './sender.ts';

/** What a client is told about a request that is not legal, for each error that `validateRequest` answers with. */
const REFUSALS: ReadonlyMap<number, string> = new Map([
  [NBD_EPERM, 'the export is read-only'],
  [NBD_EINVAL, 'the command, its flags or its range are not valid for this export'],
  [NBD_ENOSPC, 'the range ends beyond the export'],
  [NBD_EOVERFLOW, 'the read is too large to be sent in one piece'],
  [NBD_ESHUTDOWN, 'the server is shutting down'],
]);

/** What a metadata context says of the range of a request, from its start. */
export interface ContextExtents {
  readonly contextId: number;
  readonly extents: readonly BlockStatusExtent[];
}

/** Writes the replies of one session into the batch of its sender. */
export class Replies {
  readonly encoder: ReplyEncoder;
  readonly #sender: Sender;
  readonly #counters: Counters;
  readonly #logger: Logger;

  constructor(encoder: ReplyEncoder, sender: Sender, counters: Counters, logger: Logger) {
    this.encoder = encoder;
    this.#sender = sender;
    this.#counters = counters;
    this.#logger = logger;
  }

  /** Success, with nothing to tell. */
  done(to: ReplyTo): void {
    const out = this.#sender.room(this.encoder.maximumShortReplyBytes);
    this.#sender.advance(this.encoder.writeDone(out, this.#sender.used, to));
  }

  /** A reply that was put together elsewhere: it is copied. */
  copied(reply: Buffer): void {
    const out = this.#sender.room(reply.length);
    this.#sender.advance(this.#sender.used + reply.copy(out, this.#sender.used));
  }

  /** A chunk a context. */
  blockStatus(to: ReplyTo, answers: readonly ContextExtents[]): void {
    for (const [index, { contextId, extents }] of answers.entries()) {
      const out = this.#sender.room(this.encoder.blockStatusBytes(extents.length));
      const last = index === answers.length - 1;
      const end = this.encoder.writeBlockStatus(out, this.#sender.used, to, contextId, extents, last);
      this.#sender.advance(end);
    }
  }

  /** A request that is not legal, or comes too late. */
  refusal(to: ReplyTo, error: number): void {
    this.#error(to, error, REFUSALS.get(error) ?? 'the request is not valid');
  }

  /** A request that was legal and failed. */
  failure(to: ReplyTo, error: unknown): void {
    if (error instanceof EngineError) {
      // A refused FAST_ZERO is an answer, not a failure.
      const level = error.errno === 'ENOTSUP' ? 'debug' : 'warn';
      this.#logger[level]({ reason: error.message }, 'a request failed');
      this.#error(to, nbdErrorOf(errnoOf(error)), error.message);
    } else {
      this.#logger.error({ err: error }, 'a request met a bug');
      this.#error(to, nbdErrorOf('EIO'), 'internal error');
    }
  }

  #error(to: ReplyTo, error: number, text: string): void {
    this.#counters.errors += 1;
    const out = this.#sender.room(this.encoder.maximumShortReplyBytes);
    this.#sender.advance(this.encoder.writeError(out, this.#sender.used, to, error, text));
  }
}
