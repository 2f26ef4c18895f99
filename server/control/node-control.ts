import type { EventLog } from '../events.ts';
import type { AttachRequest, DeviceView, GroupRequest, GroupStatus, NodeStatus } from './schemas.ts';

/** What the control API can ask of a node. Refusals are `EngineError`s, by whose code the HTTP status is chosen. */
export interface NodeControl {
  readonly events: EventLog;
  status(): NodeStatus;
  /** Throws `not-found`. */
  groupStatus(name: string): GroupStatus;
  /** Durable, and exported, when it resolves; all or nothing. */
  createGroup(request: GroupRequest): Promise<GroupStatus>;
  /** Throws `in-use` while sessions or devices use it. Removes the group's own files, never files named at `create`. */
  deleteGroup(name: string): Promise<void>;
  devices(): DeviceView[];
  attach(request: AttachRequest): Promise<DeviceView>;
  detach(device: string, force: boolean): Promise<void>;
  /** The text format of Prometheus. */
  metrics(): Promise<{ readonly contentType: string; readonly text: string }>;
}
