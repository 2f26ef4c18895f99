import type { Clock } from './clock.ts';
import type { Disk, DiskFolder } from './disk/disk.ts';
import { createGroup, destroyGroup, type OpenGroup, openGroup } from './group-files.ts';
import type { GroupRecordFile } from './group-record.ts';
import type { GroupSpec } from './group-spec.ts';
import { Volume } from './volume.ts';

export type { GroupSpec, VolumeSpec } from './group-spec.ts';

/**
 * A replicated storage group: volumes that keep one write order among them. It is the unit of logging, snapshot, replication and role;
 * so far it has volumes only, in direct mode (rule L4).
 */
export class Group {
  readonly name: string;
  /** A UUID. */
  readonly id: string;
  readonly role: 'primary' | 'secondary';
  /** ISO 8601, UTC. */
  readonly createdAt: string;
  readonly regionBytes: number;
  /** By name, in the order in which they were asked for. */
  readonly volumes: ReadonlyMap<string, Volume>;
  /** Damage that was found and dealt with when the group was opened, a line each. */
  readonly warnings: readonly string[];
  readonly #record: GroupRecordFile;
  readonly #logDisk: Disk;
  #closing: Promise<void> | undefined;

  private constructor(parts: OpenGroup) {
    this.name = parts.record.name;
    this.id = parts.record.id;
    this.role = parts.record.role;
    this.createdAt = parts.record.createdAt;
    this.regionBytes = parts.record.regionBytes;
    const readOnly = this.role === 'secondary';
    this.volumes = new Map(
      parts.parts.map(({ identity, disk, map }) => [
        identity.name,
        new Volume(identity, disk, map, readOnly),
      ]),
    );
    this.warnings = parts.warnings;
    this.#record = parts.file;
    this.#logDisk = parts.logDisk;
  }

  /**
   * Makes a group in a folder of its own. Throws `invalid`, `exists`, `not-found`, `in-use` or `disk`, and has left nothing behind then. (A
   * crash at the wrong moment may leave a blank file outside the folder, where the user asked for one.)
   */
  static async create(folder: DiskFolder, spec: GroupSpec, clock: Clock): Promise<Group> {
    return new Group(await createGroup(folder, spec, clock));
  }

  /**
   * Opens a group. Throws `not-found` (also for one whose creation was cut short, which is cleared away), `corrupt`, `in-use`,
   * `unsupported` (made by a later version) or `disk`.
   */
  static async open(folder: DiskFolder, clock: Clock): Promise<Group> {
    return new Group(await openGroup(folder, clock));
  }

  /** Removes a group that is not open, with its data, but for files and devices outside. Throws `not-found`, `in-use`, `disk`. */
  static async destroy(folder: DiskFolder): Promise<void> {
    await destroyGroup(folder);
  }

  /** Closes all volumes. Rejects with the first error, after everything is closed. */
  close(): Promise<void> {
    this.#closing ??= this.#closeAll();
    return this.#closing;
  }

  async #closeAll(): Promise<void> {
    const results = await Promise.allSettled([...this.volumes.values()].map((volume) => volume.close()));
    await this.#logDisk.close();
    await this.#record.close();
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  }
}
