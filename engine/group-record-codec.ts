/**
 * A group's record as JSON, and back, checked. Sets of volumes are bitmaps there (bit n: the volume with number n), so that the record of a
 * group of many volumes and snapshots fits its slot: see `MAX_RECORDED_NODES`.
 */
import { assert, EngineError } from './errors.ts';
import type {
  DetachedRecord,
  GroupRecord,
  NodeRecord,
  ReplicaRecord,
  RestoreRecord,
  SnapshotRecord,
  VolumeRecord,
} from './group-record.ts';
import { defaultLogBytes } from './group-spec.ts';

type Json = Readonly<Record<string, unknown>>;
type Check = (value: unknown) => boolean;

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const VOLUME_SET = /^(0|[1-9a-f][0-9a-f]{0,15})$/;

const text: Check = (value) => typeof value === 'string';
const flag: Check = (value) => typeof value === 'boolean';
const uuid: Check = (value) => typeof value === 'string' && UUID.test(value);
const count: Check = (value) => Number.isSafeInteger(value) && Number(value) >= 0;
const u32: Check = (value) => count(value) && Number(value) <= 0xffff_ffff;
const volumeSet: Check = (value) => typeof value === 'string' && VOLUME_SET.test(value);
const oneOf =
  (...values: readonly string[]): Check =>
  (value) =>
    typeof value === 'string' && values.includes(value);
const listOf =
  (item: Check): Check =>
  (value) =>
    Array.isArray(value) && value.every(item);
const either =
  (...checks: readonly Check[]): Check =>
  (value) =>
    checks.some((check) => check(value));
const nothing: Check = (value) => value === null;

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** An object with these fields and no others. */
const object =
  (required: Readonly<Record<string, Check>>, optional: Readonly<Record<string, Check>> = {}): Check =>
  (value) =>
    isObject(value) &&
    Object.entries(required).every(([key, check]) => check(value[key])) &&
    Object.entries(value).every(([key, field]) => key in required || (optional[key]?.(field) ?? false));

const baseFields = {
  state: oneOf('creating', 'ready', 'deleting'),
  id: uuid,
  name: text,
  role: oneOf('primary', 'secondary'),
  createdAt: text,
  regionBytes: count,
  volumes: listOf(object({ name: text, id: uuid, sizeBytes: count }, { file: text })),
};
const isVersion1 = object(baseFields);

const snapshotFields = object(
  {
    kind: oneOf('snapshot'),
    id: uuid,
    name: either(text, nothing),
    lsn: count,
    createdAt: text,
    local: flag,
    stores: volumeSet,
    written: volumeSet,
    copied: volumeSet,
    detaching: flag,
  },
  { undoOf: volumeSet },
);
const restoreFields = object({
  kind: oneOf('restore'),
  id: uuid,
  lsn: count,
  sourceId: uuid,
  volumes: volumeSet,
});
const detachedFields = object(
  {
    id: uuid,
    name: either(text, nothing),
    lsn: count,
    createdAt: text,
    local: flag,
    changedId: uuid,
    stores: volumeSet,
    written: volumeSet,
  },
  { undoOf: volumeSet, refresh: object({ layerId: uuid, id: uuid }) },
);
const version2Fields = {
  ...baseFields,
  log: object({ sizeBytes: count }, { file: text }),
  onFull: oneOf('hold', 'give-up'),
  generation: object({ number: u32, id: uuid, firstLsn: count }),
  checkpointLsn: count,
  nodes: listOf(either(snapshotFields, restoreFields)),
  voided: listOf(uuid),
  detached: listOf(detachedFields),
};
const isVersion2 = object(version2Fields);

const generationFields = object({ number: u32, id: uuid, firstLsn: count });
const linkFields = object(
  {
    id: uuid,
    name: text,
    uri: text,
    mode: oneOf('async', 'memory', 'sync'),
    onLost: oneOf('go-on', 'block'),
    onFull: oneOf('dcm', 'block', 'detach'),
    resync: oneOf('auto', 'manual'),
    resyncAllowed: flag,
    orderedOnly: flag,
    limitBytes: count,
    limitSeconds: count,
    rateBytesPerSecond: count,
    wanted: oneOf('active', 'paused', 'detached'),
    position: object({ baseLsn: count, logLsn: either(count, nothing) }),
    peerId: either(uuid, nothing),
  },
  { openRestores: object({ firstLsn: count, lastLsn: count }) },
);
const replicaFields = object({
  upstream: either(object({ linkId: uuid, linkName: text, memberId: uuid, path: listOf(uuid) }), nothing),
  horizonLsn: count,
  resync: either(object({ guardId: either(uuid, nothing) }), nothing),
  oldImage: either(object({ guardId: either(uuid, nothing) }), nothing),
  needs: object({ version: count, volumes: volumeSet }),
  restart: either(object({ lsn: count, chain: u32, groupId: uuid, generation: generationFields }), nothing),
  frozen: flag,
  applyDelaySeconds: count,
});
const isVersion3 = object({
  ...version2Fields,
  memberId: uuid,
  links: listOf(linkFields),
  replica: either(replicaFields, nothing),
});

/** What version 1 has, and what a node looks like since version 2. The checks above say so. */
type BaseJson = Pick<GroupRecord, 'state' | 'id' | 'name' | 'role' | 'createdAt' | 'regionBytes' | 'volumes'>;
type SnapshotJson = Omit<SnapshotRecord, 'undoOf' | 'stores' | 'written' | 'copied'> & {
  readonly undoOf?: string;
  readonly stores: string;
  readonly written: string;
  readonly copied: string;
};
type RestoreJson = Omit<RestoreRecord, 'volumes'> & { readonly volumes: string };
type DetachedJson = Omit<DetachedRecord, 'undoOf' | 'stores' | 'written'> & {
  readonly undoOf?: string;
  readonly stores: string;
  readonly written: string;
};
type NeedsJson = { readonly version: number; readonly volumes: string };
type ReplicaJson = Omit<ReplicaRecord, 'needs'> & { readonly needs: NeedsJson };
type Version2Json = Omit<GroupRecord, 'nodes' | 'detached' | 'memberId' | 'links' | 'replica'> & {
  readonly nodes: readonly (SnapshotJson | RestoreJson)[];
  readonly detached: readonly DetachedJson[];
};
type RecordJson = Version2Json &
  Pick<GroupRecord, 'memberId' | 'links'> & { readonly replica: ReplicaJson | null };

function toSet(names: readonly string[], volumes: readonly VolumeRecord[]): string {
  let set = 0n;
  for (const name of names) {
    const number = volumes.findIndex((volume) => volume.name === name);
    if (number < 0) throw new Error(`bug: the group has no volume ${name}`);
    set |= 1n << BigInt(number);
  }
  return set.toString(16);
}

function fromSet(set: string, volumes: readonly VolumeRecord[]): string[] {
  const bits = BigInt(`0x${set}`);
  if (bits >> BigInt(volumes.length) !== 0n) throw senseless('it names a volume that there is not');
  return volumes.filter((_, number) => ((bits >> BigInt(number)) & 1n) === 1n).map((volume) => volume.name);
}

/** What cannot be read again is a bug, and is told before anything is written: it would keep the group from being opened. */
export function encodeRecord(record: GroupRecord): Buffer {
  const set = (names: readonly string[]) => toSet(names, record.volumes);
  const json: RecordJson = {
    ...record,
    nodes: record.nodes.map((node) => {
      if (node.kind === 'restore') return { ...node, volumes: set(node.volumes) };
      const { undoOf, ...rest } = node;
      return {
        ...rest,
        stores: set(node.stores),
        written: set(node.written),
        copied: set(node.copied),
        ...(undoOf === undefined ? {} : { undoOf: set(undoOf) }),
      };
    }),
    detached: record.detached.map(({ undoOf, ...rest }) => ({
      ...rest,
      stores: set(rest.stores),
      written: set(rest.written),
      ...(undoOf === undefined ? {} : { undoOf: set(undoOf) }),
    })),
    replica: record.replica && {
      ...record.replica,
      needs: { ...record.replica.needs, volumes: set(record.replica.needs.volumes) },
    },
  };
  assert(isVersion3(json), "the fields of the group's record are those of version 3");
  const why = contradictionIn(json);
  assert(why === undefined, `the group's record contradicts itself: ${why}`);
  return Buffer.from(JSON.stringify(json), 'utf8');
}

function senseless(why: string): EngineError {
  // It is what we wrote, so a program of another opinion did.
  return new EngineError('corrupt', `the group's record is intact and makes no sense: ${why}`);
}

/** Throws `corrupt` for what no version of the program writes. `version` is 1 to 3. */
export function decodeRecord(payload: string, version: number): GroupRecord {
  let json: unknown;
  try {
    json = JSON.parse(payload);
  } catch {
    throw senseless('it is no JSON');
  }
  if (version === 1) {
    if (!isVersion1(json)) throw senseless('its fields are not those of version 1');
    return upgraded(json as BaseJson);
  }
  if (version === 2) {
    if (!isVersion2(json)) throw senseless('its fields are not those of version 2');
    return withNames({ ...(json as Version2Json), ...alone((json as Version2Json).id) });
  }
  const whole = completed(json);
  if (!isVersion3(whole)) throw senseless('its fields are not those of version 3');
  return withNames(whole as RecordJson);
}

/** What version 3 got later, as it is for one who never heard of it. */
const LINK_SINCE = { resync: 'auto', resyncAllowed: false, orderedOnly: false };
const REPLICA_SINCE = { oldImage: null };
const UPSTREAM_SINCE = { path: [] };

function completed(json: unknown): unknown {
  if (!isRecord(json)) return json;
  const { links, replica } = json;
  return {
    ...json,
    links: Array.isArray(links) ? links.map((link) => since(LINK_SINCE, link)) : links,
    replica: isRecord(replica)
      ? since(REPLICA_SINCE, { ...replica, upstream: since(UPSTREAM_SINCE, replica['upstream']) })
      : replica,
  };
}

function since(later: object, value: unknown): unknown {
  return isRecord(value) ? { ...later, ...value } : value;
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** What fields that are in order each by itself cannot say together. */
function contradictionIn({ nodes, replica, role }: RecordJson): string | undefined {
  // Records that are barriers have LSNs of their own, but a snapshot taken between batches shares one with the record after it.
  if (nodes.some((node, index) => node.lsn < (nodes[index - 1]?.lsn ?? 0)))
    return 'the chain is out of order';
  if ((replica !== null) !== (role === 'secondary')) return 'its role is not what it keeps as a replica';
  if (replica !== null && replica.resync !== null && replica.oldImage !== null)
    return 'a resync of it is complete and under way at once';
  return undefined;
}

/** Before version 3 a group had no other member. Its own id is as good as any for the only one. */
function alone(groupId: string): Pick<GroupRecord, 'memberId' | 'links'> & { readonly replica: null } {
  return { memberId: groupId, links: [], replica: null };
}

/** A group of version 1 had neither log nor snapshots, and was in direct mode. */
function upgraded(json: BaseJson): GroupRecord {
  return {
    ...json,
    log: { sizeBytes: defaultLogBytes(json.volumes, json.regionBytes) },
    onFull: 'hold',
    generation: { number: 1, id: json.id, firstLsn: 0 },
    checkpointLsn: 0,
    nodes: [],
    voided: [],
    detached: [],
    ...alone(json.id),
  };
}

function withNames(json: RecordJson): GroupRecord {
  const names = (set: string) => fromSet(set, json.volumes);
  const nodes = json.nodes.map((node): NodeRecord => {
    if (node.kind === 'restore') return { ...node, volumes: names(node.volumes) };
    const { undoOf, ...rest } = node;
    return {
      ...rest,
      stores: names(node.stores),
      written: names(node.written),
      copied: names(node.copied),
      ...(undoOf === undefined ? {} : { undoOf: names(undoOf) }),
    };
  });
  const why = contradictionIn(json);
  if (why !== undefined) throw senseless(why);
  const detached = json.detached.map(({ undoOf, ...rest }) => ({
    ...rest,
    stores: names(rest.stores),
    written: names(rest.written),
    ...(undoOf === undefined ? {} : { undoOf: names(undoOf) }),
  }));
  const { replica } = json;
  const needs = replica && { ...replica.needs, volumes: names(replica.needs.volumes) };
  return { ...json, nodes, detached, replica: replica && needs && { ...replica, needs } };
}
