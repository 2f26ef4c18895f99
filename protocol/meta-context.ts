/**
 * Metadata contexts: the data of LIST_META_CONTEXT and SET_META_CONTEXT, and which contexts a query names ("Metadata querying").
 *
 * An export says which contexts it has, by full name. The rules here hold for every namespace alike: a query that ends in a colon
 * lists all that begin with it (`base:`, `qemu:dirty-bitmap:`), any other query names one context. So a new namespace needs nothing here.
 */
import { type Decoded, encodeSizedString, FieldReader, malformed } from './options.ts';

export interface MetaContextRequest {
  readonly exportName: string;
  readonly queries: readonly string[];
}

export function encodeMetaContextRequest(request: MetaContextRequest): Buffer {
  const count = Buffer.alloc(4);
  count.writeUInt32BE(request.queries.length);
  return Buffer.concat([
    encodeSizedString(request.exportName),
    count,
    ...request.queries.map(encodeSizedString),
  ]);
}

/** Malformed when lengths do not add up to the data. That a query makes no sense is not malformed: it names nothing. */
export function decodeMetaContextRequest(data: Buffer): Decoded<MetaContextRequest> {
  const reader = new FieldReader(data);
  const name = reader.string('export name');
  if (!name.ok) return name;
  const count = reader.u32();
  if (count === undefined) return malformed('the data ends before the number of queries');
  const queries: string[] = [];
  // The data is bounded, and each query takes at least four bytes of it, so a large count ends this early.
  while (queries.length < count) {
    const query = reader.string('query');
    if (!query.ok) return query;
    queries.push(query.value);
  }
  if (reader.remainingBytes > 0) return malformed(`${reader.remainingBytes} bytes follow the last query`);
  return { ok: true, value: { exportName: name.value, queries } };
}

/** What LIST_META_CONTEXT returns: of `available`, in its order, what matches; "if zero queries are sent", all. */
export function listContexts(available: readonly string[], queries: readonly string[]): string[] {
  if (queries.length === 0) return [...available];
  const exact = new Set(queries);
  const wildcards = [...exact].filter((query) => query.endsWith(':'));
  return available.filter(
    (context) => exact.has(context) || wildcards.some((prefix) => context.startsWith(prefix)),
  );
}

/** What SET_META_CONTEXT selects: of `available`, in its order, what is named in full. Wildcards "SHOULD NOT select any contexts". */
export function selectContexts(available: readonly string[], queries: readonly string[]): string[] {
  const exact = new Set(queries);
  return available.filter((context) => exact.has(context));
}
