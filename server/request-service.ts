import type { BlockDevice } from '../engine/block-device.ts';
import { assert } from '../engine/errors.ts';
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
import { changedExtents, type ImageOfGroup, type SelectedContext } from './contexts.ts';
import type { Counters } from './counters.ts';
import { HeldReplies } from './held-replies.ts';
import type { Jobs } from './jobs.ts';
import type { LargeBuffers } from './large-buffers.ts';
import { BLOCK_STATUS_BYTES, MAX_EXTENTS_PER_REPLY, MAX_REGIONS_PER_REPLY } from './limits.ts';
import type { ContextExtents, Replies } from './replies.ts';
import type { Sender } from './sender.ts';

/** What the service of a session works with; all of it belongs to the session's `Transmission`. */
export interface ServiceParts {
  readonly device: BlockDevice;
  readonly parser: RequestParser;
  readonly replies: Replies;
  readonly jobs: Jobs;
  readonly sender: Sender;
  readonly counters: Counters;
  readonly largeBuffers: LargeBuffers;
  readonly image: ImageOfGroup | undefined;
  /** The contexts that the client selected and that we can tell. */
  readonly contexts: readonly SelectedContext[];
}

/**
 * Carries out the legal requests of one session: hands each to its device, at once where the page cache allows, else as a job.
 * The request at hand is the one that the parser read last; a job keeps what it needs of it.
 */
export class RequestService {
  bytesRead = 0;
  bytesWritten = 0;
  /** A write was taken at once, and `settle` was not called since: its acknowledgement must not leave. */
  #unsettled = false;
  readonly #parts: ServiceParts;
  readonly #device: BlockDevice;
  readonly #done: (to: ReplyTo) => void;
  readonly #held = new HeldReplies();

  constructor(parts: ServiceParts) {
    this.#parts = parts;
    this.#device = parts.device;
    this.#done = (to) => parts.replies.done(to);
  }

  /** To be called before acknowledgements leave. Throws when writes that were taken cannot be kept: none of them may be acknowledged. */
  settle(): void {
    if (!this.#unsettled) return;
    this.#device.settle();
    this.#unsettled = false;
  }

  /** The session is over: no acknowledgement is waited for any more. */
  close(): void {
    this.#held.close();
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
        this.#job(0, this.#acknowledged(this.#device.flush()));
        return;
      case NBD_CMD_TRIM:
        this.#job(0, this.#thenFlush(this.#device.trim(offset, length), fua));
        return;
      case NBD_CMD_WRITE_ZEROES: {
        const how = {
          mayPunch: (flags & NBD_CMD_FLAG_NO_HOLE) === 0,
          fast: (flags & NBD_CMD_FLAG_FAST_ZERO) !== 0,
        };
        this.#job(0, this.#thenFlush(this.#device.writeZeroes(offset, length, how), fua));
        return;
      }
      case NBD_CMD_CACHE:
        this.#job(0, this.#device.prefetch(offset, length));
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
      if (this.#device.tryRead(out, at + headerBytes, length, offset)) {
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
    this.#job(reply.length, this.#device.read(reply, headerBytes, length, offset), (to) => {
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
      if (this.#device.tryWrite(buffer, payloadAt, length, offset)) {
        this.#unsettled = true;
        if (fua) this.#job(0, this.#acknowledged(this.#settledFlush()));
        else if (this.#device.holdsReplies) this.#job(0, this.#held.wait(this.#device.acknowledged()));
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
    this.#job(length, this.#thenFlush(this.#device.write(payload, 0, length, offset), fua));
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
    this.#job(0, this.#device.read(reply, headerBytes, length, offset), answer, free);
  }

  /** A write whose payload has a buffer of its own, and has come whole. `release` is called when that buffer is free again. */
  writeLarge(to: ReplyTo, offset: number, payload: Buffer, fua: boolean, release: () => void): void {
    const { jobs, counters } = this.#parts;
    this.bytesWritten += payload.length;
    counters.bytesWritten += payload.length;
    // Its memory is others' as soon as the device has it, however long the acknowledgement is held.
    const written = this.#device.write(payload, 0, payload.length, offset).finally(release);
    jobs.start(to, 0, this.#thenFlush(written, fua), this.#done);
  }

  #blockStatus(offset: number, length: number, one: boolean): void {
    let answers: ContextExtents[] = [];
    const found = this.#extentsOfAll(offset, length, one).then((all) => {
      answers = all;
    });
    this.#job(one ? 0 : BLOCK_STATUS_BYTES, found, (to) => this.#parts.replies.blockStatus(to, answers));
  }

  /** The extents of each context; each begins at the offset and ends where it likes. Of one that cannot be told, all are refused. */
  async #extentsOfAll(offset: number, length: number, one: boolean): Promise<ContextExtents[]> {
    const { contexts } = this.#parts;
    const maxExtents = one ? 1 : Math.max(1, Math.floor(MAX_EXTENTS_PER_REPLY / contexts.length));
    const answers: ContextExtents[] = [];
    for (const context of contexts) {
      const extents = await this.#extentsOf(context, offset, length, maxExtents);
      answers.push({ contextId: context.id, extents });
    }
    return answers;
  }

  async #extentsOf(
    context: SelectedContext,
    offset: number,
    length: number,
    maxExtents: number,
  ): Promise<readonly BlockStatusExtent[]> {
    if (context.kind === 'allocation') return await this.#allocation(offset, length, maxExtents);
    if (context.kind === 'told') return context.extents(offset, length, maxExtents);
    const { image, contexts } = this.#parts;
    assert(image !== undefined, 'only images have changes');
    return changedExtents(image, context.since, {
      offsetBytes: offset,
      lengthBytes: length,
      regionBytes: this.#device.regionBytes,
      maxExtents,
      maxRegions: Math.ceil(MAX_REGIONS_PER_REPLY / contexts.length),
    });
  }

  async #allocation(offset: number, length: number, maxExtents: number): Promise<BlockStatusExtent[]> {
    const runs = await this.#device.allocation(offset, length, maxExtents);
    return runs.map((run) => ({
      lengthBytes: run.lengthBytes,
      flags: (run.hole ? NBD_STATE_HOLE : 0) | (run.zero ? NBD_STATE_ZERO : 0),
    }));
  }

  /** A flush covers what was acknowledged; the write that it is to cover here is not, so it is settled first. */
  async #settledFlush(): Promise<void> {
    this.settle();
    await this.#device.flush();
  }

  async #thenFlush(work: Promise<void>, fua: boolean): Promise<void> {
    await work;
    await this.#acknowledged(fua ? this.#device.flush() : undefined);
  }

  /** After the work, as long as links hold it. Others' requests, and reads of this session, go on meanwhile. */
  async #acknowledged(work: Promise<void> | undefined): Promise<void> {
    await work;
    if (this.#device.holdsReplies) await this.#held.wait(this.#device.acknowledged());
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
