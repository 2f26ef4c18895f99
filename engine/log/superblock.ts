/**
 * The superblock of a log: where its ring begins to be needed. Two slots are written in turn, and space of the ring is used again only
 * after the superblock that frees it is durable (rule L7).
 *
 * A write is three steps, in this order:
 *
 *   1. the new superblock goes to the slot that does not hold the durable one,
 *   2. the disk is synced: now this one holds,
 *   3. a copy goes to the other slot, unsynced. So both slots say the same most of the time, and damage to either costs nothing.
 */
import type { Disk } from '../disk/disk.ts';
import { EngineError } from '../errors.ts';
import {
  isSealed,
  LOG_FLAG_ALLOCATED,
  LOG_MAGIC,
  LOG_RING_OFFSET_BYTES,
  LOG_SLOT_BYTES,
  LOG_SLOTS,
  LOG_VERSION,
  type LogSuperblock,
  logSuperblockLayout,
  SECTOR_BYTES,
  seal,
} from '../formats.ts';
import type { Lsn } from '../units.ts';
import { MIN_LOG_BYTES } from './limits.ts';
import { groupIdBytes, type LogIdentity } from './record.ts';

export interface LogState {
  readonly ringBytes: number;
  /** The oldest batch needed, and the checksum of the one before it. */
  readonly tailLsn: Lsn;
  readonly tailCrc: number;
  /** Everything below it is known durable. */
  readonly endLsn: Lsn;
  /** The ring has its space. */
  readonly allocated: boolean;
}

export class Superblocks {
  readonly #disk: Disk;
  readonly identity: LogIdentity;
  /** Of the superblock written last. */
  sequence: number;
  /** The slot of which it is known that it holds, durably. */
  #slot: number;

  private constructor(disk: Disk, identity: LogIdentity, sequence: number, slot: number) {
    this.#disk = disk;
    this.identity = identity;
    this.sequence = sequence;
    this.#slot = slot;
  }

  /** Writes both slots of a new log. Durable when the promise resolves. */
  static async create(disk: Disk, identity: LogIdentity, state: LogState): Promise<void> {
    const superblocks = new Superblocks(disk, identity, 1, 0);
    const bytes = superblocks.#encode(state);
    for (let slot = 0; slot < LOG_SLOTS; slot++)
      await disk.write(bytes, 0, LOG_SLOT_BYTES, slot * LOG_SLOT_BYTES);
    await disk.sync();
  }

  /**
   * As `create`, over whatever the slots hold, for a log that begins anew in its ring: the sequence goes on, and a ring that has its space keeps it.
   * A crash may leave neither slot intact; who calls comes again then.
   */
  static async restart(
    disk: Disk,
    identity: LogIdentity,
    start: Omit<LogState, 'allocated'>,
  ): Promise<{ superblocks: Superblocks; state: LogState }> {
    const bytes = Buffer.alloc(LOG_RING_OFFSET_BYTES);
    await disk.read(bytes, 0, bytes.length, 0);
    const before: LogSuperblock[] = [];
    for (let slot = 0; slot < LOG_SLOTS; slot++) {
      const found = decode(bytes.subarray(slot * LOG_SLOT_BYTES, slot * LOG_SLOT_BYTES + SECTOR_BYTES));
      if (found !== undefined) before.push(found);
    }
    const sequence = Math.max(0, ...before.map((found) => Number(found.sequence))) + 1;
    const state = { ...start, allocated: before.some((found) => stateOf(found).allocated) };
    const superblocks = new Superblocks(disk, identity, sequence, 0);
    const next = superblocks.#encode(state);
    for (let slot = 0; slot < LOG_SLOTS; slot++)
      await disk.write(next, 0, LOG_SLOT_BYTES, slot * LOG_SLOT_BYTES);
    await disk.sync();
    return { superblocks, state };
  }

  /**
   * Reads what holds. The disk has been synced. Throws `corrupt` when neither slot is intact or the log is another group's, `unsupported` for
   * a later version.
   */
  static async open(
    disk: Disk,
    groupId: string,
  ): Promise<{ superblocks: Superblocks; state: LogState; warnings: string[] }> {
    const bytes = Buffer.alloc(Math.min(disk.sizeBytes, LOG_RING_OFFSET_BYTES));
    await disk.read(bytes, 0, bytes.length, 0);
    const warnings: string[] = [];
    let best: { found: LogSuperblock; slot: number } | undefined;
    for (let slot = 0; slot < LOG_SLOTS; slot++) {
      const found = decode(bytes.subarray(slot * LOG_SLOT_BYTES, slot * LOG_SLOT_BYTES + SECTOR_BYTES));
      if (found === undefined) warnings.push(`the log's superblock ${slot} is damaged: the other one holds`);
      else if (best === undefined || found.sequence > best.found.sequence) best = { found, slot };
    }
    if (best === undefined)
      throw new EngineError(
        'corrupt',
        'neither superblock of the log is intact: restore its file from a copy; nothing was changed',
      );
    const { found, slot } = best;
    if (!found.groupId.equals(groupIdBytes(groupId)))
      throw new EngineError(
        'corrupt',
        'the log is that of another group: name the file that belongs to this one',
      );
    const state = stateOf(found);
    const neededBytes = LOG_RING_OFFSET_BYTES + state.ringBytes;
    if (state.ringBytes % LOG_SLOT_BYTES !== 0 || state.ringBytes < MIN_LOG_BYTES)
      throw new EngineError('corrupt', `the log cannot have a ring of ${state.ringBytes} bytes: report this`);
    if (disk.sizeBytes < neededBytes)
      throw new EngineError(
        'corrupt',
        `the log has ${disk.sizeBytes} bytes and needs ${neededBytes}: it was cut short; restore its file from a copy`,
      );
    const identity = { groupId, generation: found.generation };
    return { superblocks: new Superblocks(disk, identity, Number(found.sequence), slot), state, warnings };
  }

  /**
   * Steps 1 to 3. `sync` makes durable what is written. When the promise resolves the state holds; when it rejects either may hold, and no other
   * write may follow.
   */
  async write(state: LogState, sync: () => Promise<void>): Promise<void> {
    this.sequence++;
    const bytes = this.#encode(state);
    const slot = LOG_SLOTS - 1 - this.#slot;
    await this.#disk.write(bytes, 0, LOG_SLOT_BYTES, slot * LOG_SLOT_BYTES);
    await sync();
    await this.#disk.write(bytes, 0, LOG_SLOT_BYTES, this.#slot * LOG_SLOT_BYTES);
    this.#slot = slot;
  }

  #encode(state: LogState): Buffer {
    const bytes = Buffer.alloc(LOG_SLOT_BYTES);
    const fields = {
      crc: 0,
      version: LOG_VERSION,
      magic: LOG_MAGIC,
      sequence: BigInt(this.sequence),
      groupId: groupIdBytes(this.identity.groupId),
      ringBytes: BigInt(state.ringBytes),
      generation: this.identity.generation,
      flags: state.allocated ? LOG_FLAG_ALLOCATED : 0,
      tailLsn: BigInt(state.tailLsn),
      endLsn: BigInt(state.endLsn),
      tailCrc: state.tailCrc,
      reserved: 0,
    };
    logSuperblockLayout.encode(fields, bytes);
    seal(bytes.subarray(0, SECTOR_BYTES));
    return bytes;
  }
}

/** The superblock in a sector, when it is intact. Throws `unsupported` for a later version. */
function decode(sector: Buffer): LogSuperblock | undefined {
  if (sector.length < SECTOR_BYTES || !isSealed(sector)) return undefined;
  const found = logSuperblockLayout.decode(sector);
  if (!found.magic.equals(LOG_MAGIC)) return undefined;
  if (found.version !== LOG_VERSION)
    throw new EngineError(
      'unsupported',
      `the log has version ${found.version}: use the tidemark that wrote it, or a later one`,
    );
  return found;
}

function stateOf(found: LogSuperblock): LogState {
  return {
    ringBytes: Number(found.ringBytes),
    tailLsn: Number(found.tailLsn),
    tailCrc: found.tailCrc,
    endLsn: Number(found.endLsn),
    allocated: (found.flags & LOG_FLAG_ALLOCATED) !== 0,
  };
}
