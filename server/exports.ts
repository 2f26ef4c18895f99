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
import type { ExportDirectory, MetaContext } from '../protocol/session.ts';
import { contextNames, type ImageOfGroup, resolveContexts, type SelectedContext } from './contexts.ts';
import type { ExportedGroup, SnapshotView } from './group-control.ts';
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

  constructor(image: ImageOfGroup, device: BlockDevice, forKernelDevice: boolean) {
    const { group, volume, snapshot } = image;
    this.name = exportNameOf(group.name, volume, snapshot?.name);
    this.description =
      snapshot === undefined
        ? `volume ${volume} of group ${group.name}`
        : `volume ${volume} of group ${group.name} at snapshot ${snapshot.name}`;
    this.sizeBytes = device.sizeBytes;
    // A secondary's volumes take writes from their primary only; its snapshots are its own.
    const readOnly = snapshot === undefined && group.role !== 'primary';
    this.transmissionFlags = DEVICE_FLAGS | (readOnly ? NBD_FLAG_READ_ONLY : 0);
    this.groupName = group.name;
    this.device = device;
    this.image = image;
    this.forKernelDevice = forKernelDevice;
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

/**
 * The exports of a node, by name: `GROUP/VOLUME`, and `GROUP/VOLUME@SNAPSHOT` for what a snapshot shows, which comes and goes with it. A
 * client that names none gets the only volume, where there is only one; with more, or with none, the default export does not exist.
 */
export class Exports implements ExportDirectory {
  readonly #groups = new Map<string, ExportedGroup>();
  /** From a ticket to the export that it opens. */
  readonly #tickets = new Map<string, string>();

  add(group: ExportedGroup): void {
    this.#groups.set(group.name, group);
  }

  remove(groupName: string): void {
    this.#groups.delete(groupName);
  }

  *list(): Generator<ServedExport, void, void> {
    for (const group of this.#groups.values()) {
      for (const [volume, device] of group.volumes)
        yield new ServedExport({ group, volume, snapshot: undefined }, device, false);
    }
    for (const group of this.#groups.values()) {
      const { snapshots } = group;
      for (const volume of group.volumes.keys()) {
        for (const snapshot of snapshots) {
          const served = servedSnapshot(group, volume, snapshot, false);
          if (served !== undefined) yield served;
        }
      }
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
      return new ServedExport({ group, volume, snapshot: undefined }, device, forKernelDevice);
    const snapshot = group.snapshots.find((each) => each.name === snapshotName);
    return snapshot === undefined ? undefined : servedSnapshot(group, volume, snapshot, forKernelDevice);
  }

  #onlyVolume(): ServedExport | undefined {
    const [group, otherGroup] = this.#groups.values();
    if (group === undefined || otherGroup !== undefined) return undefined;
    const [only, otherVolume] = group.volumes;
    if (only === undefined || otherVolume !== undefined) return undefined;
    return new ServedExport({ group, volume: only[0], snapshot: undefined }, only[1], false);
  }
}

function servedSnapshot(
  group: ExportedGroup,
  volume: string,
  snapshot: SnapshotView,
  forKernelDevice: boolean,
): ServedExport | undefined {
  const device = group.snapshotVolume(snapshot.name, volume);
  return device && new ServedExport({ group, volume, snapshot }, device, forKernelDevice);
}
