import type { BlockDevice } from '../engine/block-device.ts';
import {
  NBD_FLAG_CAN_MULTI_CONN,
  NBD_FLAG_HAS_FLAGS,
  NBD_FLAG_READ_ONLY,
  NBD_FLAG_SEND_CACHE,
  NBD_FLAG_SEND_DF,
  NBD_FLAG_SEND_FAST_ZERO,
  NBD_FLAG_SEND_FLUSH,
  NBD_FLAG_SEND_FUA,
  NBD_FLAG_SEND_TRIM,
  NBD_FLAG_SEND_WRITE_ZEROES,
} from '../protocol/constants.ts';
import { MAX_PAYLOAD_BYTES, MINIMUM_BLOCK_BYTES, PREFERRED_BLOCK_BYTES } from '../protocol/limits.ts';
import type { ExportDirectory, ExportEntry, MetaContext } from '../protocol/session.ts';
import { contextNames, type ImageOfGroup, resolveContexts, type SelectedContext } from './contexts.ts';
import { ExportHolds } from './export-holds.ts';
import type { ExportedGroup } from './group-control.ts';
import type { OpenedExport } from './opened-export.ts';

/**
 * What every volume offers. CAN_MULTI_CONN is true because all connections share one page cache and one `flush`: a flush on one covers
 * what any of them was acknowledged.
 */
const DEVICE_FLAGS =
  NBD_FLAG_HAS_FLAGS |
  NBD_FLAG_SEND_FLUSH |
  NBD_FLAG_SEND_FUA |
  NBD_FLAG_SEND_TRIM |
  NBD_FLAG_SEND_WRITE_ZEROES |
  NBD_FLAG_SEND_DF |
  NBD_FLAG_CAN_MULTI_CONN |
  NBD_FLAG_SEND_CACHE |
  NBD_FLAG_SEND_FAST_ZERO;

/** An export and the device behind it: a volume, or a volume as a snapshot has it. */
export class ServedExport implements OpenedExport {
  readonly name: string;
  readonly description: string;
  readonly sizeBytes: number;
  readonly transmissionFlags: number;
  readonly minimumBlockBytes = MINIMUM_BLOCK_BYTES;
  readonly preferredBlockBytes = PREFERRED_BLOCK_BYTES;
  readonly maximumPayloadBytes = MAX_PAYLOAD_BYTES;
  readonly groupName: string;
  readonly device: BlockDevice;
  readonly image: ImageOfGroup;
  /** It was opened by a kernel device of this node (see `Exports.issueTicket`). */
  readonly forKernelDevice: boolean;
  readonly peer = undefined;
  readonly #holds: ExportHolds;

  constructor(image: ImageOfGroup, device: BlockDevice, forKernelDevice: boolean, holds: ExportHolds) {
    const { group, volume, snapshot } = image;
    const { name, description } = entryOf(group.name, volume, snapshot?.name);
    this.name = name;
    this.description = description;
    this.sizeBytes = device.sizeBytes;
    // A secondary's volumes take writes from their primary only; its snapshots are its own.
    const readOnly = snapshot === undefined && group.role !== 'primary';
    this.transmissionFlags = DEVICE_FLAGS | (readOnly ? NBD_FLAG_READ_ONLY : 0);
    this.groupName = group.name;
    this.device = device;
    this.image = image;
    this.forKernelDevice = forKernelDevice;
    this.#holds = holds;
  }

  /** A kernel device of ours is let in: none is attached while its export is held, so it was there before. */
  get refusal(): string | undefined {
    if (this.forKernelDevice) return undefined;
    return this.#holds.refusalOf(this.name, (this.transmissionFlags & NBD_FLAG_READ_ONLY) === 0);
  }

  /** `name`, or what has become of it: a snapshot may have been renamed since. */
  get presentName(): string {
    const { group, volume, snapshot } = this.image;
    const isThis = (name: string): boolean => group.snapshotVolume(name, volume) === this.device;
    if (snapshot === undefined || isThis(snapshot.name)) return this.name;
    const now = group.snapshots.find((each) => isThis(each.name));
    return now === undefined ? this.name : exportNameOf(group.name, volume, now.name);
  }

  /** Asked for when a client asks: they come and go with the snapshots. */
  get contexts(): readonly string[] {
    return contextNames(this.image);
  }

  contextsOf(negotiated: readonly MetaContext[]): SelectedContext[] {
    return resolveContexts(this.image, negotiated);
  }
}

/** `GROUP/VOLUME`, or `GROUP/VOLUME@SNAPSHOT`. */
export function exportNameOf(group: string, volume: string, snapshot?: string): string {
  return snapshot === undefined ? `${group}/${volume}` : `${group}/${volume}@${snapshot}`;
}

function entryOf(group: string, volume: string, snapshot: string | undefined): ExportEntry {
  const at = snapshot === undefined ? '' : ` at snapshot ${snapshot}`;
  return {
    name: exportNameOf(group, volume, snapshot),
    description: `volume ${volume} of group ${group}${at}`,
  };
}

/**
 * The exports of a node, by name: `GROUP/VOLUME`, and `GROUP/VOLUME@SNAPSHOT` for what a snapshot shows, which comes and goes with it. A
 * client that names none gets the only volume, where there is only one; with more, or with none, the default export does not exist.
 */
export class Exports implements ExportDirectory {
  /** Exports that are kept from clients and devices for the moment. */
  readonly holds = new ExportHolds();
  readonly #groups = new Map<string, ExportedGroup>();
  /** From a ticket to the export that it opens. */
  readonly #tickets = new Map<string, string>();

  add(group: ExportedGroup): void {
    this.#groups.set(group.name, group);
  }

  remove(groupName: string): void {
    this.#groups.delete(groupName);
  }

  *list(): Generator<ExportEntry, void, void> {
    for (const group of this.#groups.values())
      for (const volume of group.volumes.keys()) yield entryOf(group.name, volume, undefined);
    for (const group of this.#groups.values()) {
      // A group sorts its snapshots for each who asks: it is asked once.
      const { snapshots } = group;
      for (const volume of group.volumes.keys())
        for (const snapshot of snapshots) yield entryOf(group.name, volume, snapshot.name);
    }
  }

  find(name: string): ServedExport | undefined {
    const ticketed = this.#tickets.get(name);
    if (ticketed !== undefined) return this.#resolve(ticketed, true);
    return name === '' ? this.#onlyVolume() : this.#resolve(name, false);
  }

  /**
   * Another name for an export, by which the helper of a kernel device opens it, so that its session is told from those of clients: those
   * have pages of the volume in caches that this node cannot drop. No right goes with it. `revokeTicket` once it is open, or will not be.
   */
  issueTicket(ticket: string, exportName: string): void {
    this.#tickets.set(ticket, exportName);
  }

  revokeTicket(ticket: string): void {
    this.#tickets.delete(ticket);
  }

  #resolve(name: string, forKernelDevice: boolean): ServedExport | undefined {
    // Names of groups, volumes and snapshots have neither of the two separators in them.
    const [, groupName = '', volume = '', snapshotName] =
      /^([^/@]+)\/([^/@]+)(?:@([^/@]+))?$/.exec(name) ?? [];
    const group = this.#groups.get(groupName);
    const device = group?.volumes.get(volume);
    if (group === undefined || device === undefined) return undefined;
    if (snapshotName === undefined)
      return new ServedExport({ group, volume, snapshot: undefined }, device, forKernelDevice, this.holds);
    const snapshot = group.snapshots.find((each) => each.name === snapshotName);
    const shown = snapshot && group.snapshotVolume(snapshotName, volume);
    return shown && new ServedExport({ group, volume, snapshot }, shown, forKernelDevice, this.holds);
  }

  #onlyVolume(): ServedExport | undefined {
    const [group, otherGroup] = this.#groups.values();
    if (group === undefined || otherGroup !== undefined) return undefined;
    const [only, otherVolume] = group.volumes;
    if (only === undefined || otherVolume !== undefined) return undefined;
    return new ServedExport({ group, volume: only[0], snapshot: undefined }, only[1], false, this.holds);
  }
}
