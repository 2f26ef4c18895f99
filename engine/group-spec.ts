import { normalize } from 'node:path';
import { EngineError } from './errors.ts';
import { checkName } from './names.ts';
import { MAX_REGION_BYTES, MAX_VOLUME_BYTES, MIN_REGION_BYTES } from './units.ts';

/** What a user asks for at `create`. */
export interface GroupSpec {
  readonly name: string;
  /** A power of two from 4 KiB to 32 MiB. */
  readonly regionBytes: number;
  readonly volumes: readonly VolumeSpec[];
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
/** What every disk and every client counts in, in bytes. */
export const SECTOR_BYTES = 512;

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
}

/** `files`: what the volumes before it named, by path. */
function checkFile(volume: VolumeSpec, files: Map<string, string>): void {
  const { file } = volume;
  if (file === undefined) return;
  if (!file.startsWith('/') || file.includes('\0'))
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
