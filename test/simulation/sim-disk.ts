/** Disks and folders as the engine sees them: over the media of a `Storage`, in the order that the scheduler chooses. */
import type { Disk, DiskExtent, DiskFolder, DiskSpace } from '../../engine/disk/disk.ts';
import { assert, EngineError } from '../../engine/errors.ts';
import type { Tasks } from './scheduler.ts';
import { type Medium, PAGE_BYTES, SECTOR_BYTES } from './sim-medium.ts';
import type { Storage } from './storage.ts';

/** Work in pieces: each is done at a step of its own. What a dead process had begun may be done up to any piece. */
function inPieces<T>(scheduler: Tasks, pieces: (() => void)[], answer: () => T): Promise<T> {
  return new Promise((resolve, reject) => {
    let next = 0;
    const advance = (): void => {
      pieces[next]?.();
      next++;
    };
    const perform = (): void => {
      try {
        advance();
      } catch (error) {
        reject(error);
        return;
      }
      if (next >= pieces.length) resolve(answer());
      else scheduler.add({ perform, orphan });
    };
    const orphan = (): void => {
      try {
        advance();
        while (next < pieces.length && scheduler.random.chance(0.5)) advance();
      } catch {
        // It failed, and nobody is left to be told.
      }
    };
    scheduler.add({ perform, orphan });
  });
}

/** How often the kernel holds up writers at most. */
const MOST_HELD_UP = 0.5;

const nothing = (): void => {};

export class SimFolder implements DiskFolder {
  readonly storage: Storage;
  dead = false;

  constructor(storage: Storage) {
    this.storage = storage;
  }

  create(name: string, sizeBytes: number): Promise<Disk> {
    const make = (): void => {
      this.storage.refuse('create', name);
      if (this.storage.media.has(name)) throw new EngineError('exists', `${name} exists already`);
      this.storage.newMedium(name, sizeBytes);
    };
    return this.#later([make], () => this.#handle(name));
  }

  open(name: string): Promise<Disk> {
    return this.#later([() => this.storage.refuse('open', name)], () => name).then((opened) =>
      this.#handle(opened),
    );
  }

  async list(): Promise<string[]> {
    const names = await this.#later([nothing], () => [...this.storage.media.keys()]);
    return names.filter((name) => !name.startsWith('/')).sort();
  }

  remove(name: string): Promise<void> {
    const remove = (): void => {
      this.storage.refuse('remove', name);
      this.storage.removeMedium(name);
    };
    return this.#later([remove], nothing);
  }

  space(): Promise<DiskSpace> {
    const { storage } = this;
    return this.#later([nothing], () => ({ freeBytes: storage.freeBytes, totalBytes: storage.totalBytes }));
  }

  createOutside(path: string, sizeBytes: number): Promise<Disk> {
    return this.create(path, sizeBytes);
  }

  openOutside(path: string): Promise<Disk> {
    return this.open(path);
  }

  async openImage(path: string): Promise<Disk> {
    await this.#later([() => this.storage.refuse('open', path)], nothing);
    const medium = this.storage.media.get(path);
    if (medium === undefined) throw new EngineError('not-found', `${path} does not exist`);
    return new SimDisk(this, path, medium, true);
  }

  removeOutside(path: string): Promise<void> {
    return this.remove(path);
  }

  #later<T>(pieces: (() => void)[], answer: () => T): Promise<T> {
    assert(!this.dead, 'a dead process asks for nothing');
    return inPieces(this.storage.scheduler, pieces, answer);
  }

  #handle(name: string): SimDisk {
    const medium = this.storage.media.get(name);
    if (medium === undefined)
      throw new EngineError('not-found', `${name} does not exist`, { errno: 'ENOENT' });
    if (medium.opened) throw new EngineError('in-use', `${name} is in use`);
    medium.opened = true;
    return new SimDisk(this, name, medium, false);
  }
}

/** Writes of more than a sector may be seen half done: where they are cut. */
function cutPoint(storage: Storage, lengthBytes: number, offsetBytes: number): number {
  const { random } = storage.scheduler;
  if (lengthBytes <= SECTOR_BYTES || !random.chance(storage.traits.tearing)) return 0;
  const sectors = Math.ceil(lengthBytes / SECTOR_BYTES);
  const at = random.between(1, sectors - 1) * SECTOR_BYTES - (offsetBytes % SECTOR_BYTES);
  return at > 0 && at < lengthBytes ? at : 0;
}

export class SimDisk implements Disk {
  readonly name: string;
  readonly blockBytes = PAGE_BYTES;
  readonly device = false;
  readonly #folder: SimFolder;
  readonly #medium: Medium;
  readonly #readOnly: boolean;
  #closed = false;
  #failure: EngineError | undefined;

  constructor(folder: SimFolder, name: string, medium: Medium, readOnly: boolean) {
    this.name = name;
    this.#folder = folder;
    this.#medium = medium;
    this.#readOnly = readOnly;
  }

  get sizeBytes(): number {
    return this.#medium.sizeBytes;
  }

  get failure(): EngineError | undefined {
    return this.#failure;
  }

  get mayWriteInline(): boolean {
    // Never for good: whoever may not write now has to find a moment when he may.
    const { scheduler, traits } = this.#storage;
    return !scheduler.random.chance(Math.min(traits.tryRefusal, MOST_HELD_UP));
  }

  get #storage(): Storage {
    return this.#folder.storage;
  }

  #refuses(): boolean {
    return this.#storage.scheduler.random.chance(this.#storage.traits.tryRefusal);
  }

  tryRead(target: Buffer, targetStart: number, lengthBytes: number, offsetBytes: number): boolean {
    this.#check(offsetBytes, lengthBytes);
    if (this.#refuses()) return false;
    this.#storage.refuse('read', this.name);
    this.#medium.read(target, targetStart, lengthBytes, offsetBytes);
    return true;
  }

  read(target: Buffer, targetStart: number, lengthBytes: number, offsetBytes: number): Promise<void> {
    this.#check(offsetBytes, lengthBytes);
    assert(targetStart + lengthBytes <= target.length, 'there is room for what is read');
    const cut = cutPoint(this.#storage, lengthBytes, offsetBytes);
    const rest = (): void => {
      this.#storage.refuse('read', this.name);
      this.#medium.read(target, targetStart + cut, lengthBytes - cut, offsetBytes + cut);
    };
    if (cut === 0) return inPieces(this.#storage.scheduler, [rest], nothing);
    const first = (): void => this.#medium.read(target, targetStart, cut, offsetBytes);
    return inPieces(this.#storage.scheduler, [first, rest], nothing);
  }

  tryWrite(source: Buffer, sourceStart: number, lengthBytes: number, offsetBytes: number): boolean {
    this.#checkWrite(offsetBytes, lengthBytes);
    if (this.#refuses()) return false;
    this.#put(source, sourceStart, lengthBytes, offsetBytes);
    return true;
  }

  writeNow(source: Buffer, sourceStart: number, lengthBytes: number, offsetBytes: number): void {
    this.#checkWrite(offsetBytes, lengthBytes);
    this.#put(source, sourceStart, lengthBytes, offsetBytes);
  }

  /** The source is read when the write is done, not when it is asked for, so that who uses the buffer again too early is found out. */
  write(source: Buffer, sourceStart: number, lengthBytes: number, offsetBytes: number): Promise<void> {
    this.#checkWrite(offsetBytes, lengthBytes);
    assert(sourceStart + lengthBytes <= source.length, 'there is as much to write as is said');
    const cut = cutPoint(this.#storage, lengthBytes, offsetBytes);
    const rest = (): void => this.#put(source, sourceStart + cut, lengthBytes - cut, offsetBytes + cut);
    if (cut === 0) return inPieces(this.#storage.scheduler, [rest], nothing);
    const first = (): void => this.#put(source, sourceStart, cut, offsetBytes);
    return inPieces(this.#storage.scheduler, [first, rest], nothing);
  }

  #put(source: Buffer, sourceStart: number, lengthBytes: number, offsetBytes: number): void {
    this.#storage.refuse('write', this.name);
    this.#storage.needSpace(this.#medium, this.name, lengthBytes, offsetBytes);
    this.#medium.write(source, sourceStart, lengthBytes, offsetBytes);
  }

  sync(): Promise<void> {
    this.#check(0, 0);
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    const { mark } = this.#medium;
    const work = (): void => {
      // Another sync of this disk failed meanwhile, and took with it what this one was for.
      if (this.#failure !== undefined) throw this.#failure;
      try {
        this.#storage.refuse('sync', this.name);
      } catch (error) {
        this.#syncFailed(mark, error);
      }
      this.#medium.synced(mark);
    };
    return inPieces(this.#storage.scheduler, [work], nothing);
  }

  #syncFailed(mark: number, cause: unknown): void {
    const { scheduler, traits, failedSyncs } = this.#storage;
    this.#medium.syncFailed(mark, scheduler.random, traits.lostAtFailedSync);
    failedSyncs.push(this.name);
    this.#failure = new EngineError('disk', `${this.name}: a sync failed (EIO)`, { errno: 'EIO', cause });
    throw this.#failure;
  }

  forgive(): void {
    this.#failure = undefined;
  }

  punch(offsetBytes: number, lengthBytes: number): Promise<void> {
    this.#checkWrite(offsetBytes, lengthBytes);
    const work = (): void => {
      this.#storage.refuse('punch', this.name);
      this.#medium.punch(lengthBytes, offsetBytes);
    };
    return inPieces(this.#storage.scheduler, [work], nothing);
  }

  punchFast(offsetBytes: number, lengthBytes: number): Promise<void> {
    this.#checkWrite(offsetBytes, lengthBytes);
    return this.#storage.traits.zeroesFast ? this.punch(offsetBytes, lengthBytes) : this.#notFast();
  }

  zero(offsetBytes: number, lengthBytes: number, fast: boolean): Promise<void> {
    this.#checkWrite(offsetBytes, lengthBytes);
    if (fast && !this.#storage.traits.zeroesFast) return this.#notFast();
    const cut = cutPoint(this.#storage, lengthBytes, offsetBytes);
    const piece = (length: number, offset: number) => (): void => {
      this.#storage.refuse('zero', this.name);
      this.#storage.needSpace(this.#medium, this.name, length, offset);
      this.#medium.zero(length, offset);
    };
    const rest = piece(lengthBytes - cut, offsetBytes + cut);
    return inPieces(this.#storage.scheduler, cut === 0 ? [rest] : [piece(cut, offsetBytes), rest], nothing);
  }

  #notFast(): Promise<void> {
    return Promise.reject(new EngineError('disk', `${this.name} cannot zero fast`, { errno: 'ENOTSUP' }));
  }

  prefetch(offsetBytes: number, lengthBytes: number): Promise<void> {
    this.#check(offsetBytes, lengthBytes);
    return inPieces(this.#storage.scheduler, [nothing], nothing);
  }

  extents(offsetBytes: number, lengthBytes: number, maxExtents: number): Promise<DiskExtent[]> {
    this.#check(offsetBytes, lengthBytes);
    const answer = (): DiskExtent[] => this.#extentsNow(offsetBytes, lengthBytes, maxExtents);
    return inPieces(this.#storage.scheduler, [nothing], answer);
  }

  #extentsNow(offsetBytes: number, lengthBytes: number, maxExtents: number): DiskExtent[] {
    const extents: { lengthBytes: number; hole: boolean; zero: boolean }[] = [];
    const end = offsetBytes + lengthBytes;
    for (let at = offsetBytes; at < end; ) {
      const page = Math.floor(at / PAGE_BYTES);
      const stop = Math.min(end, (page + 1) * PAGE_BYTES);
      const hole = !this.#medium.allocated(page);
      const last = extents.at(-1);
      if (last?.hole === hole) last.lengthBytes += stop - at;
      else if (extents.length === maxExtents) break;
      else extents.push({ lengthBytes: stop - at, hole, zero: hole });
      at = stop;
    }
    return extents;
  }

  close(): Promise<void> {
    if (this.#closed) return Promise.resolve();
    this.#closed = true;
    const work = (): void => {
      if (!this.#readOnly) this.#medium.opened = false;
    };
    return inPieces(this.#storage.scheduler, [work], nothing);
  }

  #checkWrite(offsetBytes: number, lengthBytes: number): void {
    assert(!this.#readOnly, `${this.name} was opened for reading only`);
    this.#check(offsetBytes, lengthBytes);
  }

  #check(offsetBytes: number, lengthBytes: number): void {
    assert(!this.#folder.dead, 'a dead process asks for nothing');
    assert(!this.#closed, `${this.name} is used after it was closed`);
    assert(
      offsetBytes >= 0 && lengthBytes >= 0 && offsetBytes + lengthBytes <= this.sizeBytes,
      `the range lies inside ${this.name}`,
    );
  }
}
