/**
 * What the parts of an open group share: its volumes, log and chain, the lane, and the record that makes changes of all that durable.
 *
 * **The lane.** Whatever changes volumes, stores, maps or the record (the applier, the restore copier, writes to snapshots, the janitor)
 * does so in the lane, one small step at a time, so that each step finds what the one before it left. Readers run beside it.
 */
import { randomUUID } from 'node:crypto';
import type { Clock } from './clock.ts';
import type { Disk, DiskFolder } from './disk/disk.ts';
import { turnstile } from './disk/turnstile.ts';
import type { GroupRecord, GroupRecordFile, NodeRecord } from './group-record.ts';
import { Acknowledgement } from './link/acknowledgement.ts';
import type { LinkState } from './link/link-state.ts';
import type { Log } from './log/log.ts';
import { PendingIndex } from './log/pending-index.ts';
import { LogReader } from './log/reader.ts';
import type { MapFile } from './map/map-file.ts';
import { RegionMap, type RegionRun } from './map/region-map.ts';
import { Chain, type ChainNode, type Layer, type LayerPart } from './snapshot/chain.ts';
import type { DetachedSnapshot } from './snapshot/detached.ts';
import { ImageReader, type ReadableVolume } from './snapshot/image-reader.ts';
import { ReadTracker } from './snapshot/read-tracker.ts';
import { RegionStore, type StoreIdentity } from './snapshot/region-store.ts';
import { Space } from './space.ts';
import type { Lsn, RegionIndex } from './units.ts';

/** What happened in a group, for people and programs. */
export interface GroupEvent {
  /** `thing.what-happened`, stable. */
  readonly type: string;
  /** One line for people. */
  readonly message: string;
  readonly data?: Readonly<Record<string, unknown>>;
}

/** A volume as the engine's parts see it. */
export interface GroupVolume extends ReadableVolume {
  readonly name: string;
  readonly id: string;
  readonly sizeBytes: number;
  readonly map: MapFile;
  /** Written by the applier or the copier since its last sync. */
  unsynced: boolean;
}

/** The work done since the group was opened. */
export interface GroupCounters {
  regionsPreserved: number;
  regionsRestored: number;
  /** On a secondary: regions that came out of order, and bytes of all that came. */
  regionsResynced: number;
  bytesReceived: number;
}

/** The part of a group's record that nothing in memory stands for. */
export type RecordChanges = Partial<Pick<GroupRecord, 'id' | 'generation' | 'replica'>>;

/** Is told which regions of the volumes change, before they do. What it was told is durable before the checkpoint passes (rules S6, K5). */
export interface ChangeTracker {
  noteChanged(volumeIndex: number, regions: readonly RegionIndex[]): void;
  noteChangedRun(volumeIndex: number, run: RegionRun): void;
  /** On a secondary: of regions that come out of order, for which nothing is in the log (rule K11). */
  noteReceived(volumeIndex: number, regions: readonly RegionIndex[]): void;
  flush(): Promise<void>;
}

/** Somebody who still reads the log, beside the applier. */
export interface LogHold {
  /** From there on the log is kept; null: it is not. */
  readonly heldLsn: Lsn | null;
}

export interface StateParts {
  readonly folder: DiskFolder;
  readonly clock: Clock;
  readonly log: Log;
  readonly record: GroupRecord;
  readonly recordFile: GroupRecordFile;
  readonly volumes: readonly { name: string; id: string; sizeBytes: number; disk: Disk; map: MapFile }[];
  readonly memoryBytes: number;
  readonly emit: (event: GroupEvent) => void;
}

export class GroupState {
  readonly folder: DiskFolder;
  readonly clock: Clock;
  readonly log: Log;
  readonly logReader: LogReader;
  readonly chain = new Chain();
  readonly readers = new ReadTracker();
  readonly reader: ImageReader;
  readonly volumes: readonly GroupVolume[];
  readonly regionBytes: number;
  readonly memoryBytes: number;
  readonly emit: (event: GroupEvent) => void;
  readonly space: Space;
  readonly counters: GroupCounters = {
    regionsPreserved: 0,
    regionsRestored: 0,
    regionsResynced: 0,
    bytesReceived: 0,
  };
  /** What readers of the volumes get: the guard while regions come out of order, nothing before the first of all has come; else what is there (rule K9). */
  shownImage: Layer | 'none' | undefined;
  /** Snapshots that left the chain with a copy of everything. */
  readonly detached: DetachedSnapshot[] = [];
  readonly links: LinkState[] = [];
  /** What acknowledgements wait for, beside the log here (rule K4). */
  readonly acknowledgement: Acknowledgement;
  /** Who keeps the log from being freed, beside the checkpoint. */
  readonly logHolds = new Set<LogHold>();
  #logFloorLsn: Lsn;
  /** Snapshots given up before the record that makes them was applied (rule S4). */
  readonly voided = new Set<string>();
  /** One at a time: see above. */
  readonly lane = turnstile(1);
  /**
   * Counts failed syncs of volumes. Who writes a volume and then counts on a sync looks whether there was one in between: it may have taken what was
   * written with it, and the sync after it succeeds all the same.
   */
  volumeLosses = 0;
  /** Called when a volume's sync has failed: what was written since the checkpoint is to be written again (rule L6). */
  onVolumeLost: () => void = () => {};
  /** Syncs of volumes under way. */
  #syncing: Promise<void> = Promise.resolve();
  #recordInDoubt = false;
  #record: GroupRecord;
  readonly #recordFile: GroupRecordFile;

  constructor(parts: StateParts) {
    this.folder = parts.folder;
    this.clock = parts.clock;
    this.log = parts.log;
    this.logReader = new LogReader(parts.log);
    this.acknowledgement = new Acknowledgement(parts.clock, parts.log);
    this.#logFloorLsn = parts.log.tailLsn;
    this.memoryBytes = parts.memoryBytes;
    this.emit = parts.emit;
    this.#record = parts.record;
    this.#recordFile = parts.recordFile;
    this.regionBytes = parts.record.regionBytes;
    this.space = new Space(parts.folder, this.regionBytes, parts.emit);
    this.reader = new ImageReader(this.chain, this.log, this.readers, () => this.volumeLosses);
    this.volumes = parts.volumes.map((volume, index) => ({
      ...volume,
      index,
      regionBytes: this.regionBytes,
      pending: new PendingIndex(this.regionBytes, Math.ceil(volume.sizeBytes / this.regionBytes)),
      unsynced: false,
    }));
  }

  get record(): GroupRecord {
    return this.#record;
  }

  get checkpointLsn(): Lsn {
    return this.#record.checkpointLsn;
  }

  /** Everybody who keeps a map of what changes on the volumes. */
  get trackers(): readonly ChangeTracker[] {
    return this.links.length === 0 ? this.detached : [...this.detached, ...this.links];
  }

  /** Below it nobody needs the log any more. */
  get freeableLsn(): Lsn {
    let least = this.checkpointLsn;
    for (const { heldLsn } of this.logHolds) if (heldLsn !== null && heldLsn < least) least = heldLsn;
    return least;
  }

  /** From there on the log is there to be read, by whoever holds it. */
  get logFloorLsn(): Lsn {
    return this.#logFloorLsn;
  }

  /** Log below `lsn` is about to be freed: nobody can hold it from here on. */
  raiseLogFloor(lsn: Lsn): void {
    this.#logFloorLsn = Math.max(this.#logFloorLsn, lsn);
  }

  regionCount(volume: GroupVolume): number {
    return Math.ceil(volume.sizeBytes / this.regionBytes);
  }

  /** Bytes of a region: the last one may be short. */
  bytesOf(volume: GroupVolume, region: RegionIndex): number {
    return Math.min(this.regionBytes, volume.sizeBytes - region * this.regionBytes);
  }

  /**
   * Makes the control state durable as it stands in memory, together with a checkpoint: one write (rule L10). In the lane. When it rejects,
   * the record before it holds, or this one does. `changes`: of what is in the record alone.
   */
  async writeRecord(checkpointLsn: Lsn, changes: RecordChanges = {}): Promise<void> {
    const record: GroupRecord = {
      ...this.#record,
      ...changes,
      checkpointLsn,
      nodes: this.chain.nodes.filter((node) => node.applied).map((node) => this.#nodeRecord(node)),
      voided: [...this.voided],
      detached: this.detached.map((snapshot) => snapshot.record()),
      links: this.links.map((link) => link.record()),
    };
    try {
      await this.#recordFile.write(record);
    } catch (error) {
      this.#recordFile.forgive();
      this.#recordInDoubt = true;
      throw error;
    }
    this.#recordInDoubt = false;
    this.#record = record;
  }

  /** The last record could not be written, and may be there all the same. */
  get isRecordInDoubt(): boolean {
    return this.#recordInDoubt;
  }

  /**
   * Before a file is made anew that a record may name which could not be written, and may be there all the same: writes the record as it is now in
   * its place. In the lane.
   */
  async settleRecord(): Promise<void> {
    if (this.#recordInDoubt) await this.writeRecord(this.checkpointLsn);
  }

  #nodeRecord(node: ChainNode): NodeRecord {
    if (node.kind === 'restore') {
      const volumes = this.#volumesWith(node.parts);
      return { kind: 'restore', id: node.id, lsn: node.lsn, sourceId: node.source.id, volumes };
    }
    return {
      kind: 'snapshot',
      id: node.id,
      name: node.recordedName,
      lsn: node.lsn,
      createdAt: node.createdAt,
      local: node.local,
      ...(node.undoOf === undefined ? {} : { undoOf: node.undoOf }),
      stores: this.#volumesWith(node.parts.map((part) => part.preserved)),
      written: this.#volumesWith(node.parts.map((part) => part.modified)),
      copied: this.#volumesWith(node.parts.map((part) => part.copied)),
      detaching: node.detaching,
    };
  }

  #volumesWith(parts: readonly unknown[]): string[] {
    return this.volumes.filter((volume) => parts[volume.index] !== undefined).map((volume) => volume.name);
  }

  /**
   * Syncs the volumes that were written before the call, and waits for what others sync. A failed sync means that the log has to be applied again
   * from the checkpoint (rule L6). Called between two steps of the lane, or inside one.
   */
  async syncVolumes(): Promise<void> {
    const before = this.#syncing;
    // What is written from here on is of the next sync.
    const due = this.volumes.filter((volume) => volume.unsynced);
    for (const volume of due) volume.unsynced = false;
    const sync = this.#syncAll(due);
    this.#syncing = Promise.all([before.catch(() => {}), sync.catch(() => {})]).then(() => {});
    await before;
    await sync;
  }

  async #syncAll(volumes: readonly GroupVolume[]): Promise<void> {
    const lost = (error: unknown): never => {
      // At once, however long the others take: readers must not meet what it lost in between.
      for (const volume of volumes) volume.unsynced = true;
      this.volumeLosses++;
      this.onVolumeLost();
      throw error;
    };
    const results = await Promise.allSettled(volumes.map((volume) => volume.disk.sync().catch(lost)));
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  }

  /** Marks regions as written since the volume's creation, before they are. */
  async markWritten(volume: GroupVolume, runs: readonly RegionRun[]): Promise<void> {
    try {
      await volume.map.markAll(runs);
    } catch (error) {
      // The map writes all that counts again at the next try.
      volume.map.forgive();
      throw error;
    }
  }

  /** New, empty parts for a layer. */
  layerParts(): LayerPart[] {
    return this.volumes.map((volume) => ({
      preserved: undefined,
      modified: undefined,
      copied: undefined,
      changed: new RegionMap(this.regionCount(volume)),
    }));
  }

  storeIdentity(ownerId: string, volume: GroupVolume): StoreIdentity {
    return { ownerId, volumeId: volume.id, sizeBytes: volume.sizeBytes, regionBytes: this.regionBytes };
  }

  storeName(ownerId: string, volume: GroupVolume, kind: StoreKind): string {
    return `snapshots/${ownerId}/${volume.name}.${kind}`;
  }

  /** Makes a store; one that a crash left behind before the record named it is made anew. */
  async createStore(ownerId: string, volume: GroupVolume, kind: StoreKind): Promise<RegionStore> {
    const name = this.storeName(ownerId, volume, kind);
    await this.settleRecord();
    await this.folder.remove(name);
    return await RegionStore.create(this.folder, name, this.storeIdentity(ownerId, volume));
  }

  openStore(ownerId: string, volume: GroupVolume, kind: StoreKind): Promise<RegionStore> {
    const name = this.storeName(ownerId, volume, kind);
    return RegionStore.open(this.folder, name, this.storeIdentity(ownerId, volume));
  }

  newId(): string {
    return randomUUID();
  }
}

export type StoreKind = 'preserved' | 'modified' | 'copied';
