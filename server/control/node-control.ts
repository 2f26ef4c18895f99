import type { EventLog } from '../events.ts';
import type { LinkRequest, LinkSetRequest, LinkStatus, ReplicaSetRequest } from './link-schemas.ts';
import type { AttachRequest, DeviceView, GroupRequest, GroupStatus, NodeStatus } from './schemas.ts';
import type {
  ChangesPage,
  ChangesQuery,
  ImportRequest,
  OperationStatus,
  RestorePlanView,
  RestoreRequest,
  RestoreView,
  SnapshotRequest,
  SnapshotStatus,
} from './snapshot-schemas.ts';

/** What the control API can ask of a node. Refusals are `EngineError`s, by whose code the HTTP status is chosen. */
export interface NodeControl {
  readonly events: EventLog;
  readonly snapshots: SnapshotControl;
  readonly links: LinkAdministration;
  status(): NodeStatus;
  /** Throws `not-found`. */
  groupStatus(name: string): GroupStatus;
  /** Durable, and exported, when it resolves; all or nothing. */
  createGroup(request: GroupRequest): Promise<GroupStatus>;
  /** Throws `in-use` while sessions or devices use it or a snapshot of it. Removes the group's own files, never files named at `create`. */
  deleteGroup(name: string): Promise<void>;
  devices(): DeviceView[];
  attach(request: AttachRequest): Promise<DeviceView>;
  detach(device: string, force: boolean): Promise<void>;
  /** The text format of Prometheus. */
  metrics(): Promise<{ readonly contentType: string; readonly text: string }>;
}

/**
 * Snapshots, restores, imports. What would change data under somebody's feet throws `in-use` and names who it is, unless `force` is given:
 * then their sessions and devices are ended (rule T4).
 */
export interface SnapshotControl {
  /** Oldest first. */
  list(group: string): SnapshotStatus[];
  create(group: string, request: SnapshotRequest): Promise<SnapshotStatus>;
  delete(group: string, snapshot: string, force: boolean): Promise<void>;
  rename(group: string, snapshot: string, to: string): Promise<SnapshotStatus>;
  refresh(group: string, snapshot: string, force: boolean): Promise<SnapshotStatus>;
  /** Begins it. */
  detach(group: string, snapshot: string): Promise<OperationStatus>;
  planRestore(group: string, snapshot: string, volume: string | undefined): RestorePlanView;
  /** Complete for every reader when it resolves; the operation copies in the background. */
  restore(group: string, snapshot: string, request: RestoreRequest): Promise<RestoreView>;
  changes(group: string, volume: string, query: ChangesQuery): ChangesPage;
  /** Begins it. */
  import(group: string, volume: string, request: ImportRequest): Promise<OperationStatus>;
  operations(group: string): OperationStatus[];
  /** Throws `not-found` for one that this run of the node did not begin, once it is over. */
  operation(group: string, id: string): OperationStatus;
}

/** Links of primaries, and what a secondary applies. */
export interface LinkAdministration {
  list(group: string): LinkStatus[];
  add(group: string, request: LinkRequest): Promise<LinkStatus>;
  set(group: string, link: string, request: LinkSetRequest): Promise<LinkStatus>;
  remove(group: string, link: string): Promise<void>;
  steer(group: string, link: string, what: 'pause' | 'resume' | 'detach'): Promise<LinkStatus>;
  /** Throws `in-use` for a link that is not active. */
  resync(group: string, link: string, full: boolean): Promise<LinkStatus>;
  /** Throws `invalid` for a primary. */
  freeze(group: string): Promise<void>;
  thaw(group: string): Promise<void>;
  setReplica(group: string, request: ReplicaSetRequest): Promise<void>;
}
