/**
 * The record of a group: everything about it that is not data (rule L10 puts all its control state here). It lies in two slots
 * that are written in turn, so that one is whole at any moment: a torn write leaves the record before it.
 */
import type { Disk } from './disk/disk.ts';
import { assert, EngineError } from './errors.ts';
import {
  GROUP_RECORD_MAGIC,
  GROUP_RECORD_SLOT_BYTES,
  GROUP_RECORD_SLOTS,
  GROUP_RECORD_VERSION,
  groupRecordHeaderLayout,
  isSealed,
  seal,
} from './formats.ts';

export const GROUP_RECORD_FILE_BYTES = GROUP_RECORD_SLOTS * GROUP_RECORD_SLOT_BYTES;

export interface VolumeRecord {
  readonly name: string;
  /** A UUID. */
  readonly id: string;
  readonly sizeBytes: number;
  /** Absolute path of a file or device outside the group's folder; absent when the group has a file of its own. */
  readonly file?: string;
}

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
}

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isVolumeRecord(value: unknown): value is VolumeRecord {
  return (
    isObject(value) &&
    typeof value['name'] === 'string' &&
    typeof value['id'] === 'string' &&
    UUID.test(value['id']) &&
    Number.isSafeInteger(value['sizeBytes']) &&
    (value['file'] === undefined || typeof value['file'] === 'string')
  );
}

function isGroupRecord(value: unknown): value is GroupRecord {
  return (
    isObject(value) &&
    ['creating', 'ready', 'deleting'].includes(String(value['state'])) &&
    typeof value['id'] === 'string' &&
    UUID.test(value['id']) &&
    typeof value['name'] === 'string' &&
    ['primary', 'secondary'].includes(String(value['role'])) &&
    typeof value['createdAt'] === 'string' &&
    Number.isSafeInteger(value['regionBytes']) &&
    Array.isArray(value['volumes']) &&
    value['volumes'].every(isVolumeRecord)
  );
}

interface Slot {
  readonly sequence: bigint;
  readonly record: GroupRecord;
}

function encodeSlot(record: GroupRecord, sequence: bigint): Buffer {
  const payload = Buffer.from(JSON.stringify(record), 'utf8');
  const bytes = Buffer.alloc(groupRecordHeaderLayout.span + payload.length);
  assert(bytes.length <= GROUP_RECORD_SLOT_BYTES, 'the record fits its slot');
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
  seal(bytes);
  return bytes;
}

/** The slot's record, or undefined when it is blank, torn or damaged. */
function decodeSlot(bytes: Buffer): Slot | undefined {
  const header = groupRecordHeaderLayout.decode(bytes);
  if (!header.magic.equals(GROUP_RECORD_MAGIC)) return undefined;
  const endBytes = groupRecordHeaderLayout.span + header.payloadBytes;
  if (endBytes > bytes.length || !isSealed(bytes.subarray(0, endBytes))) return undefined;
  if (header.version !== GROUP_RECORD_VERSION) {
    const what = `the group's record has version ${header.version}; this program knows ${GROUP_RECORD_VERSION}`;
    throw new EngineError('unsupported', what);
  }
  const text = bytes.toString('utf8', groupRecordHeaderLayout.span, endBytes);
  const record: unknown = JSON.parse(text);
  // It is what we wrote, so a program of another opinion did.
  if (!isGroupRecord(record))
    throw new EngineError('corrupt', "the group's record is intact and makes no sense");
  return { sequence: header.sequence, record };
}

/** The file of a record. Its owner writes one record at a time. */
export class GroupRecordFile {
  readonly #disk: Disk;
  #newest: Slot | undefined;

  private constructor(disk: Disk, newest: Slot | undefined) {
    this.#disk = disk;
    this.#newest = newest;
  }

  /** Reads the record, if there is an intact one. The disk is owned from here on, also when this throws. */
  static async open(disk: Disk): Promise<GroupRecordFile> {
    try {
      // What this process reads may still be in the page cache only, from one that was killed.
      await disk.sync();
      const bytes = Buffer.alloc(Math.min(GROUP_RECORD_FILE_BYTES, disk.sizeBytes));
      await disk.read(bytes, 0, bytes.length, 0);
      let newest: Slot | undefined;
      for (let start = 0; start + GROUP_RECORD_SLOT_BYTES <= bytes.length; start += GROUP_RECORD_SLOT_BYTES) {
        const slot = decodeSlot(bytes.subarray(start, start + GROUP_RECORD_SLOT_BYTES));
        if (slot !== undefined && (newest === undefined || slot.sequence > newest.sequence)) newest = slot;
      }
      return new GroupRecordFile(disk, newest);
    } catch (error) {
      await disk.close();
      throw error;
    }
  }

  /** The record that holds, or undefined when there is none. */
  get record(): GroupRecord | undefined {
    return this.#newest?.record;
  }

  /** Durable when the promise resolves; when it rejects, or never settles, the record before it or this one holds. */
  async write(record: GroupRecord): Promise<void> {
    const sequence = (this.#newest?.sequence ?? 0n) + 1n;
    const bytes = encodeSlot(record, sequence);
    const start = Number(sequence % BigInt(GROUP_RECORD_SLOTS)) * GROUP_RECORD_SLOT_BYTES;
    await this.#disk.write(bytes, 0, bytes.length, start);
    await this.#disk.sync();
    this.#newest = { sequence, record };
  }

  close(): Promise<void> {
    return this.#disk.close();
  }
}
