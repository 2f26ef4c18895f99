/** Checks what snapshots and restores keep, and tells whose regions a damage is about. */
import { type Control, decodeControl } from '../control-record.ts';
import type { Disk, DiskFolder } from '../disk/disk.ts';
import { dataName, LOG_NAME, mapName, RECORD_NAME, RESERVE_NAME } from '../group-folder.ts';
import type {
  DetachedRecord,
  GroupRecord,
  LinkRecord,
  RestoreRecord,
  SnapshotRecord,
  VolumeRecord,
} from '../group-record.ts';
import type { RecoveredGroup } from '../group-recovery.ts';
import { dcmName } from '../link/dcm.ts';
import type { LogBatch } from '../log/record.ts';
import { DurableMap } from '../map/durable-map.ts';
import type { RegionRun } from '../map/region-map.ts';
import type { View } from '../snapshot/chain.ts';
import { restoreMapName } from '../snapshot/control-effects.ts';
import { detachedMapName } from '../snapshot/detached.ts';
import { RegionStore } from '../snapshot/region-store.ts';
import type { RegionIndex } from '../units.ts';
import { withDisk } from './check-files.ts';
import { type Findings, regionsInDoubt } from './report.ts';

/** What the node keeps in the folder of a group beside the group: how it proves itself to other nodes. */
const SECRETS = /^(?:secret|links\/[^/]+\.secret)$/;

/** Regions looked at one by one, of a volume. Beyond it all that may be in doubt is. */
const MAX_LOOKED_AT = 2 ** 20;

type Kind = 'preserved' | 'modified' | 'copied';

const DELETE = 'a snapshot that is given up can be deleted once the group opens';

export class ChainCheck {
  readonly #folder: DiskFolder;
  readonly #record: GroupRecord;
  readonly #findings: Findings;
  /** Files that belong to the group. */
  readonly #known = new Set([RECORD_NAME, LOG_NAME, RESERVE_NAME]);

  constructor(folder: DiskFolder, record: GroupRecord, findings: Findings) {
    this.#folder = folder;
    this.#record = record;
    this.#findings = findings;
    for (const volume of record.volumes) {
      this.#known.add(mapName(volume.name));
      if (volume.file === undefined) this.#known.add(dataName(volume.name));
    }
  }

  async files(batches: readonly LogBatch[]): Promise<void> {
    for (const node of this.#record.nodes)
      if (node.kind === 'snapshot') await this.#snapshot(node);
      else await this.#restore(node);
    for (const snapshot of this.#record.detached) await this.#detached(snapshot);
    for (const link of this.#record.links) await this.#link(link);
    await this.#leftovers(batches);
  }

  #volume(name: string): VolumeRecord | undefined {
    return this.#record.volumes.find((volume) => volume.name === name);
  }

  async #snapshot(node: SnapshotRecord): Promise<void> {
    const { id, stores, written, copied } = node;
    const label = node.name ?? id;
    for (const name of stores) await this.#store(id, label, name, 'preserved');
    for (const name of written) await this.#store(id, label, name, 'modified');
    for (const name of copied) await this.#store(id, label, name, 'copied');
    if (stores.length + written.length + copied.length === 0)
      this.#findings.add('ok', `snapshot ${label}`, 'it has kept nothing yet: it is as the volumes are');
  }

  async #store(id: string, label: string, volumeName: string, kind: Kind): Promise<void> {
    const volume = this.#volume(volumeName);
    if (volume === undefined) return;
    const { regionBytes } = this.#record;
    const identity = { ownerId: id, volumeId: volume.id, sizeBytes: volume.sizeBytes, regionBytes };
    const name = `snapshots/${id}/${volumeName}.${kind}`;
    this.#known.add(name);
    let store: RegionStore;
    try {
      store = await RegionStore.open(this.#folder, name, identity);
    } catch (error) {
      const advice = `it has what snapshot ${label}, or one before it, shows: put it back from a backup`;
      this.#findings.addError(name, error, advice);
      return;
    }
    const { doubtful, map } = store;
    await store.close();
    if (doubtful.length === 0) {
      const what = `snapshot ${label} of volume ${volumeName}: header and map are intact, ${map.count} regions ${kind}`;
      this.#findings.add('ok', name, what);
      return;
    }
    const what = `its map is damaged: which of these regions snapshot ${label} has ${kind} cannot be told`;
    const regions = regionsInDoubt(volumeName, label, doubtful);
    this.#findings.add('damage', name, what, `they are not read at all; ${DELETE}`, regions);
  }

  async #restore(node: RestoreRecord): Promise<void> {
    for (const volumeName of node.volumes) {
      const name = restoreMapName(node.id, volumeName);
      const doubtful = await this.#map(name, volumeName, 'restore of volume');
      if (doubtful.length === 0) continue;
      const what = 'it is damaged: which regions are restored already cannot be told';
      const regions = regionsInDoubt(volumeName, undefined, doubtful);
      this.#findings.add(
        'damage',
        name,
        what,
        'put it back from a backup; the group does not open without it',
        regions,
      );
    }
  }

  async #detached(snapshot: DetachedRecord): Promise<void> {
    const { id, changedId, refresh } = snapshot;
    const label = snapshot.name ?? id;
    for (const { name: volumeName } of this.#record.volumes) {
      await this.#store(id, label, volumeName, 'copied');
      if (snapshot.written.includes(volumeName)) await this.#store(id, label, volumeName, 'modified');
      const changed = detachedMapName(id, volumeName, 'changed', changedId);
      const more = await this.#map(changed, volumeName, `snapshot ${label} of volume`);
      if (more.length > 0) {
        const what = 'it is damaged: these regions count as changed since the snapshot';
        const regions = regionsInDoubt(volumeName, label, more);
        this.#findings.add(
          'doubt',
          changed,
          what,
          'nothing is lost: a restore or a refresh moves more than it has to',
          regions,
        );
      }
      if (refresh === undefined) continue;
      const toCome = detachedMapName(id, volumeName, 'refresh', refresh.layerId);
      const again = await this.#map(toCome, volumeName, `refresh of snapshot ${label} of volume`);
      if (again.length === 0) continue;
      const what = 'it is damaged: these regions of the snapshot count as not refreshed yet';
      const advice = 'what was written through the snapshot since its refresh began may be lost there';
      this.#findings.add('damage', toCome, what, advice, regionsInDoubt(volumeName, label, again));
    }
  }

  async #link({ id, name }: LinkRecord): Promise<void> {
    for (const { name: volumeName } of this.#record.volumes) {
      const dcm = dcmName(id, volumeName);
      const doubtful = await this.#map(dcm, volumeName, `what link ${name} lacks of volume`);
      if (doubtful.length === 0) continue;
      const what = 'it is damaged: these regions count as lacking';
      const advice = 'nothing is lost: a resync moves more than it has to';
      this.#findings.add('doubt', dcm, what, advice);
    }
  }

  /** The regions of its damaged sectors. What keeps it from being read is told. */
  async #map(name: string, volumeName: string, of: string): Promise<readonly RegionRun[]> {
    this.#known.add(name);
    const length = Math.ceil((this.#volume(volumeName)?.sizeBytes ?? 0) / this.#record.regionBytes);
    const needed = DurableMap.bytesFor(length);
    const advice = 'put it back from a backup; the group does not open without it';
    const found = await withDisk(
      () => this.#folder.open(name),
      name,
      this.#findings,
      advice,
      async (disk: Disk) => {
        if (disk.sizeBytes < needed) {
          this.#findings.add('damage', name, `it has ${disk.sizeBytes} bytes, and had ${needed}`, advice);
          return [];
        }
        const { map, doubtful } = await DurableMap.load(disk, 0, length);
        if (doubtful.length === 0)
          this.#findings.add('ok', name, `${of} ${volumeName}: it is intact, ${map.view.count} regions`);
        return doubtful;
      },
    );
    return found ?? [];
  }

  async #leftovers(batches: readonly LogBatch[]): Promise<void> {
    const pending = new Set(batches.flatMap((batch) => this.#idsOf(batch)));
    for (const name of await this.#folder.list()) {
      if (this.#known.has(name) || SECRETS.test(name)) continue;
      const [, id] = /^(?:snapshots|restores|links)\/([^/]+)\//.exec(name) ?? [];
      if (id === undefined) this.#findings.add('note', name, 'it is no file of this group');
      else if (!pending.has(id))
        this.#findings.add(
          'note',
          name,
          'no record names it: a crash left it',
          'a node removes it, or makes it anew',
        );
    }
  }

  #idsOf({ control }: LogBatch): string[] {
    if (control === undefined) return [];
    let found: Control;
    try {
      found = decodeControl(control, (name) => this.#regionCount(name));
    } catch {
      // It is told with the log.
      return [];
    }
    if (found.type === 'restore') return [found.id, found.undo.id];
    return found.type === 'refresh' ? [found.id, found.nextId] : [found.id];
  }

  #regionCount(volumeName: string): number | undefined {
    const volume = this.#volume(volumeName);
    return volume === undefined ? undefined : Math.ceil(volume.sizeBytes / this.#record.regionBytes);
  }
}

/** Who reads a region from a store whose map is damaged there: the snapshot itself, older ones, a volume that is being restored from it. */
export function addUnreadable({ state, effects }: RecoveredGroup, findings: Findings): void {
  for (const volume of state.volumes) {
    const stores = [...state.chain.layers, ...state.detached].flatMap((image) => {
      const part = image.parts[volume.index];
      return part === undefined
        ? []
        : ['preserved' in part ? part.preserved : undefined, part.modified, part.copied];
    });
    const damaged = stores.filter((store): store is RegionStore => (store?.doubtful.length ?? 0) > 0);
    const runs = damaged.flatMap((store) => store.doubtful);
    if (runs.length === 0) continue;
    const views: readonly (readonly [View, string | undefined])[] = [
      [undefined, undefined],
      ...effects.named.map((snapshot) => [snapshot, snapshot.name ?? snapshot.id] as const),
    ];
    for (const [view, label] of views) {
      const isUnreadable = (region: RegionIndex): boolean => {
        const { store } = state.chain.locate(volume.index, region, view);
        return store?.doubtful.some((run) => run.first <= region && region < run.end) ?? false;
      };
      addView(findings, volume.name, label, unreadable(merged(runs), isUnreadable));
    }
  }
}

function addView(
  findings: Findings,
  volumeName: string,
  label: string | undefined,
  runs: readonly RegionRun[],
): void {
  if (runs.length === 0) return;
  const regions = regionsInDoubt(volumeName, label, runs);
  const where = label === undefined ? `volume ${volumeName}` : `snapshot ${label} of volume ${volumeName}`;
  const advice =
    label === undefined
      ? 'a restore that is under way brings them from there: write these regions anew, or restore from another snapshot'
      : `the volume itself is not concerned; ${DELETE}`;
  findings.add('damage', where, `${regions.regionCount} regions cannot be read (EIO)`, advice, regions);
}

function unreadable(runs: readonly RegionRun[], isUnreadable: (region: RegionIndex) => boolean): RegionRun[] {
  const total = runs.reduce((sum, { first, end }) => sum + end - first, 0);
  if (total > MAX_LOOKED_AT) return [...runs];
  const found: RegionRun[] = [];
  for (const { first, end } of runs)
    for (let region = first; region < end; region++)
      if (isUnreadable(region)) found.push({ first: region, end: region + 1 });
  return merged(found);
}

/** In order, without overlaps. */
function merged(runs: readonly RegionRun[]): RegionRun[] {
  const result: { first: RegionIndex; end: RegionIndex }[] = [];
  for (const { first, end } of [...runs].sort((a, b) => a.first - b.first)) {
    const last = result.at(-1);
    if (last !== undefined && first <= last.end) last.end = Math.max(last.end, end);
    else result.push({ first, end });
  }
  return result;
}
