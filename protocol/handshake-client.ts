/**
 * The client's side of the fixed newstyle handshake ("Handshake", "Option types"), as a machine without a socket.
 *
 *   greeting ─▶ [EXTENDED_HEADERS] ─▶ [STRUCTURED_REPLY] ─▶ [SET_META_CONTEXT] ─▶ GO ─▶ transmission
 *                                                                                 └─ unknown there ─▶ EXPORT_NAME ─▶ transmission
 *   greeting ─▶ [… as above, LIST_META_CONTEXT] ─▶ INFO ─▶ ABORT, info
 *   greeting ─▶ LIST ─▶ ABORT, list
 *
 * With a challenge, a LIST_META_CONTEXT goes before all that names the export: what the server says there decides by which name it is asked for.
 *
 * Extended headers, structured replies and contexts are wishes: a server that refuses them is used without. One option is on its way at a
 * time, as the specification demands, and everything a server can make us hold is bounded in limits.ts.
 */
import { assert } from './assert.ts';
import {
  IHAVEOPT_MAGIC,
  NBD_FLAG_C_FIXED_NEWSTYLE,
  NBD_FLAG_C_NO_ZEROES,
  NBD_FLAG_FIXED_NEWSTYLE,
  NBD_FLAG_NO_ZEROES,
  NBD_INFO_BLOCK_SIZE,
  NBD_INFO_DESCRIPTION,
  NBD_INFO_NAME,
  NBD_MAGIC,
  NBD_OPT_ABORT,
  NBD_OPT_EXPORT_NAME,
  NBD_OPT_EXTENDED_HEADERS,
  NBD_OPT_GO,
  NBD_OPT_INFO,
  NBD_OPT_LIST,
  NBD_OPT_LIST_META_CONTEXT,
  NBD_OPT_SET_META_CONTEXT,
  NBD_OPT_STRUCTURED_REPLY,
  NBD_REP_ACK,
  NBD_REP_ERR_SHUTDOWN,
  NBD_REP_ERR_TLS_REQD,
  NBD_REP_ERR_UNSUP,
  NBD_REP_FLAG_ERROR,
  NBD_REP_INFO,
  NBD_REP_META_CONTEXT,
  NBD_REP_SERVER,
  OPTION_REPLY_MAGIC,
} from './constants.ts';
import { replyErrorName } from './errors.ts';
import { Findings } from './findings.ts';
import { type CourseOutcome, HandshakeCourse } from './handshake-course.ts';
import {
  clientFlagsLayout,
  EXPORT_NAME_ZEROES_BYTES,
  encoded,
  exportNameReplyLayout,
  greetingLayout,
  optionReplyHeaderLayout,
} from './layouts.ts';
import { MAX_OPTION_REPLIES_BYTES, MAX_OPTION_REPLY_BYTES } from './limits.ts';
import { encodeMetaContextRequest } from './meta-context.ts';
import type { ListedExport } from './option-reply.ts';
import { encodeInfoRequest, encodeOption } from './options.ts';
import type { ExportInfo } from './session.ts';
import { displayText, encodeString, quoted } from './text.ts';

export interface HandshakeClientOptions {
  /** The empty name asks for the default export. Not used by `list`. At most 4096 bytes of UTF-8. */
  readonly exportName: string;
  readonly wants: {
    readonly structuredReplies: boolean;
    readonly extendedHeaders: boolean;
    /** Queries: full names; with `info` also wildcards such as `base:`. Structured replies are asked for when there are any. */
    readonly contexts: readonly string[];
  };
  /** `export-name` is how clients before GO did it; `go` turns to it by itself when the server does not know GO. */
  readonly mode: 'go' | 'info' | 'list' | 'export-name';
  readonly challenge?: Challenge | undefined;
  /**
   * The power of two that every offset and the size of the export are multiples of, in bytes; 1 unless told. A safe integer of such units is an exact double in bytes,
   * so that an export may be so many times larger than 2^53 bytes.
   */
  readonly offsetUnitBytes?: number | undefined;
}

/** An export that is opened by a name which only the server's answer on this connection makes known. */
export interface Challenge {
  /** Asked of `exportName` by LIST_META_CONTEXT. */
  readonly query: string;
  /** The name to open, from the contexts that the server listed; undefined when they make no sense. */
  readonly answer: (contexts: readonly string[]) => string | undefined;
}

/** Ends but the transmission phase. Send the output, then close. */
type OtherEnd =
  | { readonly kind: 'info'; readonly export: ExportInfo }
  | { readonly kind: 'list'; readonly exports: readonly ListedExport[] }
  /** `code`: the error type of the reply (`NBD_REP_ERR_*`) when the server refused in proper form. */
  | { readonly kind: 'failed'; readonly reason: string; readonly code?: number };

export type HandshakeClientOutcome = CourseOutcome<OtherEnd>;

/** Errors that end the attempt whichever option they answer: nothing asked next would fare better. */
const FINAL_ERRORS: ReadonlySet<number> = new Set([NBD_REP_ERR_SHUTDOWN, NBD_REP_ERR_TLS_REQD]);

const OPTION_NAMES = new Map([
  [NBD_OPT_EXPORT_NAME, 'EXPORT_NAME'],
  [NBD_OPT_LIST, 'LIST'],
  [NBD_OPT_INFO, 'INFO'],
  [NBD_OPT_GO, 'GO'],
  [NBD_OPT_STRUCTURED_REPLY, 'STRUCTURED_REPLY'],
  [NBD_OPT_LIST_META_CONTEXT, 'LIST_META_CONTEXT'],
  [NBD_OPT_SET_META_CONTEXT, 'SET_META_CONTEXT'],
  [NBD_OPT_EXTENDED_HEADERS, 'EXTENDED_HEADERS'],
]);

export class HandshakeClient {
  readonly #options: HandshakeClientOptions;
  readonly #course = new HandshakeCourse<OtherEnd>((message) => this.#step(message));
  #awaited: 'greeting' | 'reply-header' | 'reply-data' | 'export-name-reply' = 'greeting';
  #fixedNewstyle = false;
  #noZeroes = false;
  /** The option on its way. */
  #option = 0;
  #replyType = 0;
  #repliesBytes = 0;
  readonly #findings: Findings;
  #exportName: string;
  /** The challenge has still to be asked for, or its answer to come. */
  #challenge: Challenge | undefined;

  constructor(options: HandshakeClientOptions) {
    encodeString(options.exportName);
    for (const query of options.wants.contexts) encodeString(query);
    this.#options = options;
    this.#exportName = options.exportName;
    this.#challenge = options.challenge;
    this.#findings = new Findings(options.exportName, options.offsetUnitBytes ?? 1);
    this.#course.expect(greetingLayout.span);
  }

  /**
   * Takes bytes of the server, cut anywhere; the caller may use the buffer again at once. The output is to be sent whatever the outcome.
   * Not to be called again after an outcome other than `more`.
   */
  receive(bytes: Uint8Array): { output: Buffer; outcome: HandshakeClientOutcome } {
    return this.#course.receive(bytes);
  }

  /** What it means that the server closed the connection now, while more was awaited. */
  serverClosed(): { readonly kind: 'failed'; readonly reason: string } {
    assert(!this.#course.isOver, 'the end of a handshake that is over');
    if (this.#awaited === 'greeting')
      return { kind: 'failed', reason: 'the server closed before it greeted' };
    if (this.#awaited === 'export-name-reply') {
      // The only answer that a server has to an EXPORT_NAME it refuses.
      return { kind: 'failed', reason: `the server refuses the export ${quoted(this.#exportName)}` };
    }
    return { kind: 'failed', reason: `the server closed when asked for ${this.#optionName()}` };
  }

  #step(message: Buffer): void {
    switch (this.#awaited) {
      case 'greeting':
        this.#takeGreeting(message);
        return;
      case 'reply-header':
        this.#takeReplyHeader(message);
        return;
      case 'reply-data':
        this.#takeReply(message);
        return;
      case 'export-name-reply':
        this.#takeExportNameReply(message);
        return;
      default:
        this.#awaited satisfies never;
    }
  }

  #takeGreeting(message: Buffer): void {
    const { magic, optionMagic, handshakeFlags } = greetingLayout.decode(message);
    if (magic !== NBD_MAGIC) {
      this.#violation('it does not greet as an NBD server');
      return;
    }
    if (optionMagic !== IHAVEOPT_MAGIC) {
      this.#violation('it speaks an older protocol than newstyle');
      return;
    }
    // "The client SHOULD ignore any handshake flags it does not recognize."
    this.#fixedNewstyle = (handshakeFlags & NBD_FLAG_FIXED_NEWSTYLE) !== 0;
    this.#noZeroes = (handshakeFlags & NBD_FLAG_NO_ZEROES) !== 0;
    const clientFlags =
      (this.#fixedNewstyle ? NBD_FLAG_C_FIXED_NEWSTYLE : 0) | (this.#noZeroes ? NBD_FLAG_C_NO_ZEROES : 0);
    this.#course.send(encoded(clientFlagsLayout, { clientFlags }));
    this.#begin();
  }

  #begin(): void {
    const { mode, wants } = this.#options;
    if (!this.#fixedNewstyle) {
      if (mode === 'go' || mode === 'export-name') this.#sendExportName();
      else this.#violation('it does not speak fixed newstyle, so it cannot be asked what it has');
    } else if (mode === 'list') {
      this.#send(NBD_OPT_LIST);
    } else if (wants.extendedHeaders && mode !== 'export-name') {
      this.#send(NBD_OPT_EXTENDED_HEADERS);
    } else {
      this.#askForStructuredReplies();
    }
  }

  #askForStructuredReplies(): void {
    const { structuredReplies, contexts } = this.#options.wants;
    if (structuredReplies || contexts.length > 0 || this.#challenge !== undefined)
      this.#send(NBD_OPT_STRUCTURED_REPLY);
    else this.#askForContexts();
  }

  #askForContexts(): void {
    const { wants, mode } = this.#options;
    const exportName = this.#exportName;
    if (this.#challenge !== undefined) {
      const queries = [this.#challenge.query];
      this.#send(NBD_OPT_LIST_META_CONTEXT, encodeMetaContextRequest({ exportName, queries }));
      return;
    }
    if (wants.contexts.length === 0 || !this.#findings.structuredReplies) {
      this.#askForExport();
      return;
    }
    const option = mode === 'info' ? NBD_OPT_LIST_META_CONTEXT : NBD_OPT_SET_META_CONTEXT;
    this.#send(option, encodeMetaContextRequest({ exportName, queries: wants.contexts }));
  }

  #askForExport(): void {
    const { mode } = this.#options;
    const exportName = this.#exportName;
    if (mode === 'export-name') {
      this.#sendExportName();
      return;
    }
    const infoTypes = [NBD_INFO_NAME, NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE];
    this.#send(mode === 'info' ? NBD_OPT_INFO : NBD_OPT_GO, encodeInfoRequest({ exportName, infoTypes }));
  }

  #sendExportName(): void {
    this.#send(NBD_OPT_EXPORT_NAME, encodeString(this.#exportName));
    this.#awaited = 'export-name-reply';
    this.#course.expect(exportNameReplyLayout.span + (this.#noZeroes ? 0 : EXPORT_NAME_ZEROES_BYTES));
  }

  #send(option: number, data?: Buffer): void {
    this.#course.send(encodeOption(option, data));
    this.#option = option;
    this.#repliesBytes = 0;
    this.#awaitReply();
  }

  #awaitReply(): void {
    this.#awaited = 'reply-header';
    this.#course.expect(optionReplyHeaderLayout.span);
  }

  #takeReplyHeader(message: Buffer): void {
    const { magic, option, type, lengthBytes } = optionReplyHeaderLayout.decode(message);
    if (magic !== OPTION_REPLY_MAGIC) {
      this.#violation(`its reply to ${this.#optionName()} does not begin with the magic of one`);
    } else if (option !== this.#option) {
      this.#violation(`it replies to option ${option} when asked for ${this.#optionName()}`);
    } else if (lengthBytes > MAX_OPTION_REPLY_BYTES) {
      this.#violation(`its reply to ${this.#optionName()} has ${lengthBytes} bytes`);
    } else if (this.#repliesBytes + message.length + lengthBytes > MAX_OPTION_REPLIES_BYTES) {
      this.#violation(`its replies to ${this.#optionName()} do not end`);
    } else {
      this.#repliesBytes += message.length + lengthBytes;
      this.#replyType = type;
      this.#awaited = 'reply-data';
      this.#course.expect(lengthBytes);
    }
  }

  #takeReply(data: Buffer): void {
    const type = this.#replyType;
    if (type >= NBD_REP_FLAG_ERROR) {
      this.#takeRefusal(type, data);
    } else if (type === NBD_REP_ACK) {
      if (data.length > 0) this.#violation('its NBD_REP_ACK has data');
      else this.#takeAck();
    } else {
      this.#awaitReply();
      const wrong = this.#takeDetail(type, data);
      if (wrong !== undefined) this.#violation(`its reply to ${this.#optionName()} is malformed: ${wrong}`);
    }
  }

  /** One of the replies before the final one. Returns what is wrong with it. */
  #takeDetail(type: number, data: Buffer): string | undefined {
    if (type === NBD_REP_SERVER && this.#option === NBD_OPT_LIST) return this.#findings.takeServer(data);
    const asksForExport = this.#option === NBD_OPT_GO || this.#option === NBD_OPT_INFO;
    if (type === NBD_REP_INFO && asksForExport) return this.#findings.takeInfo(data);
    const listsContexts = this.#option === NBD_OPT_LIST_META_CONTEXT;
    if (type === NBD_REP_META_CONTEXT && (listsContexts || this.#option === NBD_OPT_SET_META_CONTEXT)) {
      return this.#findings.takeContext(data, listsContexts);
    }
    return `type ${type} does not belong there`;
  }

  #takeAck(): void {
    switch (this.#option) {
      case NBD_OPT_EXTENDED_HEADERS:
        this.#findings.extendedHeaders = true;
        this.#findings.structuredReplies = true;
        this.#askForContexts();
        return;
      case NBD_OPT_STRUCTURED_REPLY:
        this.#findings.structuredReplies = true;
        this.#askForContexts();
        return;
      case NBD_OPT_SET_META_CONTEXT:
      case NBD_OPT_LIST_META_CONTEXT:
        if (this.#challenge === undefined) this.#askForExport();
        else this.#meetChallenge(this.#challenge);
        return;
      case NBD_OPT_LIST:
        this.#finish({ kind: 'list', exports: this.#findings.listed });
        return;
      default:
        this.#finishWithExport();
    }
  }

  #meetChallenge(challenge: Challenge): void {
    const exportName = challenge.answer(this.#findings.contextNames);
    this.#challenge = undefined;
    this.#findings.forgetContexts();
    if (exportName === undefined) {
      const reason = `the server does not answer ${quoted(challenge.query)}`;
      this.#finish({ kind: 'failed', reason });
      return;
    }
    this.#exportName = exportName;
    this.#findings.rename(exportName);
    this.#askForContexts();
  }

  #takeRefusal(code: number, data: Buffer): void {
    const fallBack = FINAL_ERRORS.has(code) ? undefined : this.#fallBack(code);
    if (fallBack !== undefined) {
      fallBack();
      return;
    }
    const said = displayText(data);
    const reason = `the server refuses ${this.#optionName()}: ${said === '' ? '' : `${said} `}(${replyErrorName(code)})`;
    this.#finish({ kind: 'failed', reason, code });
  }

  /** How to go on without what was refused; undefined when it cannot be done without. */
  #fallBack(code: number): (() => void) | undefined {
    // Of a challenge, the refusal is the answer.
    if (this.#option === NBD_OPT_LIST_META_CONTEXT && this.#challenge !== undefined) return undefined;
    switch (this.#option) {
      case NBD_OPT_EXTENDED_HEADERS:
        return () => this.#askForStructuredReplies();
      case NBD_OPT_STRUCTURED_REPLY:
        return () => this.#askForExport();
      case NBD_OPT_SET_META_CONTEXT:
      case NBD_OPT_LIST_META_CONTEXT:
        // "If an error is returned, the client MUST disregard any context replies that may have been sent."
        return () => {
          this.#findings.forgetContexts();
          this.#askForExport();
        };
      case NBD_OPT_GO:
        // Clients "SHOULD be prepared to also handle NBD_REP_ERR_UNSUP by falling back to using NBD_OPT_EXPORT_NAME".
        if (code === NBD_REP_ERR_UNSUP && !this.#findings.extendedHeaders)
          return () => this.#sendExportName();
        return undefined;
      default:
        return undefined;
    }
  }

  #takeExportNameReply(message: Buffer): void {
    const { sizeBytes, transmissionFlags } = exportNameReplyLayout.decode(message);
    const wrong = this.#findings.takeExport(sizeBytes, transmissionFlags);
    if (wrong === undefined) this.#finishWithExport();
    else this.#violation(wrong);
  }

  #finishWithExport(): void {
    const session = this.#findings.session();
    if (session === undefined) this.#violation('it accepts the export without NBD_INFO_EXPORT');
    else if (this.#option === NBD_OPT_INFO) this.#finish({ kind: 'info', export: session.export });
    else this.#course.agree(session);
  }

  /** Ends in good order: "in the client's case, if it wishes to do so it MUST use soft disconnect". */
  #finish(end: OtherEnd): void {
    this.#course.send(encodeOption(NBD_OPT_ABORT));
    this.#course.end(end);
  }

  /** "If either the client or the server detects a violation of a mandatory condition […] it MAY initiate a hard disconnect." */
  #violation(what: string): void {
    this.#course.end({ kind: 'failed', reason: `the server breaks the protocol: ${what}` });
  }

  #optionName(): string {
    return OPTION_NAMES.get(this.#option) ?? `option ${this.#option}`;
  }
}
