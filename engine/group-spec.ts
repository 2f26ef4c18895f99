import { normalize } from 'node:path';
import { EngineError } from './errors.ts';
import { MIN_LOG_BYTES } from './log/limits.ts';
import { maxEncodedBytes } from './map/map-runs.ts';
import { checkName } from './names.ts';
import { GIB, KIB, MAX_REGION_BYTES, MAX_VOLUME_BYTES, MIN_REGION_BYTES } from './units.ts';

/** What a user asks for at `create`. */
export interface GroupSpec {
  readonly name: string;
  /** A power of two from 4 KiB to 32 MiB. */
  readonly regionBytes: number;
  readonly volumes: readonly VolumeSpec[];
  /**
   * Size of the log's ring, a multiple of 4096, at least `MIN_LOG_BYTES` and what `minLogBytes` says. Unless told: all of `logFile` when that exists,
   * else 1 GiB, or more where the volumes need it.
   */
  readonly logBytes?: number;
  /** Absolute path of a file or block device to keep the log in. A file that does not exist is made. */
  readonly logFile?: string;
  /** What gives way when a disk is full (rule S8): the writers, who wait, or the oldest snapshots. `hold` unless told. */
  readonly onFull?: 'hold' | 'give-up';
  /** It takes writes from a primary only: `link add` there brings it to life. */
  readonly replica?: ReplicaSpec;
}

export interface ReplicaSpec {
  /** Records are applied so long after they came, in whole seconds ([0061]); 0 unless told. */
  readonly applyDelaySeconds?: number;
}

export interface VolumeSpec {
  readonly name: string;
  /** A multiple of 512. May be left out when `file` exists: then it is all of that. */
  readonly sizeBytes?: number;
  /** Absolute path of a file or block device to keep the data in. A file that does not exist is made, when there is a size. */
  readonly file?: string;
}

/** Volumes of a group at most. Each holds two descriptors open. */
export const MAX_VOLUMES_PER_GROUP = 64;
/** Regions of a volume at most, 4 PiB at 64 KiB: their index of pages takes 20 MB, and the map at most 8 GiB when all are scattered. */
export const MAX_REGIONS_PER_VOLUME = 2 ** 36;
/** Of a secondary, at most: ten years, so that its end is a date that can be told. */
const MAX_APPLY_DELAY_SECONDS = 3650 * 86_400;
/** What every disk and every client counts in, in bytes. */
export const SECTOR_BYTES = 512;

/** The ring is made of pages of that size, in bytes. */
const LOG_UNIT_BYTES = 4 * KIB;
const DEFAULT_LOG_BYTES = 1 * GIB;
/** A record that carries maps takes no more than that share of the ring, so that it finds room however the ring stands. */
const MAP_RECORD_SHARE = 4;
/** A restore's record carries two maps of each volume. */
const MAPS_IN_A_RECORD = 2;
/** What a control record takes beside its maps: names of 64 volumes, and the headers of its batches. */
const CONTROL_RECORD_BYTES = 16 * KIB;

function invalid(message: string): EngineError {
  return new EngineError('invalid', message);
}

/** Throws `invalid` for what can never be right, before anything is touched. */
export function checkGroupSpec(spec: GroupSpec): void {
  checkName('group', spec.name);
  const { regionBytes } = spec;
  if (
    regionBytes < MIN_REGION_BYTES ||
    regionBytes > MAX_REGION_BYTES ||
    !Number.isInteger(Math.log2(regionBytes))
  )
    throw invalid(`a region of ${regionBytes} bytes: it has to be a power of two from 4 KiB to 32 MiB`);
  if (spec.volumes.length === 0) throw invalid('a group needs at least one volume');
  if (spec.volumes.length > MAX_VOLUMES_PER_GROUP)
    throw invalid(`a group has at most ${MAX_VOLUMES_PER_GROUP} volumes`);
  const names = new Set<string>();
  const files = new Map<string, string>();
  for (const volume of spec.volumes) {
    checkName('volume', volume.name);
    if (names.has(volume.name)) throw invalid(`two volumes are named ${volume.name}`);
    names.add(volume.name);
    checkFile(volume, files);
    if (volume.sizeBytes !== undefined) checkVolumeSize(volume.name, volume.sizeBytes, regionBytes);
    else if (volume.file === undefined) throw invalid(`volume ${volume.name} needs a size`);
  }
  checkLogSpec(spec, files);
  if (spec.replica?.applyDelaySeconds !== undefined) checkApplyDelay(spec.replica.applyDelaySeconds);
}

/** Throws `invalid`. */
export function checkApplyDelay(seconds: number): void {
  if (Number.isSafeInteger(seconds) && seconds >= 0 && seconds <= MAX_APPLY_DELAY_SECONDS) return;
  throw invalid(
    `an apply delay of ${seconds} seconds: it is a whole number from 0 to ${MAX_APPLY_DELAY_SECONDS}`,
  );
}

/** `files`: those of the volumes, by path. */
function checkLogSpec(spec: GroupSpec, files: ReadonlyMap<string, string>): void {
  const { logBytes, logFile, onFull } = spec;
  if (onFull !== undefined && onFull !== 'hold' && onFull !== 'give-up')
    throw invalid(`${JSON.stringify(onFull)} is no policy for a full disk: take "hold" or "give-up"`);
  if (logFile !== undefined) {
    if (!isAbsolutePath(logFile)) throw invalid(`log: ${JSON.stringify(logFile)} is no absolute path`);
    const other = files.get(normalize(logFile));
    if (other !== undefined)
      throw invalid(`volume ${other} and the log name the same file, ${logFile}: give each one of its own`);
  }
  if (logBytes === undefined) return;
  if (!Number.isSafeInteger(logBytes) || logBytes <= 0) throw invalid(`a log of ${logBytes} bytes cannot be`);
  if (logBytes % LOG_UNIT_BYTES !== 0)
    throw invalid(`a log of ${logBytes} bytes: its size has to be a multiple of ${LOG_UNIT_BYTES}`);
  if (logBytes > MAX_VOLUME_BYTES)
    throw invalid(`a log of ${logBytes} bytes is above the limit of ${MAX_VOLUME_BYTES}`);
}

/** What the ring of a group of these volumes has at least, so that a record with full maps of all of them fits (rule L7), in bytes. */
export function minLogBytes(volumes: readonly { readonly sizeBytes: number }[], regionBytes: number): number {
  const mapBytes = volumes.reduce(
    (sum, { sizeBytes }) => sum + maxEncodedBytes(Math.ceil(sizeBytes / regionBytes)),
    0,
  );
  const bytes = MAP_RECORD_SHARE * (MAPS_IN_A_RECORD * mapBytes + CONTROL_RECORD_BYTES);
  return Math.max(MIN_LOG_BYTES, Math.ceil(bytes / LOG_UNIT_BYTES) * LOG_UNIT_BYTES);
}

export function defaultLogBytes(
  volumes: readonly { readonly sizeBytes: number }[],
  regionBytes: number,
): number {
  return Math.max(DEFAULT_LOG_BYTES, minLogBytes(volumes, regionBytes));
}

/** Throws `invalid` for a ring that the group's records would not fit. */
export function checkLogSize(
  logBytes: number,
  volumes: readonly { readonly sizeBytes: number }[],
  regionBytes: number,
): void {
  const needed = minLogBytes(volumes, regionBytes);
  if (logBytes < needed)
    throw invalid(`a log of ${logBytes} bytes is too small for these volumes: ${needed} bytes would do`);
}

function isAbsolutePath(path: string): boolean {
  return path.startsWith('/') && !path.includes('\0');
}

/** `files`: what the volumes before it named, by path. */
function checkFile(volume: VolumeSpec, files: Map<string, string>): void {
  const { file } = volume;
  if (file === undefined) return;
  if (!isAbsolutePath(file))
    throw invalid(`volume ${volume.name}: ${JSON.stringify(file)} is no absolute path`);
  const other = files.get(normalize(file));
  if (other !== undefined)
    throw invalid(
      `volumes ${other} and ${volume.name} name the same file, ${file}: give each one of its own`,
    );
  files.set(normalize(file), volume.name);
}

/** Throws `invalid` for a size that no volume can have. */
export function checkVolumeSize(name: string, sizeBytes: number, regionBytes: number): void {
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes <= 0)
    throw invalid(`volume ${name}: a size of ${sizeBytes} bytes cannot be`);
  if (sizeBytes % SECTOR_BYTES !== 0)
    throw invalid(`volume ${name}: a size of ${sizeBytes} bytes is not a multiple of ${SECTOR_BYTES}`);
  if (sizeBytes > MAX_VOLUME_BYTES)
    throw invalid(`volume ${name}: a size of ${sizeBytes} bytes is above the limit of ${MAX_VOLUME_BYTES}`);
  if (sizeBytes / regionBytes > MAX_REGIONS_PER_VOLUME)
    throw invalid(
      `volume ${name}: too many regions of ${regionBytes} bytes for its size; take larger regions`,
    );
}
