/**
 * What clients send while options are haggled over: the option header, and the data of EXPORT_NAME, INFO and GO ("Option types").
 * The queries of the two META_CONTEXT options are in meta-context.ts.
 */
import { assert } from './assert.ts';
import { IHAVEOPT_MAGIC, NBD_MAX_STRING_BYTES } from './constants.ts';
import { optionHeaderLayout } from './layouts.ts';
import { MAX_OPTION_DATA_BYTES } from './limits.ts';
import { decodeString, encodeString } from './text.ts';

/** What came out of bytes of a peer: the value, or why they are malformed. */
export type Decoded<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly reason: string };

export function malformed(reason: string): { readonly ok: false; readonly reason: string } {
  return { ok: false, reason };
}

/** Reads the fields of one message from its start; each returns undefined when the message is too short. */
export class FieldReader {
  readonly #bytes: Buffer;
  #position = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get remainingBytes(): number {
    return this.#bytes.length - this.#position;
  }

  u16(): number | undefined {
    if (this.remainingBytes < 2) return undefined;
    this.#position += 2;
    return this.#bytes.readUInt16BE(this.#position - 2);
  }

  u32(): number | undefined {
    if (this.remainingBytes < 4) return undefined;
    this.#position += 4;
    return this.#bytes.readUInt32BE(this.#position - 4);
  }

  /** A string behind its length of 32 bits. `what` names it in the reason. */
  string(what: string): Decoded<string> {
    const lengthBytes = this.u32();
    if (lengthBytes === undefined) return malformed(`the data ends before the length of the ${what}`);
    if (lengthBytes > NBD_MAX_STRING_BYTES) {
      return malformed(`the ${what} has ${lengthBytes} bytes, at most ${NBD_MAX_STRING_BYTES} are allowed`);
    }
    if (lengthBytes > this.remainingBytes) return malformed(`the ${what} is longer than the data`);
    const text = decodeString(this.#bytes.subarray(this.#position, this.#position + lengthBytes));
    this.#position += lengthBytes;
    return text === undefined ? malformed(`the ${what} is not UTF-8 without NUL`) : { ok: true, value: text };
  }
}

/** A string behind its length of 32 bits. */
export function encodeSizedString(text: string): Buffer {
  const bytes = encodeString(text);
  const sized = Buffer.alloc(4 + bytes.length);
  sized.writeUInt32BE(bytes.length);
  bytes.copy(sized, 4);
  return sized;
}

/** An option with its header, as a client sends it. */
export function encodeOption(option: number, data: Buffer = Buffer.alloc(0)): Buffer {
  assert(data.length <= MAX_OPTION_DATA_BYTES, 'an option longer than servers take');
  const bytes = Buffer.alloc(optionHeaderLayout.span + data.length);
  optionHeaderLayout.encode({ magic: IHAVEOPT_MAGIC, option, lengthBytes: data.length }, bytes);
  data.copy(bytes, optionHeaderLayout.span);
  return bytes;
}

/** The data of EXPORT_NAME is the name and nothing else. */
export function decodeExportName(data: Buffer): Decoded<string> {
  const name = decodeString(data);
  return name === undefined
    ? malformed('the export name is not UTF-8 without NUL of at most 4096 bytes')
    : { ok: true, value: name };
}

/** The data of INFO and GO. `infoTypes` may name types that are unknown here. */
export interface InfoRequest {
  readonly exportName: string;
  readonly infoTypes: readonly number[];
}

export function encodeInfoRequest(request: InfoRequest): Buffer {
  const types = Buffer.alloc(2 + 2 * request.infoTypes.length);
  types.writeUInt16BE(request.infoTypes.length);
  request.infoTypes.forEach((type, index) => {
    types.writeUInt16BE(type, 2 + 2 * index);
  });
  return Buffer.concat([encodeSizedString(request.exportName), types]);
}

/** Malformed when lengths do not add up to the data, or "the client [includes] any information request in the list more than once". */
export function decodeInfoRequest(data: Buffer): Decoded<InfoRequest> {
  const reader = new FieldReader(data);
  const name = reader.string('export name');
  if (!name.ok) return name;
  const count = reader.u16();
  if (count === undefined) return malformed('the data ends before the number of information requests');
  if (reader.remainingBytes !== 2 * count) {
    return malformed(`${count} information requests in ${reader.remainingBytes} bytes of data`);
  }
  const infoTypes = new Set<number>();
  for (let type = reader.u16(); type !== undefined; type = reader.u16()) {
    if (infoTypes.has(type)) return malformed(`information ${type} is requested twice`);
    infoTypes.add(type);
  }
  return { ok: true, value: { exportName: name.value, infoTypes: [...infoTypes] } };
}
