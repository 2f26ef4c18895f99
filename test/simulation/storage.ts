/**
 * The disks of a simulated machine, and how badly they behave. It outlives the processes that use it: each gets a folder of its own
 * (`SimFolder`), which is worth nothing once the process is dead.
 */
import { EngineError } from '../../engine/errors.ts';
import type { Tasks } from './scheduler.ts';
import { SimFolder } from './sim-disk.ts';
import { Medium, PAGE_BYTES } from './sim-medium.ts';

export type DiskOperation = 'read' | 'write' | 'sync' | 'zero' | 'punch' | 'create' | 'open' | 'remove';

/** What a file is for, by its name. */
export type FileKind = 'record' | 'log' | 'volume' | 'map' | 'store';

export interface Fault {
  readonly operation: DiskOperation;
  readonly file: FileKind | 'any';
  /** How many calls fail; null: every one from now on. */
  times: number | null;
}

export function fileKind(name: string): FileKind {
  if (name === 'group.record') return 'record';
  if (name.startsWith('maps/')) return 'map';
  if (name.startsWith('volumes/')) return 'volume';
  if (name.startsWith('snapshots/') || name.startsWith('restores/')) return 'store';
  return 'log';
}

/** Traits of the machine that hold for a run. */
export interface Traits {
  /** How often a `try` call says no, and `mayWriteInline` too. */
  readonly tryRefusal: number;
  /** How often a call on several sectors is seen half done. */
  readonly tearing: number;
  /** Whether it zeroes without writing zeroes. */
  readonly zeroesFast: boolean;
  /** How much of what a failed sync could not write is lost at once, rather than at the next power cut. */
  readonly lostAtFailedSync: number;
}

export class Storage {
  readonly scheduler: Tasks;
  readonly traits: Traits;
  readonly media = new Map<string, Medium>();
  readonly space = { usedPages: 0, totalPages: Number.POSITIVE_INFINITY };
  faults: Fault[] = [];
  /** Calls that failed by a fault, for the model: what was refused need not have been done. */
  failedSyncs: string[] = [];
  #folder: SimFolder | undefined;

  constructor(scheduler: Tasks, traits: Traits) {
    this.scheduler = scheduler;
    this.traits = traits;
  }

  /** The disks as a new process finds them. */
  folder(): SimFolder {
    this.#folder = new SimFolder(this);
    return this.#folder;
  }

  /** Ends the process. What it had under way may have happened; what the page cache holds stays, unless the power goes too. */
  kill(power: boolean): void {
    if (this.#folder !== undefined) this.#folder.dead = true;
    this.#folder = undefined;
    const { random } = this.scheduler;
    this.scheduler.orphanAll();
    for (const medium of this.media.values()) {
      medium.opened = false;
      // Whole files may be new or old, so that the content of one is newer than the record of it in another.
      if (power) medium.cut(random, random.pick([0, 0.1, 0.5, 0.9, 1]));
    }
  }

  get freePages(): number {
    return this.space.totalPages - this.space.usedPages;
  }

  /** Leaves only that much space. */
  limitSpace(freePages: number): void {
    this.space.totalPages = this.space.usedPages + freePages;
  }

  /** Ends all faults: everything works from now on, but for syncs that have failed. */
  heal(): void {
    this.faults = [];
    this.space.totalPages = Number.POSITIVE_INFINITY;
  }

  /** Throws when a fault is due for this call. */
  refuse(operation: DiskOperation, name: string): void {
    if (this.faults.length === 0) return;
    const kind = fileKind(name);
    const fault = this.faults.find(
      (one) => one.operation === operation && (one.file === 'any' || one.file === kind) && one.times !== 0,
    );
    if (fault === undefined) return;
    if (fault.times !== null) fault.times--;
    throw new EngineError('disk', `${name}: ${operation} failed: EIO`, { errno: 'EIO' });
  }

  /** Throws ENOSPC when the range would need more space than there is. */
  needSpace(medium: Medium, name: string, lengthBytes: number, offsetBytes: number): void {
    if (this.space.totalPages === Number.POSITIVE_INFINITY) return;
    const missing = medium.missingPages(lengthBytes, offsetBytes);
    // What has its place needs none, however full the disk is.
    if (missing === 0 || missing <= this.freePages) return;
    throw new EngineError('disk', `${name}: a write failed: ENOSPC`, { errno: 'ENOSPC' });
  }

  /** A file of the user's, such as an image to import. */
  putFile(path: string, content: Buffer): void {
    this.media.get(path)?.release();
    const medium = new Medium(content.length, this.space);
    medium.write(content, 0, content.length, 0);
    medium.synced(medium.mark);
    this.media.set(path, medium);
  }

  newMedium(name: string, sizeBytes: number): Medium {
    const medium = new Medium(sizeBytes, this.space);
    this.media.set(name, medium);
    return medium;
  }

  removeMedium(name: string): void {
    this.media.get(name)?.release();
    this.media.delete(name);
  }

  get totalBytes(): number {
    return Math.min(this.space.totalPages, 1 << 28) * PAGE_BYTES;
  }

  get freeBytes(): number {
    return Math.max(0, Math.min(this.freePages, 1 << 28)) * PAGE_BYTES;
  }
}
