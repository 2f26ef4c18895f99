/**
 * What a client has learnt of a server in the course of a handshake. Each `take…` returns what is wrong with what came, or undefined.
 */
import { NBD_FLAG_HAS_FLAGS, NBD_FLAG_SEND_DF } from './constants.ts';
import { MAX_PAYLOAD_BYTES, MINIMUM_BLOCK_BYTES, PREFERRED_BLOCK_BYTES } from './limits.ts';
import {
  type BlockSizes,
  decodeInfoReply,
  decodeMetaContextReply,
  decodeServerReply,
  type ListedExport,
} from './option-reply.ts';
import type { ExportInfo, MetaContext, NegotiatedSession } from './session.ts';

/** "If block size constraints have not been advertised or agreed on externally" ("Block size constraints"). */
const DEFAULT_SIZES: BlockSizes = {
  minimumBlockBytes: MINIMUM_BLOCK_BYTES,
  preferredBlockBytes: PREFERRED_BLOCK_BYTES,
  maximumPayloadBytes: MAX_PAYLOAD_BYTES,
};

export class Findings {
  structuredReplies = false;
  extendedHeaders = false;
  readonly #listed: ListedExport[] = [];
  #name: string;
  #description = '';
  #sizes = DEFAULT_SIZES;
  #export: { readonly sizeBytes: number; readonly transmissionFlags: number } | undefined;
  #contexts: MetaContext[] = [];
  readonly #contextIds = new Set<number>();
  readonly #offsetUnitBytes: number;

  /** `exportName` stands until the server tells its own name for the export. `offsetUnitBytes`: see `HandshakeClientOptions`. */
  constructor(exportName: string, offsetUnitBytes: number) {
    this.#name = exportName;
    this.#offsetUnitBytes = offsetUnitBytes;
  }

  get listed(): readonly ListedExport[] {
    return this.#listed;
  }

  takeServer(data: Buffer): string | undefined {
    const listed = decodeServerReply(data);
    if (!listed.ok) return listed.reason;
    this.#listed.push(listed.value);
    return undefined;
  }

  takeInfo(data: Buffer): string | undefined {
    const info = decodeInfoReply(data);
    if (!info.ok) return info.reason;
    switch (info.value.type) {
      case 'export':
        return this.takeExport(info.value.sizeBytes, info.value.transmissionFlags);
      case 'name':
        this.#name = info.value.text;
        return undefined;
      case 'description':
        this.#description = info.value.text;
        return undefined;
      case 'block-size':
        this.#sizes = info.value;
        return undefined;
      case 'unknown':
        return undefined;
      default:
        return info.value satisfies never;
    }
  }

  takeExport(sizeBytes: bigint, transmissionFlags: number): string | undefined {
    if ((transmissionFlags & NBD_FLAG_HAS_FLAGS) === 0)
      return 'transmission flags without NBD_FLAG_HAS_FLAGS';
    const unit = BigInt(this.#offsetUnitBytes);
    const isExact = unit === 1n || sizeBytes % unit === 0n;
    if (!isExact || sizeBytes / unit > BigInt(Number.MAX_SAFE_INTEGER))
      return `an export of ${sizeBytes} bytes`;
    this.#export = { sizeBytes: Number(sizeBytes), transmissionFlags };
    return undefined;
  }

  /** Ids in replies to LIST_META_CONTEXT mean nothing; elsewhere each is unique. */
  takeContext(data: Buffer, idsAreReserved: boolean): string | undefined {
    const context = decodeMetaContextReply(data);
    if (!context.ok) return context.reason;
    const { id } = context.value;
    if (!idsAreReserved && this.#contextIds.has(id)) return `two metadata contexts have the id ${id}`;
    this.#contextIds.add(id);
    this.#contexts.push(context.value);
    return undefined;
  }

  get contextNames(): readonly string[] {
    return this.#contexts.map(({ name }) => name);
  }

  /** Another export is asked for now. */
  rename(exportName: string): void {
    this.#name = exportName;
  }

  forgetContexts(): void {
    this.#contexts = [];
    this.#contextIds.clear();
  }

  /** Undefined when the server has told no size. */
  session(): NegotiatedSession | undefined {
    if (this.#export === undefined) return undefined;
    const { sizeBytes } = this.#export;
    let { transmissionFlags } = this.#export;
    // A flag that a server must not set without structured replies, and that nothing can be done with then.
    if (!this.structuredReplies) transmissionFlags &= ~NBD_FLAG_SEND_DF;
    const { minimumBlockBytes, preferredBlockBytes, maximumPayloadBytes } = this.#sizes;
    const info: ExportInfo = {
      name: this.#name,
      description: this.#description,
      sizeBytes,
      transmissionFlags,
      minimumBlockBytes,
      preferredBlockBytes,
      maximumPayloadBytes,
      contexts: this.#contexts.map(({ name }) => name),
    };
    return {
      export: info,
      transmissionFlags,
      structuredReplies: this.structuredReplies,
      extendedHeaders: this.extendedHeaders,
      contexts: this.#contexts,
    };
  }
}
