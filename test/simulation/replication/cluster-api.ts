/** A group of one of several nodes, as their simulator uses it. */
import type { BlockDevice } from '../../../engine/block-device.ts';
import type { Clock } from '../../../engine/clock.ts';
import type { DiskFolder } from '../../../engine/disk/disk.ts';
import { Group } from '../../../engine/group.ts';
import type { PeerConnector, ReplicaPort } from '../../../engine/link/peer.ts';
import type { SimEvent, SimGroup } from '../engine-api.ts';

export interface SimLinkSpec {
  readonly name: string;
  readonly uri: string;
  readonly mode?: 'async' | 'memory' | 'sync';
  readonly onLost?: 'go-on' | 'block';
  readonly onFull?: 'dcm' | 'block' | 'detach';
  readonly limitBytes?: number;
  readonly rateBytesPerSecond?: number;
}

export interface SimLinkView {
  readonly name: string;
  readonly state: string;
  readonly reason: string | null;
  readonly dcmRegions: number;
  readonly lagBytes: number;
}

export interface SimLinks {
  views(): readonly SimLinkView[];
  add(spec: SimLinkSpec): Promise<unknown>;
  pause(name: string): Promise<unknown>;
  resume(name: string): Promise<unknown>;
}

export interface ClusterGroup extends Omit<SimGroup, 'volumes' | 'log'> {
  readonly role: 'primary' | 'secondary';
  readonly log: SimGroup['log'] & { readonly usedBytes: number; readonly sizeBytes: number };
  readonly volumes: ReadonlyMap<string, BlockDevice>;
  readonly links: SimLinks;
  readonly replica: ReplicaPort | undefined;
  freeze(): Promise<void>;
  thaw(): Promise<void>;
}

export interface ClusterGroupSpec {
  readonly name: string;
  readonly regionBytes: number;
  readonly volumes: readonly { readonly name: string; readonly sizeBytes: number }[];
  readonly logBytes?: number;
  readonly replica?: { readonly applyDelaySeconds?: number };
}

export interface ClusterGroupOptions {
  readonly memoryBytes?: number;
  readonly copyBytesPerSecond?: number;
  readonly firstLsn?: number;
  readonly onEvent?: (event: SimEvent) => void;
  readonly connector?: PeerConnector;
}

export const clusterGroups = Group as unknown as {
  create(
    folder: DiskFolder,
    spec: ClusterGroupSpec,
    clock: Clock,
    options: ClusterGroupOptions,
  ): Promise<ClusterGroup>;
  open(folder: DiskFolder, clock: Clock, options: ClusterGroupOptions): Promise<ClusterGroup>;
};
