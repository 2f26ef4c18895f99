/** What a handshake is about, and what comes out of it: the same for both sides. Sizes are in bytes. */

/** An export as the protocol knows it. */
export interface ExportInfo {
  /** The canonical name; at most 4096 bytes of UTF-8. */
  readonly name: string;
  /** For human eyes; may be empty. */
  readonly description: string;
  readonly sizeBytes: number;
  /**
   * `NBD_FLAG_*` of what the export can do. A server takes SEND_DF and BLOCK_STATUS_PAYLOAD out again in sessions that did not negotiate
   * what these build on.
   */
  readonly transmissionFlags: number;
  readonly minimumBlockBytes: number;
  readonly preferredBlockBytes: number;
  /** As advertised: a client sees 0xffffffff where the server names no limit, and should still stay within `MAX_PAYLOAD_BYTES`. */
  readonly maximumPayloadBytes: number;
  /** Full names of the metadata contexts that may be selected, each once. */
  readonly contexts: readonly string[];
  /**
   * Why this client may not open it, at the moment or at all; undefined when it may. Its contexts can be listed, so that a challenge can be one of them; INFO, GO
   * and SET_META_CONTEXT are answered with NBD_REP_ERR_POLICY and this.
   */
  readonly refusal?: string | undefined;
}

/** An export as LIST tells it. */
export type ExportEntry = Pick<ExportInfo, 'name' | 'description'>;

/** The exports that a client may see. Answers may change between calls, as exports come and go. */
export interface ExportDirectory {
  list(): Iterable<ExportEntry>;
  /** The empty name asks for the default export, if there is one. */
  find(name: string): ExportInfo | undefined;
}

/** A metadata context with the id that block status replies name it by, on this connection only. */
export interface MetaContext {
  readonly id: number;
  readonly name: string;
}

/** What both sides agreed on. */
export interface NegotiatedSession {
  readonly export: ExportInfo;
  /** The flags as the client was told them. */
  readonly transmissionFlags: number;
  /** True with extended headers too, which build on structured replies. */
  readonly structuredReplies: boolean;
  readonly extendedHeaders: boolean;
  /** The contexts that BLOCK_STATUS reports; empty when the client may not ask. */
  readonly contexts: readonly MetaContext[];
}
