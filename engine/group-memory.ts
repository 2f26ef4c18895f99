/** What a group keeps in memory: its maps, and what is logged and not applied. */
import type { GroupState } from './group-state.ts';

export interface GroupMemory {
  /** For all of it: the setting `memory-bytes`. */
  readonly limitBytes: number;
  /** Payload of records that are not applied yet. */
  readonly payloadBytes: number;
  /** What finds these records. */
  readonly indexBytes: number;
  /** Maps of snapshots, restores and links. */
  readonly mapBytes: number;
}

export function groupMemoryOf(state: GroupState): GroupMemory {
  return {
    limitBytes: state.memoryBytes,
    payloadBytes: state.log.keptBytes,
    indexBytes: indexBytesOf(state),
    mapBytes: mapBytesOf(state),
  };
}

export function indexBytesOf({ volumes }: GroupState): number {
  return volumes.reduce((sum, volume) => sum + volume.pending.memoryBytes, 0);
}

export function mapBytesOf({ chain, detached, links }: GroupState): number {
  let bytes = 0;
  for (const node of chain.nodes) {
    if (node.kind === 'restore') for (const part of node.parts) bytes += part?.toCome.memoryBytes ?? 0;
    else
      for (const { changed, preserved, modified, copied } of node.parts)
        for (const map of [changed, preserved?.map, modified?.map, copied?.map])
          bytes += map?.memoryBytes ?? 0;
  }
  for (const { parts } of detached)
    for (const { changed, copied, modified } of parts)
      for (const map of [changed.map.view, copied.map, modified?.map]) bytes += map?.memoryBytes ?? 0;
  for (const { dcm } of links) bytes += dcm.memoryBytes;
  return bytes;
}
