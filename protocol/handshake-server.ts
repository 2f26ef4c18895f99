/**
 * The server's side of the fixed newstyle handshake ("Handshake"), as a machine without a socket.
 *
 *   greeting() ──▶ client flags ──▶ option header ──▶ option data ──▶ answer ──▶ option header …
 *                       │                │                              │
 *                       ▼                ▼                              ├──▶ transmission   GO, EXPORT_NAME
 *                     close            close                            └──▶ close          ABORT, EXPORT_NAME, a limit
 *
 * Two invariants: exactly the declared length of an option is consumed before the next header is looked for, whatever the data says;
 * and everything a client can make us hold, send or repeat is bounded in limits.ts.
 */
import {
  IHAVEOPT_MAGIC,
  NBD_FLAG_C_FIXED_NEWSTYLE,
  NBD_FLAG_C_NO_ZEROES,
  NBD_FLAG_FIXED_NEWSTYLE,
  NBD_FLAG_NO_ZEROES,
  NBD_MAGIC,
  NBD_OPT_ABORT,
  NBD_OPT_EXPORT_NAME,
  NBD_REP_ERR_SHUTDOWN,
} from './constants.ts';
import { type CourseOutcome, HandshakeCourse } from './handshake-course.ts';
import {
  clientFlagsLayout,
  EXPORT_NAME_ZEROES_BYTES,
  encoded,
  exportNameReplyLayout,
  greetingLayout,
  optionHeaderLayout,
} from './layouts.ts';
import {
  MAX_HANDSHAKE_OUTPUT_BYTES,
  MAX_OPTION_DATA_BYTES,
  MAX_OPTIONS_PER_HANDSHAKE,
  MAX_SKIPPED_OPTION_BYTES,
} from './limits.ts';
import { OPTIONS_WITH_DATA, OptionAnswers } from './option-answers.ts';
import { encodeAck, encodeErrorReply } from './option-reply.ts';
import type { ExportDirectory } from './session.ts';

export type { ExportDirectory, ExportInfo, MetaContext, NegotiatedSession } from './session.ts';

/** Send the output, then close. The reason is for the log. */
interface Close {
  readonly kind: 'close';
  readonly reason: string;
}

export type HandshakeOutcome = CourseOutcome<Close>;

const HANDSHAKE_FLAGS = NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES;
const KNOWN_CLIENT_FLAGS = NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES;

export class HandshakeServer {
  readonly #answers: OptionAnswers;
  readonly #course = new HandshakeCourse<Close>((message) => this.#step(message));
  #awaited: 'client-flags' | 'option-header' | 'option-data' = 'client-flags';
  #clientFlags = 0;
  /** The option whose data is awaited or being answered. */
  #option = 0;
  #lengthBytes = 0;
  #optionsSeen = 0;
  #skippedBytes = 0;
  #shuttingDown = false;

  constructor(directory: ExportDirectory) {
    this.#answers = new OptionAnswers(directory);
    this.#course.expect(clientFlagsLayout.span);
  }

  /** The first bytes on the connection: the server speaks first. */
  greeting(): Buffer {
    return encoded(greetingLayout, {
      magic: NBD_MAGIC,
      optionMagic: IHAVEOPT_MAGIC,
      handshakeFlags: HANDSHAKE_FLAGS,
    });
  }

  /**
   * From now on every option but ABORT is refused: a server that is shutting down "SHOULD error further options received (other than an
   * NBD_OPT_ABORT) with NBD_REP_ERR_SHUTDOWN".
   */
  beginShutdown(): void {
    this.#shuttingDown = true;
  }

  /**
   * Takes bytes of the client, cut anywhere; the caller may use the buffer again at once. The output (which the caller then owns) is to
   * be sent whatever the outcome, and before more is received: so its size, at most `MAX_HANDSHAKE_OUTPUT_BYTES` and one answer, bounds
   * what a client can make us hold. Not to be called again after an outcome other than `more`.
   */
  receive(bytes: Uint8Array): { output: Buffer; outcome: HandshakeOutcome } {
    return this.#course.receive(bytes);
  }

  #step(message: Buffer): void {
    this.#take(message);
    // "The client MUST NOT send any option until it has received a final reply to any option it has sent." A few are forgiven.
    if (!this.#course.isOver && this.#course.outputBytes > MAX_HANDSHAKE_OUTPUT_BYTES) {
      this.#close('options came without waiting for the replies');
    }
  }

  #take(message: Buffer): void {
    switch (this.#awaited) {
      case 'client-flags':
        this.#takeClientFlags(clientFlagsLayout.decode(message).clientFlags);
        return;
      case 'option-header':
        this.#takeOptionHeader(message);
        return;
      case 'option-data':
        this.#takeOption(message);
        return;
      default:
        this.#awaited satisfies never;
    }
  }

  #takeClientFlags(clientFlags: number): void {
    // "The server MUST drop the TCP connection if the client sets an unknown flag."
    if ((clientFlags & ~KNOWN_CLIENT_FLAGS) !== 0) {
      this.#close(`unknown client flags 0x${clientFlags.toString(16)}`);
      return;
    }
    this.#clientFlags = clientFlags;
    this.#awaitOption();
  }

  #awaitOption(): void {
    this.#awaited = 'option-header';
    this.#course.expect(optionHeaderLayout.span);
  }

  #takeOptionHeader(message: Buffer): void {
    const { magic, option, lengthBytes } = optionHeaderLayout.decode(message);
    if (magic !== IHAVEOPT_MAGIC) {
      this.#close('what should be an option does not begin with the magic of one');
      return;
    }
    this.#optionsSeen += 1;
    if (this.#optionsSeen > MAX_OPTIONS_PER_HANDSHAKE) {
      this.#close(`more than ${MAX_OPTIONS_PER_HANDSHAKE} options`);
      return;
    }
    // "This is the only valid option in nonfixed newstyle negotiation": such a client would not understand an error reply.
    if (option !== NBD_OPT_EXPORT_NAME && (this.#clientFlags & NBD_FLAG_C_FIXED_NEWSTYLE) === 0) {
      this.#close(`option ${option} from a client that does not speak fixed newstyle`);
      return;
    }
    this.#option = option;
    this.#lengthBytes = lengthBytes;
    this.#awaitData();
  }

  #awaitData(): void {
    this.#awaited = 'option-data';
    const tooLong = this.#lengthBytes > MAX_OPTION_DATA_BYTES;
    if (OPTIONS_WITH_DATA.has(this.#option) && !tooLong) {
      this.#course.expect(this.#lengthBytes);
      return;
    }
    this.#skippedBytes += this.#lengthBytes;
    // An over-long EXPORT_NAME can only be answered by closing, so its data is not worth waiting for.
    if (this.#skippedBytes > MAX_SKIPPED_OPTION_BYTES || this.#option === NBD_OPT_EXPORT_NAME) {
      this.#close(`option ${this.#option} announces ${this.#lengthBytes} bytes of data`);
      return;
    }
    this.#course.discard(this.#lengthBytes);
  }

  /** Answers an option whose data has come to its end. `data` is empty when it was dropped. */
  #takeOption(data: Buffer): void {
    this.#awaitOption();
    if (this.#option === NBD_OPT_ABORT) {
      // "A server SHOULD ignore any data sent by the client rather than rejecting the request as invalid."
      this.#course.send(encodeAck(this.#option));
      this.#close('the client aborted the handshake');
    } else if (this.#option === NBD_OPT_EXPORT_NAME) {
      this.#takeExportName(data);
    } else if (this.#shuttingDown) {
      this.#course.send(encodeErrorReply(this.#option, NBD_REP_ERR_SHUTDOWN, 'this server is shutting down'));
    } else {
      const { replies, session } = this.#answers.answer(this.#option, this.#lengthBytes, data);
      for (const reply of replies) this.#course.send(reply);
      if (session !== undefined) this.#course.agree(session);
    }
  }

  /** "If the server is unwilling to allow the export, it MUST terminate the session." */
  #takeExportName(data: Buffer): void {
    if (this.#shuttingDown) {
      this.#close('EXPORT_NAME while shutting down');
      return;
    }
    const opened = this.#answers.openByName(data);
    if (!opened.ok) {
      this.#close(`EXPORT_NAME refused: ${opened.reason}`);
      return;
    }
    const session = opened.value;
    const sizeBytes = BigInt(session.export.sizeBytes);
    this.#course.send(
      encoded(exportNameReplyLayout, { sizeBytes, transmissionFlags: session.transmissionFlags }),
    );
    if ((this.#clientFlags & NBD_FLAG_C_NO_ZEROES) === 0)
      this.#course.send(Buffer.alloc(EXPORT_NAME_ZEROES_BYTES));
    this.#course.agree(session);
  }

  #close(reason: string): void {
    this.#course.end({ kind: 'close', reason });
  }
}
