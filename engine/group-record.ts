/**
 * The record of a group: everything about it that is not data (rule L10 puts all its control state here). It lies in two slots
 * that are written in turn, so that one is whole at any moment: a torn write leaves the record before it.
 */
import type { Disk } from './disk/disk.ts';
import { EngineError } from './errors.ts';
import {
  GROUP_RECORD_LOG_VERSION,
  GROUP_RECORD_MAGIC,
  GROUP_RECORD_SLOT_BYTES,
  GROUP_RECORD_SLOTS,
  GROUP_RECORD_VERSION,
  groupRecordHeaderLayout,
  isSealed,
  seal,
} from './formats.ts';
import { decodeRecord, encodeRecord } from './group-record-codec.ts';
import type { Lsn } from './units.ts';

export const GROUP_RECORD_FILE_BYTES = GROUP_RECORD_SLOTS * GROUP_RECORD_SLOT_BYTES;

export interface VolumeRecord {
  readonly name: string;
  /** A UUID. */
  readonly id: string;
  readonly sizeBytes: number;
  /** Absolute path of a file or device outside the group's folder; absent when the group has a file of its own. */
  readonly file?: string;
}

/** The ring of the group's log. */
export interface LogFileRecord {
  readonly sizeBytes: number;
  /** Absolute path of a file or device outside the group's folder; absent when the group has a file of its own. */
  readonly file?: string;
}

export interface GenerationRecord {
  readonly number: number;
  /** A UUID. */
  readonly id: string;
  readonly firstLsn: Lsn;
}

/** A snapshot in the chain. The lists are names of volumes that have a store of that kind. */
export interface SnapshotRecord {
  readonly kind: 'snapshot';
  readonly id: string;
  /** null: its name was taken away, and the janitor takes the layer down (rule S4). */
  readonly name: string | null;
  readonly lsn: Lsn;
  readonly createdAt: string;
  readonly local: boolean;
  /** Names of the volumes that it restores, when it was taken to undo a restore. */
  readonly undoOf?: readonly string[];
  /** Preserved. */
  readonly stores: readonly string[];
  /** Modified. */
  readonly written: readonly string[];
  /** Copied so far, while it is being detached. */
  readonly copied: readonly string[];
  readonly detaching: boolean;
}

/** A restore with regions to come. */
export interface RestoreRecord {
  readonly kind: 'restore';
  readonly id: string;
  readonly lsn: Lsn;
  readonly sourceId: string;
  /** Names of the volumes that have regions to come. */
  readonly volumes: readonly string[];
}

export type NodeRecord = SnapshotRecord | RestoreRecord;

/** A snapshot that has left the chain with a copy of everything. */
export interface DetachedRecord {
  readonly id: string;
  /** null: its name was taken away. */
  readonly name: string | null;
  readonly lsn: Lsn;
  readonly createdAt: string;
  readonly local: boolean;
  /** A UUID that names the files of its changed maps: each refresh begins new ones. */
  readonly changedId: string;
  /** As in `SnapshotRecord`; gone with the first refresh. */
  readonly undoOf?: readonly string[];
  /** Copied. */
  readonly stores: readonly string[];
  /** Modified. */
  readonly written: readonly string[];
  readonly refresh?: { readonly layerId: string; readonly id: string };
}

/** A link to a secondary, as the primary keeps it. Its data change map lies in `links/ID/VOLUME.dcm`. */
export interface LinkRecord {
  /** A UUID. */
  readonly id: string;
  readonly name: string;
  /** NBD URI of the secondary's node; its export part, where there is one, is the name of the group there. */
  readonly uri: string;
  /** When a write is acknowledged (rule K4). */
  readonly mode: 'async' | 'memory' | 'sync';
  /** What a link of mode `memory` or `sync` does to writers while it is not streaming. */
  readonly onLost: 'go-on' | 'block';
  /** What it does when it holds the log back past its limit (rule K6). */
  readonly onFull: 'dcm' | 'block' | 'detach';
  /** Whether regions are copied by themselves, or when its operator says so; and that he has, for the resync that is under way or comes next. */
  readonly resync: 'auto' | 'manual';
  readonly resyncAllowed: boolean;
  /** Changes whose regions would have to be copied to its secondary, out of the order of the log, are refused ([0079]). */
  readonly orderedOnly: boolean;
  /** Log kept for it at most, in bytes; 0: half of the ring. And in seconds; 0: as long as that lasts. */
  readonly limitBytes: number;
  readonly limitSeconds: number;
  /** What a resync moves a second at most, in bytes; 0: no limit. */
  readonly rateBytesPerSecond: number;
  /** What its operator wants of it. */
  readonly wanted: 'active' | 'paused' | 'detached';
  /**
   * What its secondary lacks of the group: of records from `baseLsn` on up to `logLsn` the DCM has the regions; those from `logLsn` on come through the log, which
   * is kept for it. null: everything since `baseLsn` is, or will be as it is applied, in the DCM (rule K5). What is below `baseLsn` the secondary has durably.
   */
  readonly position: { readonly baseLsn: Lsn; readonly logLsn: Lsn | null };
  /** UUID of the secondary's copy of the group, once it was met. */
  readonly peerId: string | null;
  /** Records of restores, from the first to the last of them, of which nobody knew yet whether the secondary would lack regions (rule K4). Absent: none. */
  readonly openRestores?: { readonly firstLsn: Lsn; readonly lastLsn: Lsn };
}

/** What a secondary keeps about what it gets. */
export interface ReplicaRecord {
  /** The link that feeds it ([0062]), once it has met its primary. */
  readonly upstream: {
    readonly linkId: string;
    readonly linkName: string;
    readonly memberId: string;
    /** Ids of the members that feed that one, the nearest first. */
    readonly path: readonly string[];
  } | null;
  /** Up to there records may be in the volumes, and readers may have seen them: a start replays to it, and no further (rule K12). */
  readonly horizonLsn: Lsn;
  /** Regions come out of order (rule K9). `guardId`: the layer that readers get meanwhile; null: there is no consistent image yet. */
  readonly resync: { readonly guardId: string | null } | null;
  /**
   * A resync is complete, and readers see the image from before, that layer or nothing, until what is at the horizon is as old as the delay (rule K12):
   * nothing beyond it is admitted before. Never together with `resync`.
   */
  readonly oldImage: { readonly guardId: string | null } | null;
  /** Names of volumes that have a map of needed regions, `replica/VOLUME.needs` (rule K10), and the number that tells them from earlier ones. */
  readonly needs: { readonly version: number; readonly volumes: readonly string[] };
  /** The log is being restarted there; a start carries that through (rule L5). */
  readonly restart: {
    readonly lsn: Lsn;
    readonly chain: number;
    readonly groupId: string;
    readonly generation: GenerationRecord;
  } | null;
  /** Its operator keeps it from applying ([0061]). */
  readonly frozen: boolean;
  /** Records are applied so long after they came, in seconds. */
  readonly applyDelaySeconds: number;
}

/** All control state of a group (rule L10). */
export interface GroupRecord {
  /** `creating` and `deleting`: the files are not all there, and the group is not; they are to be removed. */
  readonly state: 'creating' | 'ready' | 'deleting';
  /** A UUID. */
  readonly id: string;
  readonly name: string;
  readonly role: 'primary' | 'secondary';
  /** ISO 8601, UTC. */
  readonly createdAt: string;
  readonly regionBytes: number;
  readonly volumes: readonly VolumeRecord[];
  readonly log: LogFileRecord;
  /** What gives way when a disk is full (rule S8). */
  readonly onFull: 'hold' | 'give-up';
  readonly generation: GenerationRecord;
  /** Records below it need no replay. */
  readonly checkpointLsn: Lsn;
  /** The chain, in LSN order. */
  readonly nodes: readonly NodeRecord[];
  /** Ids of snapshots that were given up before their record was applied (rule S4). */
  readonly voided: readonly string[];
  readonly detached: readonly DetachedRecord[];
  /** UUID of this node's copy of the group. */
  readonly memberId: string;
  /** Of a primary; and of a secondary that feeds others (rule K11). */
  readonly links: readonly LinkRecord[];
  /** Of a secondary; null on a primary. */
  readonly replica: ReplicaRecord | null;
}

/** What may be added to a record of the base size, all worst cases taken together: see the test of that name. */
export const MAX_RECORDED_NODES = 1024;
/** Of a record without a chain, in bytes of JSON: 64 volumes, each with a path of 4 KiB outside, take a little more than half of that. */
export const MAX_BASE_RECORD_BYTES = GROUP_RECORD_SLOT_BYTES / 2;

const PAGE_BYTES = 4096;

interface Slot {
  readonly sequence: bigint;
  readonly version: number;
  readonly record: GroupRecord;
}

/** One that was read, and how it lies on the disk. */
interface FoundSlot extends Slot {
  readonly bytes: Buffer;
}

/** Throws `invalid` when the record of a new group leaves no room for its snapshots. */
export function checkRecordSize(record: GroupRecord): void {
  const bytes = encodeRecord(record).length;
  if (bytes <= MAX_BASE_RECORD_BYTES) return;
  const what = `the group's record takes ${bytes} bytes, above the limit of ${MAX_BASE_RECORD_BYTES}: use shorter paths for its files`;
  throw new EngineError('invalid', what);
}

function encodeSlot(record: GroupRecord, sequence: bigint, padded: boolean): Buffer {
  const payload = encodeRecord(record);
  const lengthBytes = groupRecordHeaderLayout.span + payload.length;
  if (lengthBytes > GROUP_RECORD_SLOT_BYTES) {
    const what = `the group's record would take ${lengthBytes} bytes, above the limit of ${GROUP_RECORD_SLOT_BYTES}: delete snapshots`;
    throw new EngineError('invalid', what);
  }
  // Whole pages, so that the kernel never has to read one first.
  const bytes = Buffer.alloc(
    padded ? GROUP_RECORD_SLOT_BYTES : Math.ceil(lengthBytes / PAGE_BYTES) * PAGE_BYTES,
  );
  groupRecordHeaderLayout.encode(
    {
      crc: 0,
      version: GROUP_RECORD_VERSION,
      magic: GROUP_RECORD_MAGIC,
      sequence,
      payloadBytes: payload.length,
      reserved: 0,
    },
    bytes,
  );
  payload.copy(bytes, groupRecordHeaderLayout.span);
  seal(bytes.subarray(0, lengthBytes));
  return bytes;
}

/** The slot's record, or undefined when it is blank, torn or damaged. */
async function readSlot(disk: Disk, startBytes: number): Promise<FoundSlot | undefined> {
  const head = Buffer.alloc(PAGE_BYTES);
  await disk.read(head, 0, head.length, startBytes);
  const header = groupRecordHeaderLayout.decode(head);
  if (!header.magic.equals(GROUP_RECORD_MAGIC)) return undefined;
  const endBytes = groupRecordHeaderLayout.span + header.payloadBytes;
  if (endBytes > GROUP_RECORD_SLOT_BYTES) return undefined;
  const bytes = Buffer.alloc(endBytes);
  head.copy(bytes);
  if (endBytes > head.length)
    await disk.read(bytes, head.length, endBytes - head.length, startBytes + head.length);
  if (!isSealed(bytes)) return undefined;
  const { version, sequence } = header;
  if (version < 1 || version > GROUP_RECORD_VERSION) {
    const what = `the group's record has version ${version}; this program knows ${GROUP_RECORD_VERSION} and below`;
    throw new EngineError('unsupported', what);
  }
  const record = decodeRecord(bytes.toString('utf8', groupRecordHeaderLayout.span), version);
  return { sequence, version, record, bytes };
}

const slotStart = (sequence: bigint): number =>
  Number(sequence % BigInt(GROUP_RECORD_SLOTS)) * GROUP_RECORD_SLOT_BYTES;

/**
 * The file of a record. Its owner writes one record at a time.
 *
 * All its space is taken when a group is made, so that a full disk never keeps a name from being taken away (rule S4).
 */
export class GroupRecordFile {
  /** The record was written by a version before this one, and there is no log yet. */
  readonly outdated: boolean;
  readonly #disk: Disk;
  #newest: Slot | undefined;
  /** A slot may lack its space: it was made by a version that did not see to that. So slots are written whole. */
  readonly #padded: boolean;

  private constructor(disk: Disk, newest: Slot | undefined, oldest: number) {
    this.#disk = disk;
    this.#newest = newest;
    this.#padded = oldest < GROUP_RECORD_LOG_VERSION;
    this.outdated = newest !== undefined && newest.version < GROUP_RECORD_LOG_VERSION;
  }

  /** Takes the space of a record's file, on a new disk. Durable with the first record. */
  static async allocate(disk: Disk): Promise<void> {
    await disk.zero(0, GROUP_RECORD_FILE_BYTES, false);
  }

  /** Reads the record, if there is an intact one. The disk is owned from here on, also when this throws. */
  static async open(disk: Disk): Promise<GroupRecordFile> {
    try {
      let newest: FoundSlot | undefined;
      let oldest = GROUP_RECORD_VERSION;
      for (let slot = 0; slot < GROUP_RECORD_SLOTS; slot++) {
        const startBytes = slot * GROUP_RECORD_SLOT_BYTES;
        if (startBytes + GROUP_RECORD_SLOT_BYTES > disk.sizeBytes) break;
        const found = await readSlot(disk, startBytes);
        if (found === undefined) continue;
        oldest = Math.min(oldest, found.version);
        if (newest === undefined || found.sequence > newest.sequence) newest = found;
      }
      if (newest !== undefined) await makeDurable(disk, newest);
      return new GroupRecordFile(disk, newest, oldest);
    } catch (error) {
      await disk.close();
      throw error;
    }
  }

  /** The record that holds, or undefined when there is none. */
  get record(): GroupRecord | undefined {
    return this.#newest?.record;
  }

  /**
   * Durable when the promise resolves; when it rejects, or never settles, the record before it or this one holds. Rejects with `disk`; with
   * `invalid`, and nothing is written, for a record that is too large.
   */
  async write(record: GroupRecord): Promise<void> {
    const sequence = (this.#newest?.sequence ?? 0n) + 1n;
    const bytes = encodeSlot(record, sequence, this.#padded);
    const start = slotStart(sequence);
    if (!this.#disk.tryWrite(bytes, 0, bytes.length, start))
      await this.#disk.write(bytes, 0, bytes.length, start);
    await this.#disk.sync();
    this.#newest = { sequence, version: GROUP_RECORD_VERSION, record };
  }

  /** Lets `write` be tried again after a sync that failed: it writes all that was lost again, into the same slot (rule L6). */
  forgive(): void {
    this.#disk.forgive();
  }

  close(): Promise<void> {
    return this.#disk.close();
  }
}

/**
 * What was read may be in the page cache alone: from a process that was killed, or, after a sync that failed, called clean by a kernel that never
 * wrote it (rule L6). So it is written where it lies before it counts.
 */
async function makeDurable(disk: Disk, slot: FoundSlot): Promise<void> {
  await disk.write(slot.bytes, 0, slot.bytes.length, slotStart(slot.sequence));
  await disk.sync();
}
