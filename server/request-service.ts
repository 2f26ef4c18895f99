import type { Volume } from '../engine/volume.ts';
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_CACHE,
  NBD_CMD_FLAG_FAST_ZERO,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_NO_HOLE,
  NBD_CMD_FLAG_REQ_ONE,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_TRIM,
  NBD_CMD_WRITE,
  NBD_CMD_WRITE_ZEROES,
  NBD_STATE_HOLE,
  NBD_STATE_ZERO,
} from '../protocol/constants.ts';
import type { BlockStatusExtent, ReplyTo } from '../protocol/reply.ts';
import type { RequestParser } from '../protocol/request-parser.ts';
import type { MetaContext } from '../protocol/session.ts';
import type { Counters } from './counters.ts';
import type { Jobs } from './jobs.ts';
import type { LargeBuffers } from './large-buffers.ts';
import { BLOCK_STATUS_BYTES, MAX_EXTENTS_PER_REPLY } from './limits.ts';
import type { Replies } from './replies.ts';
import type { Sender } from './sender.ts';

/** What the service of a session works with; all of it belongs to the session's `Transmission`. */
export interface ServiceParts {
  readonly volume: Volume;
  readonly parser: RequestParser;
  readonly replies: Replies;
  readonly jobs: Jobs;
  readonly sender: Sender;
  readonly counters: Counters;
  readonly largeBuffers: LargeBuffers;
  /** The contexts that the client selected and that we can tell. */
  readonly contexts: readonly MetaContext[];
}

/**
 * Carries out the legal requests of one session: hands each to the volume, at once where the page cache allows, else as a job.
 * The request at hand is the one that the parser read last; a job keeps what it needs of it.
 */
export class RequestService {
  bytesRead = 0;
  bytesWritten = 0;
  readonly #parts: ServiceParts;
  readonly #volume: Volume;
  readonly #done: (to: ReplyTo) => void;

  constructor(parts: ServiceParts) {
    this.#parts = parts;
    this.#volume = parts.volume;
    this.#done = (to) => parts.replies.done(to);
  }

  /** Serves the request at hand; the payload of a write is at `buffer[payloadAt]`, and the caller's again on return. */
  serve(buffer: Buffer, payloadAt: number): void {
    const { parser } = this.#parts;
    const { offset, length, flags } = parser;
    const fua = (flags & NBD_CMD_FLAG_FUA) !== 0;
    switch (parser.type) {
      case NBD_CMD_READ:
        this.#read(offset, length);
        return;
      case NBD_CMD_WRITE:
        this.#write(buffer, payloadAt, offset, length, fua);
        return;
      case NBD_CMD_FLUSH:
        this.#job(0, this.#volume.flush());
        return;
      case NBD_CMD_TRIM:
        this.#job(0, this.#thenFlush(this.#volume.trim(offset, length), fua));
        return;
      case NBD_CMD_WRITE_ZEROES: {
        const how = {
          mayPunch: (flags & NBD_CMD_FLAG_NO_HOLE) === 0,
          fast: (flags & NBD_CMD_FLAG_FAST_ZERO) !== 0,
        };
        this.#job(0, this.#thenFlush(this.#volume.writeZeroes(offset, length, how), fua));
        return;
      }
      case NBD_CMD_CACHE:
        this.#job(0, this.#volume.prefetch(offset, length));
        return;
      case NBD_CMD_BLOCK_STATUS:
        this.#blockStatus(offset, length, (flags & NBD_CMD_FLAG_REQ_ONE) !== 0);
        return;
    }
  }

  #read(offset: number, length: number): void {
    const { parser, replies, sender, counters } = this.#parts;
    if (length === 0) {
      replies.done(parser);
      return;
    }
    const headerBytes = replies.encoder.readHeaderBytes;
    const out = sender.room(headerBytes + length);
    const at = sender.used;
    try {
      if (this.#volume.tryRead(out, at + headerBytes, length, offset)) {
        replies.encoder.writeReadHeader(out, at, parser, length);
        sender.advance(at + headerBytes + length);
        this.bytesRead += length;
        counters.bytesRead += length;
        return;
      }
    } catch (error) {
      replies.failure(parser, error);
      return;
    }
    counters.waited += 1;
    const reply = Buffer.allocUnsafe(headerBytes + length);
    this.#job(reply.length, this.#volume.read(reply, headerBytes, length, offset), (to) => {
      replies.encoder.writeReadHeader(reply, 0, to, length);
      replies.copied(reply);
      this.bytesRead += length;
      counters.bytesRead += length;
    });
  }

  #write(buffer: Buffer, payloadAt: number, offset: number, length: number, fua: boolean): void {
    const { parser, replies, counters } = this.#parts;
    if (length === 0) {
      replies.done(parser);
      return;
    }
    this.bytesWritten += length;
    counters.bytesWritten += length;
    try {
      if (this.#volume.tryWrite(buffer, payloadAt, length, offset)) {
        if (fua) this.#job(0, this.#volume.flush());
        else replies.done(parser);
        return;
      }
    } catch (error) {
      replies.failure(parser, error);
      return;
    }
    counters.waited += 1;
    // The payload lies in memory that the next read reuses: the job gets a copy.
    const payload = Buffer.allocUnsafe(length);
    buffer.copy(payload, 0, payloadAt, payloadAt + length);
    this.#job(length, this.#thenFlush(this.#volume.write(payload, 0, length, offset), fua));
  }

  /** A read too large for a batch. `release` is called when its memory is free again. */
  readLarge(release: () => void): void {
    const { parser, replies, sender, counters } = this.#parts;
    const { offset, length } = parser;
    const headerBytes = replies.encoder.readHeaderBytes;
    const reply = this.#parts.largeBuffers.take(headerBytes + length);
    const free = (): void => {
      this.#parts.largeBuffers.giveBack(reply);
      release();
    };
    const answer = (to: ReplyTo): void => {
      replies.encoder.writeReadHeader(reply, 0, to, length);
      sender.sendOwned(reply, free);
      this.bytesRead += length;
      counters.bytesRead += length;
    };
    this.#job(0, this.#volume.read(reply, headerBytes, length, offset), answer, free);
  }

  /** A write whose payload has a buffer of its own, and has come whole. `release` is called when that buffer is free again. */
  writeLarge(to: ReplyTo, offset: number, payload: Buffer, fua: boolean, release: () => void): void {
    const { jobs, counters } = this.#parts;
    this.bytesWritten += payload.length;
    counters.bytesWritten += payload.length;
    const written = this.#thenFlush(this.#volume.write(payload, 0, payload.length, offset), fua);
    jobs.start(to, 0, written.finally(release), this.#done);
  }

  #blockStatus(offset: number, length: number, one: boolean): void {
    let extents: BlockStatusExtent[] = [];
    const found = this.#volume.allocation(offset, length, one ? 1 : MAX_EXTENTS_PER_REPLY).then((runs) => {
      extents = runs.map((run) => ({
        lengthBytes: run.lengthBytes,
        flags: (run.hole ? NBD_STATE_HOLE : 0) | (run.zero ? NBD_STATE_ZERO : 0),
      }));
    });
    const { replies, contexts } = this.#parts;
    this.#job(one ? 0 : BLOCK_STATUS_BYTES, found, (to) => replies.blockStatus(to, contexts, extents));
  }

  async #thenFlush(work: Promise<void>, fua: boolean): Promise<void> {
    await work;
    if (fua) await this.#volume.flush();
  }

  /** Makes a job of the request at hand. */
  #job(
    ownedBytes: number,
    work: Promise<void>,
    succeeded: (to: ReplyTo) => void = this.#done,
    dropped?: () => void,
  ): void {
    this.#parts.jobs.start(this.#parts.parser.replyTo(), ownedBytes, work, succeeded, dropped);
  }
}
