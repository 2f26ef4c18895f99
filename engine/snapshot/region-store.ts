/**
 * Regions of a volume that a snapshot keeps, in a sparse file: each at its own offset, with a durable map of which are there.
 *
 *   header (a block) · map, in sectors · regions, from `dataStart` on
 *
 * The space of header and map is taken when the file is made, so that a bit never meets a full disk once the data is there. What has no bit is
 * nothing, whatever lies there: a region counts only when (1) its data is written, (2) the file is synced, (3) its bit is on disk and synced
 * (rules S1, T3). Taking one away is the other way round: the bit first, durably; its space when nobody reads it any more.
 */
import type { Disk, DiskExtent, DiskFolder } from '../disk/disk.ts';
import { assert, EngineError } from '../errors.ts';
import {
  isSealed,
  MAP_BLOCK_BYTES,
  STORE_MAGIC,
  STORE_MAP_OFFSET_BYTES,
  STORE_VERSION,
  seal,
  storeHeaderLayout,
} from '../formats.ts';
import { DurableMap } from '../map/durable-map.ts';
import { uuidBytes } from '../map/map-format.ts';
import type { RegionMapView, RegionRun } from '../map/region-map.ts';
import type { RegionIndex } from '../units.ts';

/** Whose regions a store keeps. */
export interface StoreIdentity {
  /** Of the snapshot, a UUID as text. */
  readonly ownerId: string;
  /** A UUID as text. */
  readonly volumeId: string;
  /** Of the volume. */
  readonly sizeBytes: number;
  readonly regionBytes: number;
}

const regionCount = (identity: StoreIdentity): number => Math.ceil(identity.sizeBytes / identity.regionBytes);

/** Where the data of a store begins, in bytes. */
export function storeDataStart(identity: StoreIdentity): number {
  return STORE_MAP_OFFSET_BYTES + DurableMap.bytesFor(regionCount(identity));
}

function encodeHeader(identity: StoreIdentity): Buffer {
  const block = Buffer.alloc(MAP_BLOCK_BYTES);
  const header = block.subarray(0, storeHeaderLayout.span);
  storeHeaderLayout.encode(
    {
      crc: 0,
      version: STORE_VERSION,
      magic: STORE_MAGIC,
      ownerId: uuidBytes(identity.ownerId),
      volumeId: uuidBytes(identity.volumeId),
      volumeBytes: BigInt(identity.sizeBytes),
      regionBytes: identity.regionBytes,
      reserved: 0,
    },
    header,
  );
  seal(header);
  return block;
}

/** Throws `corrupt` for another's header or a damaged one, `unsupported` for that of a later version. */
function checkHeader(header: Buffer, name: string, identity: StoreIdentity): void {
  const found = storeHeaderLayout.decode(header);
  if (!isSealed(header) || !found.magic.equals(STORE_MAGIC))
    throw new EngineError('corrupt', `${name}: its header is damaged, or it is no store of a snapshot`);
  if (found.version !== STORE_VERSION) {
    const what = `${name} has version ${found.version}; this program knows ${STORE_VERSION}`;
    throw new EngineError('unsupported', what);
  }
  const fits =
    found.ownerId.equals(uuidBytes(identity.ownerId)) &&
    found.volumeId.equals(uuidBytes(identity.volumeId)) &&
    found.volumeBytes === BigInt(identity.sizeBytes) &&
    found.regionBytes === identity.regionBytes;
  if (!fits) throw new EngineError('corrupt', `${name} belongs to another snapshot or volume`);
}

export class RegionStore {
  /** The file's, in its folder. */
  readonly name: string;
  /** Regions of damaged sectors of the map: nobody knows whether they are there, so that nothing may be read on the strength of their bits. */
  readonly doubtful: readonly RegionRun[];
  readonly #identity: StoreIdentity;
  readonly #disk: Disk;
  readonly #map: DurableMap;
  readonly #dataStart: number;

  private constructor(
    name: string,
    identity: StoreIdentity,
    disk: Disk,
    map: DurableMap,
    doubtful: RegionRun[],
  ) {
    this.name = name;
    this.doubtful = doubtful;
    this.#identity = identity;
    this.#disk = disk;
    this.#map = map;
    this.#dataStart = storeDataStart(identity);
  }

  /** Makes an empty store. Durable when the promise resolves; `exists`, `disk` (also when there is no room for its map), and nothing is left then. */
  static async create(folder: DiskFolder, name: string, identity: StoreIdentity): Promise<RegionStore> {
    const dataStart = storeDataStart(identity);
    const disk = await folder.create(name, dataStart + identity.sizeBytes);
    try {
      await disk.zero(0, dataStart, false);
      const header = encodeHeader(identity);
      await disk.write(header, 0, header.length, 0);
      await disk.sync();
    } catch (error) {
      await disk.close();
      // The error that led here is the one to tell; what is left is named by nothing.
      await folder.remove(name).catch(() => {});
      throw error;
    }
    const map = DurableMap.blank(disk, STORE_MAP_OFFSET_BYTES, regionCount(identity));
    return new RegionStore(name, identity, disk, map, []);
  }

  /** Opens a store. `not-found`, `in-use`, `disk`; `corrupt` when it is another's or was cut short, `unsupported` when of a later version. */
  static async open(folder: DiskFolder, name: string, identity: StoreIdentity): Promise<RegionStore> {
    const disk = await folder.open(name);
    try {
      const needed = storeDataStart(identity) + identity.sizeBytes;
      if (disk.sizeBytes < needed)
        throw new EngineError('corrupt', `${name} has ${disk.sizeBytes} bytes, and had ${needed}`);
      // What this process reads may still be in the page cache only, from one that was killed.
      await disk.sync();
      const header = Buffer.alloc(storeHeaderLayout.span);
      await disk.read(header, 0, header.length, 0);
      checkHeader(header, name, identity);
      const { map, doubtful } = await DurableMap.load(disk, STORE_MAP_OFFSET_BYTES, regionCount(identity));
      return new RegionStore(name, identity, disk, map, doubtful);
    } catch (error) {
      await disk.close();
      throw error;
    }
  }

  /** The regions that are there. */
  get map(): RegionMapView {
    return this.#map.view;
  }

  /** Why no more syncs are tried (rule L6), until `forgive`. */
  get failure(): EngineError | undefined {
    return this.#disk.failure;
  }

  /** Reads of the store's data as `Disk.tryRead` does, at an offset of the volume. */
  tryRead(target: Buffer, targetStart: number, lengthBytes: number, offsetBytes: number): boolean {
    return this.#disk.tryRead(target, targetStart, lengthBytes, this.#place(offsetBytes, lengthBytes));
  }

  async read(target: Buffer, targetStart: number, lengthBytes: number, offsetBytes: number): Promise<void> {
    await this.#disk.read(target, targetStart, lengthBytes, this.#place(offsetBytes, lengthBytes));
  }

  /** Writes data, as `Disk.tryWrite` does, at an offset of the volume. It marks nothing: see `add`. */
  tryWrite(source: Buffer, sourceStart: number, lengthBytes: number, offsetBytes: number): boolean {
    return this.#disk.tryWrite(source, sourceStart, lengthBytes, this.#place(offsetBytes, lengthBytes));
  }

  async write(source: Buffer, sourceStart: number, lengthBytes: number, offsetBytes: number): Promise<void> {
    await this.#disk.write(source, sourceStart, lengthBytes, this.#place(offsetBytes, lengthBytes));
  }

  /** Makes a range of the data read as zeroes, and gives its space back where the disk can. */
  async punch(offsetBytes: number, lengthBytes: number): Promise<void> {
    await this.#disk.punch(this.#place(offsetBytes, lengthBytes), lengthBytes);
  }

  /** Makes durable whatever was written, and puts right on the disk what a failed change of the map may have left there. */
  async sync(): Promise<void> {
    if (this.#map.dirty) await this.#map.flush();
    else await this.#disk.sync();
  }

  /** For who writes again everything that was written since the last sync that succeeded: see `Disk.forgive`. The map sees to itself. */
  forgive(): void {
    this.#disk.forgive();
  }

  /**
   * Regions, in any order, whose data is written *and synced*, are there from here on: durably, and then for readers. When it rejects they are
   * not, but may be found there at the next start.
   */
  add(regions: readonly RegionIndex[]): Promise<void> {
    return this.#map.set(regions);
  }

  /** As `add`, for runs in order that do not overlap. */
  addRuns(runs: readonly RegionRun[]): Promise<void> {
    return this.#map.setRuns(runs);
  }

  /** Regions, in any order, are there no more: durably, and then for readers. Their data stays until `punch`. */
  remove(regions: readonly RegionIndex[]): Promise<void> {
    return this.#map.clear(regions);
  }

  /** Extents of a range of the data, as `Disk.extents`: they may end before the range does. */
  async extents(offsetBytes: number, lengthBytes: number, maxExtents: number): Promise<DiskExtent[]> {
    return await this.#disk.extents(this.#place(offsetBytes, lengthBytes), lengthBytes, maxExtents);
  }

  /** Waits for what is under way and closes; syncs nothing. */
  close(): Promise<void> {
    return this.#disk.close();
  }

  #place(offsetBytes: number, lengthBytes: number): number {
    assert(
      offsetBytes >= 0 && lengthBytes >= 0 && offsetBytes + lengthBytes <= this.#identity.sizeBytes,
      'the range lies inside the volume',
    );
    return this.#dataStart + offsetBytes;
  }
}
