/**
 * What a server answers to each option, and what it remembers between them ("Option types"). Framing, and all that ends a handshake
 * early, is in handshake-server.ts.
 */
import {
  NBD_FLAG_BLOCK_STATUS_PAYLOAD,
  NBD_FLAG_HAS_FLAGS,
  NBD_FLAG_SEND_DF,
  NBD_INFO_BLOCK_SIZE,
  NBD_INFO_DESCRIPTION,
  NBD_INFO_NAME,
  NBD_OPT_EXPORT_NAME,
  NBD_OPT_EXTENDED_HEADERS,
  NBD_OPT_GO,
  NBD_OPT_INFO,
  NBD_OPT_LIST,
  NBD_OPT_LIST_META_CONTEXT,
  NBD_OPT_SET_META_CONTEXT,
  NBD_OPT_STARTTLS,
  NBD_OPT_STRUCTURED_REPLY,
  NBD_REP_ERR_EXT_HEADER_REQD,
  NBD_REP_ERR_INVALID,
  NBD_REP_ERR_POLICY,
  NBD_REP_ERR_TOO_BIG,
  NBD_REP_ERR_UNKNOWN,
  NBD_REP_ERR_UNSUP,
} from './constants.ts';
import { MAX_LIST_REPLY_BYTES, MAX_OPTION_DATA_BYTES } from './limits.ts';
import { decodeMetaContextRequest, listContexts, selectContexts } from './meta-context.ts';
import {
  encodeAck,
  encodeErrorReply,
  encodeInfoBlockSize,
  encodeInfoExport,
  encodeInfoText,
  encodeMetaContextReply,
  encodeServerReply,
} from './option-reply.ts';
import { type Decoded, decodeExportName, decodeInfoRequest, malformed } from './options.ts';
import type { ExportDirectory, ExportInfo, MetaContext, NegotiatedSession } from './session.ts';
import { quoted } from './text.ts';

/** Options that have data of a form known here. The data of all others need not be kept. */
export const OPTIONS_WITH_DATA: ReadonlySet<number> = new Set([
  NBD_OPT_EXPORT_NAME,
  NBD_OPT_INFO,
  NBD_OPT_GO,
  NBD_OPT_LIST_META_CONTEXT,
  NBD_OPT_SET_META_CONTEXT,
]);

/** Replies with their headers, in order. With a session, the transmission phase begins behind the last of them. */
export interface Answer {
  readonly replies: readonly Buffer[];
  readonly session?: NegotiatedSession;
}

export class OptionAnswers {
  readonly #directory: ExportDirectory;
  #structuredReplies = false;
  #extendedHeaders = false;
  /** What the last SET_META_CONTEXT selected, and for which export (by canonical name). */
  #selected: { readonly exportName: string; readonly contexts: readonly MetaContext[] } | undefined;

  constructor(directory: ExportDirectory) {
    this.#directory = directory;
  }

  /**
   * Answers any option but EXPORT_NAME and ABORT. `lengthBytes` is the declared length; `data` holds that many bytes for
   * `OPTIONS_WITH_DATA` up to `MAX_OPTION_DATA_BYTES`, and is not looked at otherwise.
   */
  answer(option: number, lengthBytes: number, data: Buffer): Answer {
    // "Issuing this command replaces all previously-set metadata contexts (including when this command fails)."
    if (option === NBD_OPT_SET_META_CONTEXT) this.#selected = undefined;
    if (OPTIONS_WITH_DATA.has(option)) {
      if (lengthBytes > MAX_OPTION_DATA_BYTES) {
        const text = `${lengthBytes} bytes of data came, this server takes ${MAX_OPTION_DATA_BYTES}`;
        return refusal(option, NBD_REP_ERR_TOO_BIG, text);
      }
      return option === NBD_OPT_INFO || option === NBD_OPT_GO
        ? this.#info(option, data)
        : this.#metaContext(option, data);
    }
    const answer = this.#withoutData(option);
    if (answer === undefined) {
      return refusal(option, NBD_REP_ERR_UNSUP, `option ${option} is not known to this server`);
    }
    if (lengthBytes > 0) {
      const text = `option ${option} takes no data, but ${lengthBytes} bytes came with it`;
      return refusal(option, NBD_REP_ERR_INVALID, text);
    }
    return answer();
  }

  /** The session that EXPORT_NAME opens, or why it does not. There is no error reply to this option: the caller has to close. */
  openByName(data: Buffer): Decoded<NegotiatedSession> {
    if (this.#extendedHeaders) return malformed('extended headers were negotiated, which need GO');
    const name = decodeExportName(data);
    if (!name.ok) return name;
    const found = this.#directory.find(name.value);
    if (found === undefined) return malformed(missing(name.value));
    if (found.refusal !== undefined) return malformed(found.refusal);
    return { ok: true, value: this.#session(found) };
  }

  #withoutData(option: number): (() => Answer) | undefined {
    switch (option) {
      case NBD_OPT_LIST:
        return () => this.#list();
      case NBD_OPT_STARTTLS:
        return () => refusal(option, NBD_REP_ERR_UNSUP, 'this server offers no TLS');
      case NBD_OPT_STRUCTURED_REPLY:
        return () => this.#agreeOnStructuredReplies();
      case NBD_OPT_EXTENDED_HEADERS:
        return () => this.#agreeOnExtendedHeaders();
      default:
        return undefined;
    }
  }

  #list(): Answer {
    const replies: Buffer[] = [];
    let replyBytes = 0;
    for (const { name, description } of this.#directory.list()) {
      const reply = encodeServerReply(NBD_OPT_LIST, name, description);
      replyBytes += reply.length;
      if (replyBytes > MAX_LIST_REPLY_BYTES) {
        return refusal(NBD_OPT_LIST, NBD_REP_ERR_TOO_BIG, 'this server has too many exports to list them');
      }
      replies.push(reply);
    }
    return { replies: [...replies, encodeAck(NBD_OPT_LIST)] };
  }

  /** INFO and GO. Clients that do not ask for block sizes are let in: each of their requests is checked for itself. */
  #info(option: number, data: Buffer): Answer {
    const request = decodeInfoRequest(data);
    if (!request.ok) return refusal(option, NBD_REP_ERR_INVALID, request.reason);
    const { exportName, infoTypes } = request.value;
    const found = this.#directory.find(exportName);
    if (found === undefined) return refusal(option, NBD_REP_ERR_UNKNOWN, missing(exportName));
    if (found.refusal !== undefined) return refusal(option, NBD_REP_ERR_POLICY, found.refusal);
    const session = this.#session(found);
    const replies = [encodeInfoExport(option, found.sizeBytes, session.transmissionFlags)];
    for (const infoType of infoTypes) {
      if (infoType === NBD_INFO_NAME) replies.push(encodeInfoText(option, infoType, found.name));
      if (infoType === NBD_INFO_DESCRIPTION)
        replies.push(encodeInfoText(option, infoType, found.description));
      if (infoType === NBD_INFO_BLOCK_SIZE) replies.push(encodeInfoBlockSize(option, found));
    }
    replies.push(encodeAck(option));
    return option === NBD_OPT_GO ? { replies, session } : { replies };
  }

  #agreeOnStructuredReplies(): Answer {
    if (this.#extendedHeaders) {
      const text = 'extended headers are negotiated already, and include structured replies';
      return refusal(NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_EXT_HEADER_REQD, text);
    }
    this.#structuredReplies = true;
    return { replies: [encodeAck(NBD_OPT_STRUCTURED_REPLY)] };
  }

  #agreeOnExtendedHeaders(): Answer {
    this.#structuredReplies = true;
    this.#extendedHeaders = true;
    return { replies: [encodeAck(NBD_OPT_EXTENDED_HEADERS)] };
  }

  #metaContext(option: number, data: Buffer): Answer {
    if (!this.#structuredReplies) {
      const text = 'negotiate structured replies or extended headers before metadata contexts';
      return refusal(option, NBD_REP_ERR_INVALID, text);
    }
    const request = decodeMetaContextRequest(data);
    if (!request.ok) return refusal(option, NBD_REP_ERR_INVALID, request.reason);
    const { exportName, queries } = request.value;
    const found = this.#directory.find(exportName);
    if (found === undefined) return refusal(option, NBD_REP_ERR_UNKNOWN, missing(exportName));
    let contexts: MetaContext[];
    if (option === NBD_OPT_LIST_META_CONTEXT) {
      // "The metadata context ID in these replies is reserved and SHOULD be set to zero."
      contexts = listContexts(found.contexts, queries).map((name) => ({ id: 0, name }));
    } else if (found.refusal !== undefined) {
      return refusal(option, NBD_REP_ERR_POLICY, found.refusal);
    } else {
      contexts = selectContexts(found.contexts, queries).map((name, index) => ({ id: index + 1, name }));
      this.#selected = { exportName: found.name, contexts };
    }
    const replies = contexts.map(({ id, name }) => encodeMetaContextReply(option, id, name));
    return { replies: [...replies, encodeAck(option)] };
  }

  /** What is agreed on by now, for this export. */
  #session(found: ExportInfo): NegotiatedSession {
    let transmissionFlags = found.transmissionFlags | NBD_FLAG_HAS_FLAGS;
    // "MUST leave this flag clear if structured replies have not been negotiated."
    if (!this.#structuredReplies) transmissionFlags &= ~NBD_FLAG_SEND_DF;
    if (!this.#extendedHeaders) transmissionFlags &= ~NBD_FLAG_BLOCK_STATUS_PAYLOAD;
    return {
      export: found,
      transmissionFlags,
      structuredReplies: this.#structuredReplies,
      extendedHeaders: this.#extendedHeaders,
      // "Where the final time it was sent, it referred to the same export name that was ultimately selected."
      contexts: this.#selected?.exportName === found.name ? this.#selected.contexts : [],
    };
  }
}

function refusal(option: number, type: number, text: string): Answer {
  return { replies: [encodeErrorReply(option, type, text)] };
}

function missing(exportName: string): string {
  return exportName === ''
    ? 'there is no default export here'
    : `there is no export ${quoted(exportName)} here`;
}
