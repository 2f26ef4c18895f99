import type { EngineError } from '../errors.ts';

/**
 * What the engine knows of a disk. `FileDisk` is the real one; a simulated one stands in for it in tests.
 *
 * The `try` calls are the hot path: they never wait for a device. They return false when they would have to
 * (content not in the page cache, …), having done nothing; the caller then takes the promise of the same name.
 * All ranges lie inside `[0, sizeBytes)`; anything else is a bug of the caller. Errors are `EngineError`s of code
 * `disk` with the errno name.
 */

/** A run of bytes of one kind. `hole`: nothing is allocated there; `zero`: it reads as zeroes. */
export interface DiskExtent {
  readonly lengthBytes: number;
  readonly hole: boolean;
  readonly zero: boolean;
}

/** What a filesystem has, in bytes. */
export interface DiskSpace {
  /** What this process may still use. */
  readonly freeBytes: number;
  readonly totalBytes: number;
}

export interface Disk {
  readonly sizeBytes: number;
  /** Whether it is a block device, which cannot be grown or removed. */
  readonly device: boolean;
  /** Why no more syncs are tried (rule L6), once one has failed. */
  readonly failure: EngineError | undefined;
  /** Granularity at which space is given back, in bytes: a page for files, at least the logical block for devices. */
  readonly blockBytes: number;
  /** False while a write on the calling thread would wait: the kernel holds up writers, or zeroing has the disk to itself. */
  readonly mayWriteInline: boolean;

  /** Reads now if nothing has to be waited for. Fills `target` from `targetStart`. */
  tryRead(target: Buffer, targetStart: number, lengthBytes: number, offsetBytes: number): boolean;
  read(target: Buffer, targetStart: number, lengthBytes: number, offsetBytes: number): Promise<void>;

  /** Writes into the page cache now. False when that would wait for the device (part of a page that is not cached). */
  tryWrite(source: Buffer, sourceStart: number, lengthBytes: number, offsetBytes: number): boolean;
  write(source: Buffer, sourceStart: number, lengthBytes: number, offsetBytes: number): Promise<void>;
  /**
   * Writes into the page cache on the calling thread, whatever that waits for: the way of a log, whose bytes have to be with the kernel
   * when the call returns. Look at `mayWriteInline` before, and cover whole pages. Throws as `write` rejects.
   */
  writeNow(source: Buffer, sourceStart: number, lengthBytes: number, offsetBytes: number): void;

  /**
   * Makes everything written before the call durable (`fdatasync`); calls that wait at the same time share one. Once it
   * has failed it always fails (rule L6): the kernel drops what it could not write, and a second try would lie.
   */
  sync(): Promise<void>;
  /**
   * Lets syncs be tried again after one that failed. Only for who has written again, or is about to before the next sync, *everything* that was
   * written since the last sync that succeeded (rule L6): an earlier sync says nothing about bytes that were written before the failure.
   */
  forgive(): void;

  /** Makes the range read as zeroes and gives its space back where the disk can; else writes zeroes. */
  punch(offsetBytes: number, lengthBytes: number): Promise<void>;

  /**
   * Makes the range read as zeroes and keeps its space allocated. With `fast`, rejects with errno `ENOTSUP`, having
   * changed nothing, where that would mean writing zeroes.
   */
  zero(offsetBytes: number, lengthBytes: number, fast: boolean): Promise<void>;
  /** As `punch`, but with the promise of `zero`'s `fast`. */
  punchFast(offsetBytes: number, lengthBytes: number): Promise<void>;

  /** Asks the disk to have the range in its cache soon. Advisory. */
  prefetch(offsetBytes: number, lengthBytes: number): Promise<void>;

  /**
   * Extents of the range from its start, adjacent ones of a kind merged, at most `maxExtents` (at least 1); they may end before the
   * range does. Where the disk cannot tell, one extent of data.
   */
  extents(offsetBytes: number, lengthBytes: number, maxExtents: number): Promise<DiskExtent[]>;

  /** Waits for what is under way and closes; syncs nothing. Calls after it are bugs, but a second `close`. */
  close(): Promise<void>;
}

/** A folder of disks, by relative name (`volumes/data.img`). The engine creates, opens and removes through it. */
export interface DiskFolder {
  /**
   * Creates a sparse disk of that size; durable, with its folder entry, when the promise resolves. `exists` when it is there;
   * on any other error nothing is left behind.
   */
  create(name: string, sizeBytes: number): Promise<Disk>;
  /** Opens a disk; `not-found` when it is not there, `in-use` when it is open already, here or in another process. */
  open(name: string): Promise<Disk>;
  /** Names of all disks in it, at any depth, sorted. */
  list(): Promise<string[]>;
  /** Removes it, durably. No error when it is not there. */
  remove(name: string): Promise<void>;
  /** The space of the filesystem that the folder lies on. */
  space(): Promise<DiskSpace>;

  /** Creates a sparse file anywhere, by absolute path, as `create` does. Its folder must exist. */
  createOutside(path: string, sizeBytes: number): Promise<Disk>;
  /** Opens a file or block device anywhere, by absolute path; `not-found`, `invalid` (neither of the two), `in-use`. */
  openOutside(path: string): Promise<Disk>;
  /**
   * Opens a file or block device anywhere for reading only, by absolute path, whoever else has it open; `not-found`, `invalid` (neither of the
   * two). Writing to it is a bug of the caller.
   */
  openImage(path: string): Promise<Disk>;
  /** Removes a file made by `createOutside`, durably. */
  removeOutside(path: string): Promise<void>;
}
