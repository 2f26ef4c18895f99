/**
 * A folder of which nothing is ever changed: whatever is written is dropped. So the engine's own code, which writes back what it reads and
 * cuts off what was torn, can be asked what it would make of a group.
 *
 * What it wrote cannot be read back. Opening a group does not: it reads, and then writes.
 */
import type { Disk, DiskExtent, DiskFolder, DiskSpace } from '../disk/disk.ts';
import { assert, EngineError } from '../errors.ts';

export class ReadOnlyFolder implements DiskFolder {
  readonly #folder: DiskFolder;

  constructor(folder: DiskFolder) {
    this.#folder = folder;
  }

  async open(name: string): Promise<Disk> {
    return new ReadOnlyDisk(await this.#folder.open(name));
  }

  async openOutside(path: string): Promise<Disk> {
    return new ReadOnlyDisk(await this.#folder.openOutside(path));
  }

  openImage(path: string): Promise<Disk> {
    return this.#folder.openImage(path);
  }

  list(): Promise<string[]> {
    return this.#folder.list();
  }

  space(): Promise<DiskSpace> {
    return this.#folder.space();
  }

  create(name: string): Promise<Disk> {
    return Promise.reject(refused(name));
  }

  createOutside(path: string): Promise<Disk> {
    return Promise.reject(refused(path));
  }

  async remove(): Promise<void> {}

  async removeOutside(): Promise<void> {}
}

function refused(name: string): EngineError {
  return new EngineError('unsupported', `${name} would have to be made, and a check makes nothing`);
}

class ReadOnlyDisk implements Disk {
  readonly failure = undefined;
  readonly mayWriteInline = true;
  readonly #disk: Disk;

  constructor(disk: Disk) {
    this.#disk = disk;
  }

  get sizeBytes(): number {
    return this.#disk.sizeBytes;
  }

  get device(): boolean {
    return this.#disk.device;
  }

  get blockBytes(): number {
    return this.#disk.blockBytes;
  }

  tryRead(target: Buffer, targetStart: number, lengthBytes: number, offsetBytes: number): boolean {
    return this.#disk.tryRead(target, targetStart, lengthBytes, offsetBytes);
  }

  read(target: Buffer, targetStart: number, lengthBytes: number, offsetBytes: number): Promise<void> {
    return this.#disk.read(target, targetStart, lengthBytes, offsetBytes);
  }

  extents(offsetBytes: number, lengthBytes: number, maxExtents: number): Promise<DiskExtent[]> {
    return this.#disk.extents(offsetBytes, lengthBytes, maxExtents);
  }

  prefetch(offsetBytes: number, lengthBytes: number): Promise<void> {
    return this.#disk.prefetch(offsetBytes, lengthBytes);
  }

  tryWrite(_source: Buffer, _sourceStart: number, lengthBytes: number, offsetBytes: number): boolean {
    this.#check(offsetBytes, lengthBytes);
    return true;
  }

  writeNow(_source: Buffer, _sourceStart: number, lengthBytes: number, offsetBytes: number): void {
    this.#check(offsetBytes, lengthBytes);
  }

  async write(
    _source: Buffer,
    _sourceStart: number,
    lengthBytes: number,
    offsetBytes: number,
  ): Promise<void> {
    this.#check(offsetBytes, lengthBytes);
  }

  async punch(offsetBytes: number, lengthBytes: number): Promise<void> {
    this.#check(offsetBytes, lengthBytes);
  }

  async punchFast(offsetBytes: number, lengthBytes: number): Promise<void> {
    this.#check(offsetBytes, lengthBytes);
  }

  async zero(offsetBytes: number, lengthBytes: number): Promise<void> {
    this.#check(offsetBytes, lengthBytes);
  }

  async sync(): Promise<void> {}

  forgive(): void {}

  close(): Promise<void> {
    return this.#disk.close();
  }

  #check(offsetBytes: number, lengthBytes: number): void {
    assert(offsetBytes >= 0 && offsetBytes + lengthBytes <= this.sizeBytes, 'the range lies inside the disk');
  }
}
