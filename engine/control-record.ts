/**
 * The control records of a group's log: what changes its snapshots at one point of the order of writes. Payload of a batch of its own: the
 * length of a JSON text (u32, little-endian), the text, then the region maps that it names, one behind the other.
 */
import { EngineError } from './errors.ts';
import { decodeMap, encodeMap } from './map/map-runs.ts';
import type { RegionMap } from './map/region-map.ts';

export interface SnapshotControl {
  readonly type: 'snapshot';
  readonly id: string;
  readonly name: string;
  readonly createdAt: string;
  /** On this node only: others skip it (rule S7). */
  readonly local: boolean;
}

export interface DeleteControl {
  readonly type: 'delete';
  readonly id: string;
}

export interface RenameControl {
  readonly type: 'rename';
  readonly id: string;
  readonly name: string;
}

/** The snapshot `id` is `nextId` from here on; where it is detached, `nextId` names the layer through which it is brought up to date. */
export interface RefreshControl {
  readonly type: 'refresh';
  readonly id: string;
  readonly nextId: string;
  readonly createdAt: string;
  /** Which of the two it was where the record was made. Absent from what was written before there were secondaries. */
  readonly detached?: boolean;
}

export interface DetachControl {
  readonly type: 'detach';
  readonly id: string;
}

/** An image of the group for one round of a resync (rule K7): on the node that feeds the link, and of no name. Others skip it. */
export interface RoundControl {
  readonly type: 'round';
  readonly id: string;
  readonly linkId: string;
  readonly createdAt: string;
}

/** The place at which a link compares its two sides: an image of the group, of no name, on the node that feeds the link and on the one that it feeds. Others skip it. */
export interface VerifyControl {
  readonly type: 'verify';
  readonly id: string;
  readonly linkId: string;
  readonly createdAt: string;
}

/** The undo snapshot and the restore are one record: one point of the order, all or nothing. */
export interface RestoreControl {
  readonly type: 'restore';
  readonly id: string;
  readonly sourceId: string;
  /** Which image of the source it is about: see `ImageSource`. Absent from what was written before there were secondaries. */
  readonly imageId?: string;
  readonly undo: { readonly id: string; readonly createdAt: string; readonly replaces: string | null };
  /** Of each volume that is restored, the regions that come from the source, and those of them that were written through the source. */
  readonly volumes: readonly {
    readonly name: string;
    readonly restoration: RegionMap;
    readonly modified: RegionMap;
  }[];
}

export type Control =
  | SnapshotControl
  | DeleteControl
  | RenameControl
  | RefreshControl
  | DetachControl
  | RoundControl
  | VerifyControl
  | RestoreControl;

interface MapText {
  readonly name: string;
  readonly restorationBytes: number;
  readonly modifiedBytes: number;
}

const LENGTH_BYTES = 4;

export function encodeControl(control: Control): Buffer {
  const maps: Buffer[] = [];
  let body: unknown = control;
  if (control.type === 'restore') {
    const volumes = control.volumes.map(({ name, restoration, modified }): MapText => {
      const [first, second] = [encodeMap(restoration), encodeMap(modified)];
      maps.push(first, second);
      return { name, restorationBytes: first.length, modifiedBytes: second.length };
    });
    body = { ...control, volumes };
  }
  const text = Buffer.from(JSON.stringify(body), 'utf8');
  const length = Buffer.alloc(LENGTH_BYTES);
  length.writeUInt32LE(text.length);
  return Buffer.concat([length, text, ...maps]);
}

/** `regionCount` tells how many regions a volume of that name has; undefined when there is none. Throws `corrupt`. */
export function decodeControl(payload: Buffer, regionCount: (volume: string) => number | undefined): Control {
  if (payload.length < LENGTH_BYTES) throw senseless('it is too short');
  const textEnd = LENGTH_BYTES + payload.readUInt32LE(0);
  if (textEnd > payload.length) throw senseless('its text ends beyond it');
  const body = parse(payload.toString('utf8', LENGTH_BYTES, textEnd));
  if (body.type !== 'restore') return body as Control;
  let at = textEnd;
  const next = (volume: string, lengthBytes: number): RegionMap => {
    const regions = regionCount(volume);
    if (regions === undefined) throw senseless(`it names a volume ${volume}`);
    if (at + lengthBytes > payload.length) throw senseless('a map ends beyond it');
    at += lengthBytes;
    return decodeMap(payload.subarray(at - lengthBytes, at), regions);
  };
  const texts = (body as unknown as { volumes: readonly MapText[] }).volumes;
  const volumes = texts.map(({ name, restorationBytes, modifiedBytes }) => ({
    name,
    restoration: next(name, restorationBytes),
    modified: next(name, modifiedBytes),
  }));
  return { ...(body as unknown as RestoreControl), volumes };
}

type Json = Readonly<Record<string, unknown>>;
type Check = (value: unknown) => boolean;

const text: Check = (value) => typeof value === 'string';
const flag: Check = (value) => typeof value === 'boolean';
const optional =
  (check: Check): Check =>
  (value) =>
    value === undefined || check(value);
const lengthBytes: Check = (value) => Number.isSafeInteger(value) && Number(value) >= 0;
const hasFields = (value: unknown, fields: Readonly<Record<string, Check>>): value is Json =>
  typeof value === 'object' &&
  value !== null &&
  Object.entries(fields).every(([key, check]) => check((value as Json)[key]));
const isUndo: Check = (value) =>
  hasFields(value, { id: text, createdAt: text, replaces: (id) => id === null || text(id) });
const isMapText: Check = (value) =>
  hasFields(value, { name: text, restorationBytes: lengthBytes, modifiedBytes: lengthBytes });

/** What each type has; the maps of a restore are behind its text. */
const FIELDS: Readonly<Record<string, Readonly<Record<string, Check>>>> = {
  snapshot: { id: text, name: text, createdAt: text, local: flag },
  delete: { id: text },
  rename: { id: text, name: text },
  refresh: { id: text, nextId: text, createdAt: text, detached: optional(flag) },
  detach: { id: text },
  round: { id: text, linkId: text, createdAt: text },
  verify: { id: text, linkId: text, createdAt: text },
  restore: {
    id: text,
    sourceId: text,
    imageId: optional(text),
    undo: isUndo,
    volumes: (value) => Array.isArray(value) && value.every(isMapText),
  },
};

/** Its batch was intact, so it is what a program wrote: a later one, where it says what we do not know. */
function parse(json: string): { readonly type: string } {
  let body: unknown;
  try {
    body = JSON.parse(json);
  } catch {
    throw senseless('it is no JSON');
  }
  if (!hasFields(body, { type: text, id: text })) throw senseless('it has no type or id');
  const type = String(body['type']);
  const fields = Object.hasOwn(FIELDS, type) ? FIELDS[type] : undefined;
  if (fields === undefined) {
    const what = `the log has a record of type ${type}: use the version of tidemark that wrote it, or a later one`;
    throw new EngineError('unsupported', what);
  }
  if (!hasFields(body, fields)) throw senseless(`it lacks what a ${type} has`);
  return { ...body, type };
}

function senseless(why: string): EngineError {
  return new EngineError('corrupt', `a control record of the log is intact and makes no sense: ${why}`);
}
