import type { Group } from '../engine/group.ts';
import type { Volume } from '../engine/volume.ts';
import {
  BASE_ALLOCATION,
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
import type { ExportDirectory, ExportInfo } from '../protocol/session.ts';

/** An export and the volume behind it. */
export interface ServedExport extends ExportInfo {
  readonly groupName: string;
  readonly volume: Volume;
}

/**
 * What every volume offers. CAN_MULTI_CONN is true because all connections share one page cache and one `flush`: a flush on one covers
 * what any of them was acknowledged.
 */
const VOLUME_FLAGS =
  NBD_FLAG_HAS_FLAGS |
  NBD_FLAG_SEND_FLUSH |
  NBD_FLAG_SEND_FUA |
  NBD_FLAG_SEND_TRIM |
  NBD_FLAG_SEND_WRITE_ZEROES |
  NBD_FLAG_SEND_DF |
  NBD_FLAG_CAN_MULTI_CONN |
  NBD_FLAG_SEND_CACHE |
  NBD_FLAG_SEND_FAST_ZERO;

/**
 * The exports of a node, by name: `GROUP/VOLUME`. A client that names none gets the only one, where there is only one; with more, or
 * with none, the default export does not exist.
 */
export class Exports implements ExportDirectory {
  readonly #byName = new Map<string, ServedExport>();

  add(group: Group): void {
    const readOnly = group.role !== 'primary';
    for (const volume of group.volumes.values()) {
      const name = `${group.name}/${volume.name}`;
      this.#byName.set(name, {
        name,
        description: `volume ${volume.name} of group ${group.name}`,
        sizeBytes: volume.sizeBytes,
        transmissionFlags: VOLUME_FLAGS | (readOnly ? NBD_FLAG_READ_ONLY : 0),
        minimumBlockBytes: MINIMUM_BLOCK_BYTES,
        preferredBlockBytes: PREFERRED_BLOCK_BYTES,
        maximumPayloadBytes: MAX_PAYLOAD_BYTES,
        contexts: [BASE_ALLOCATION],
        groupName: group.name,
        volume,
      });
    }
  }

  remove(groupName: string): void {
    for (const served of [...this.#byName.values()]) {
      if (served.groupName === groupName) this.#byName.delete(served.name);
    }
  }

  list(): Iterable<ServedExport> {
    return this.#byName.values();
  }

  find(name: string): ServedExport | undefined {
    if (name !== '') return this.#byName.get(name);
    const [only, second] = this.#byName.values();
    return second === undefined ? only : undefined;
  }
}
