/**
 * The space of the disk that a group lies on (rule S8): told about well before it ends, and with a little kept back, so that what gives
 * space back can still be done when there is none.
 */
import type { Disk, DiskFolder } from './disk/disk.ts';
import { EngineError } from './errors.ts';
import { RESERVE_NAME } from './group-folder.ts';
import type { GroupEvent } from './group-state.ts';
import { GIB, MIB } from './units.ts';

/** What is kept back, in bytes: room for the regions that the janitor moves in a step before it frees as many; at least one region. */
const RESERVE_BYTES = 8 * MIB;
/** Space is low when less than that is free: a tenth of the disk, or so much of a large one. */
const LOW_SHARE = 1 / 10;
const LOW_BYTES = 16 * GIB;
/** … and is no more low when there is so much more. */
const ENOUGH_FACTOR = 1.25;

export class Space {
  readonly #folder: DiskFolder;
  readonly #emit: (event: GroupEvent) => void;
  readonly #reserveBytes: number;
  #reserve: Disk | undefined;
  #isKept = false;
  #low = false;
  /** What `isShort` would have said when somebody looked last. */
  wasShort = false;

  constructor(folder: DiskFolder, regionBytes: number, emit: (event: GroupEvent) => void) {
    this.#folder = folder;
    this.#emit = emit;
    this.#reserveBytes = Math.max(RESERVE_BYTES, 2 * regionBytes);
  }

  /** Takes the reserve, if there is room for it. */
  async keep(): Promise<void> {
    if (this.#isKept) return;
    try {
      this.#reserve ??= await openOrCreate(this.#folder, this.#reserveBytes);
      await this.#reserve.zero(0, this.#reserve.sizeBytes, false);
      this.#isKept = true;
    } catch (error) {
      if (!(error instanceof EngineError)) throw error;
      // What was taken in part would be missed, and help nobody.
      await this.release().catch(() => {});
    }
  }

  /** Gives the reserve back, for what gives more back. Whether there was any. */
  async release(): Promise<boolean> {
    const was = this.#isKept;
    this.#isKept = false;
    await this.#reserve?.punch(0, this.#reserve.sizeBytes);
    return was;
  }

  /** Nothing needs it any more: the group is in direct mode. */
  async remove(): Promise<void> {
    await this.close();
    this.#isKept = false;
    await this.#folder.remove(RESERVE_NAME);
  }

  /** Whether not even as much is left as would be kept back: no time to begin something that takes room. */
  async isShort(): Promise<boolean> {
    const { freeBytes } = await this.#folder.space();
    return this.#judge(freeBytes);
  }

  #judge(freeBytes: number): boolean {
    this.wasShort = freeBytes + (this.#isKept ? this.#reserveBytes : 0) < this.#reserveBytes;
    return this.wasShort;
  }

  /** Looks how much is left, and tells when it becomes little, and when there is enough again. */
  async look(): Promise<void> {
    const { freeBytes, totalBytes } = await this.#folder.space();
    this.#judge(freeBytes);
    const low = Math.min(totalBytes * LOW_SHARE, LOW_BYTES);
    if (!this.#low && freeBytes < low) {
      this.#low = true;
      const message = `${Math.floor(freeBytes / MIB)} MiB are left on the disk of this group: free space, or delete snapshots`;
      this.#emit({ type: 'space.low', message, data: { freeBytes, totalBytes } });
    } else if (this.#low && freeBytes > low * ENOUGH_FACTOR) {
      this.#low = false;
      this.#emit({
        type: 'space.enough',
        message: 'there is enough space again',
        data: { freeBytes, totalBytes },
      });
    }
  }

  async close(): Promise<void> {
    const reserve = this.#reserve;
    this.#reserve = undefined;
    await reserve?.close();
  }
}

async function openOrCreate(folder: DiskFolder, sizeBytes: number): Promise<Disk> {
  try {
    return await folder.open(RESERVE_NAME);
  } catch (error) {
    if (!(error instanceof EngineError) || error.code !== 'not-found') throw error;
    return await folder.create(RESERVE_NAME, sizeBytes);
  }
}
