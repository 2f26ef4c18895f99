/**
 * Reads a volume, or a snapshot of it, as it is at one LSN (rule L2): from the raw volume or the store where the chain says that a region is,
 * with the pending records laid over it.
 *
 * Who reads does not stop who changes. So after every wait it looks again where the region is, and reads it from there if that is somewhere else
 * now (rules S2, T3); and what it was sent to stays until it has ended (`ReadTracker`).
 */
import type { Disk, DiskExtent } from '../disk/disk.ts';
import { EngineError } from '../errors.ts';
import type { Log } from '../log/log.ts';
import type { PendingIndex } from '../log/pending-index.ts';
import type { LogRecord } from '../log/record.ts';
import type { RegionIndex } from '../units.ts';
import { type Chain, type Place, samePlace, type View } from './chain.ts';
import type { ReadTracker } from './read-tracker.ts';
import type { RegionStore } from './region-store.ts';

/** What a reader needs of one volume. */
export interface ReadableVolume {
  readonly index: number;
  readonly regionBytes: number;
  readonly disk: Disk;
  readonly pending: PendingIndex;
}

/** Regions of a piece at most: they are looked at in one go, while everybody else waits. */
const MAX_PIECE_REGIONS = 4096;

/** A piece of a read: one region, or several that are all found in the same place. */
interface Piece {
  readonly place: Place;
  readonly first: RegionIndex;
  readonly end: RegionIndex;
  readonly startBytes: number;
  readonly endBytes: number;
  readonly records: readonly LogRecord[];
  readonly losses: number;
}

export class ImageReader {
  readonly #chain: Chain;
  readonly #log: Log;
  readonly #readers: ReadTracker;
  /** How often a volume's sync has failed: it may show older content then, over which records lie again. */
  readonly #losses: () => number;

  constructor(chain: Chain, log: Log, readers: ReadTracker, losses: () => number) {
    this.#chain = chain;
    this.#log = log;
    this.#readers = readers;
    this.#losses = losses;
  }

  /** Reads now, if nothing has to be waited for. */
  tryRead(
    volume: ReadableVolume,
    view: View,
    target: Buffer,
    targetStart: number,
    lengthBytes: number,
    offsetBytes: number,
  ): boolean {
    if (view === undefined && volume.pending.isEmpty && this.#chain.restores.length === 0)
      return volume.disk.tryRead(target, targetStart, lengthBytes, offsetBytes);
    const endBytes = offsetBytes + lengthBytes;
    for (let at = offsetBytes; at < endBytes; ) {
      const piece = this.#piece(volume, view, at, endBytes);
      const pieceStart = targetStart + at - offsetBytes;
      const pieceBytes = piece.endBytes - piece.startBytes;
      if (piece.records.some((record) => !record.zeroes && record.batch.bytes === undefined)) return false;
      const from = sourceOf(piece.place.store, volume, piece);
      if (!from.tryRead(target, pieceStart, pieceBytes, piece.startBytes)) return false;
      for (const record of piece.records) layOver(record, target, pieceStart, piece);
      at = piece.endBytes;
    }
    return true;
  }

  async read(
    volume: ReadableVolume,
    view: View,
    target: Buffer,
    targetStart: number,
    lengthBytes: number,
    offsetBytes: number,
  ): Promise<void> {
    const epoch = this.#readers.begin();
    try {
      const endBytes = offsetBytes + lengthBytes;
      for (let at = offsetBytes; at < endBytes; ) {
        const piece = this.#piece(volume, view, at, endBytes);
        const pieceStart = targetStart + at - offsetBytes;
        // Somebody may have moved what was read: then it is read again, from where it is now.
        if (await this.#readPiece(volume, view, piece, target, pieceStart)) at = piece.endBytes;
      }
    } finally {
      this.#readers.end(epoch);
    }
  }

  /** Extents from the start of a range, as `Disk.extents`. What lies in the log counts as data. */
  async extents(
    volume: ReadableVolume,
    view: View,
    offsetBytes: number,
    lengthBytes: number,
    maxExtents: number,
  ): Promise<DiskExtent[]> {
    const epoch = this.#readers.begin();
    try {
      const found: DiskExtent[] = [];
      const endBytes = offsetBytes + lengthBytes;
      for (let at = offsetBytes; at < endBytes && found.length < maxExtents; ) {
        const piece = this.#piece(volume, view, at, endBytes);
        const pieceBytes = piece.endBytes - at;
        const from = sourceOf(piece.place.store, volume, piece);
        const extents =
          piece.records.length > 0
            ? [{ lengthBytes: pieceBytes, hole: false, zero: false }]
            : await from.extents(at, pieceBytes, maxExtents - found.length);
        if (!this.#isStill(volume, view, piece)) continue;
        for (const extent of extents) {
          addExtent(found, extent);
          at += extent.lengthBytes;
        }
      }
      return found;
    } finally {
      this.#readers.end(epoch);
    }
  }

  /** The longest piece from `startBytes` on that is found in one place with the same records over it. */
  #piece(volume: ReadableVolume, view: View, startBytes: number, endBytes: number): Piece {
    const { regionBytes, pending, index } = volume;
    const first = Math.floor(startBytes / regionBytes);
    const place = this.#chain.locate(index, first, view);
    let stopBytes = Math.min(endBytes, (first + 1) * regionBytes);
    const records = pending.inRegion(first, place.lsns, startBytes, stopBytes - startBytes);
    let end = first + 1;
    // Regions that nothing lies over are read together with their neighbours.
    const mostEnd = first + MAX_PIECE_REGIONS;
    while (records.length === 0 && stopBytes < endBytes && end < mostEnd && !pending.has(end)) {
      if (!samePlace(place, this.#chain.locate(index, end, view))) break;
      end++;
      stopBytes = Math.min(endBytes, end * regionBytes);
    }
    return { place, first, end, startBytes, endBytes: stopBytes, records, losses: this.#losses() };
  }

  /** False when what was read is not, or may not be, what the piece shows. */
  async #readPiece(
    volume: ReadableVolume,
    view: View,
    piece: Piece,
    target: Buffer,
    targetStart: number,
  ): Promise<boolean> {
    const from = sourceOf(piece.place.store, volume, piece);
    const pieceBytes = piece.endBytes - piece.startBytes;
    if (!from.tryRead(target, targetStart, pieceBytes, piece.startBytes))
      await from.read(target, targetStart, pieceBytes, piece.startBytes);
    for (const record of piece.records) {
      if (layOver(record, target, targetStart, piece)) continue;
      const { start, end } = overlap(record, piece);
      const at = record.dataStart + start - record.offsetBytes;
      await this.#log.readPayload(
        record.batch,
        at,
        target,
        targetStart + start - piece.startBytes,
        end - start,
      );
    }
    return this.#isStill(volume, view, piece);
  }

  #isStill(volume: ReadableVolume, view: View, piece: Piece): boolean {
    if (piece.losses !== this.#losses()) return false;
    for (let region = piece.first; region < piece.end; region++) {
      if (!samePlace(piece.place, this.#chain.locate(volume.index, region, view))) return false;
    }
    return true;
  }
}

interface Source {
  tryRead(target: Buffer, targetStart: number, lengthBytes: number, offsetBytes: number): boolean;
  read(target: Buffer, targetStart: number, lengthBytes: number, offsetBytes: number): Promise<void>;
  extents(offsetBytes: number, lengthBytes: number, maxExtents: number): Promise<DiskExtent[]>;
}

/** Throws `disk` with `EIO` where a store cannot say what it holds, because the map that says so is damaged. */
function sourceOf(store: RegionStore | undefined, volume: ReadableVolume, piece: Piece): Source {
  if (store === undefined) return volume.disk;
  if (store.doubtful.some((run) => run.first < piece.end && run.end > piece.first))
    throw new EngineError('disk', 'the snapshot is damaged here: see tidemark check', { errno: 'EIO' });
  return store;
}

function overlap(record: LogRecord, piece: Piece): { start: number; end: number } {
  return {
    start: Math.max(record.offsetBytes, piece.startBytes),
    end: Math.min(record.offsetBytes + record.lengthBytes, piece.endBytes),
  };
}

/** Lays a record over a piece in `target`; false when its payload is not in memory. */
function layOver(record: LogRecord, target: Buffer, targetStart: number, piece: Piece): boolean {
  const { start, end } = overlap(record, piece);
  const at = targetStart + start - piece.startBytes;
  if (record.zeroes) {
    target.fill(0, at, at + end - start);
    return true;
  }
  const { bytes } = record.batch;
  if (bytes === undefined) return false;
  const from = record.dataStart + start - record.offsetBytes;
  bytes.copy(target, at, from, from + end - start);
  return true;
}

function addExtent(extents: DiskExtent[], next: DiskExtent): void {
  const last = extents.at(-1);
  if (last === undefined || last.hole !== next.hole || last.zero !== next.zero) extents.push(next);
  else extents[extents.length - 1] = { ...last, lengthBytes: last.lengthBytes + next.lengthBytes };
}
