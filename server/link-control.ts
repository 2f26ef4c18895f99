/** What the server asks of a group's links, and of a group that is a replica: as interfaces, like `GroupControl`. */
import type { LinkForecast } from '../engine/link/forecast.ts';
import type { LinkChanges, LinkSpec } from '../engine/link/link-settings.ts';
import type { LinkView } from '../engine/link/link-view.ts';
import type { ReplicaPort } from '../engine/link/peer.ts';
import type { VerificationView, VerifyOptions } from '../engine/link/verification.ts';
import type { Shown } from '../engine/replica/peer-state.ts';
import type { RestorePlan } from '../engine/snapshots.ts';

export type { LinkForecast } from '../engine/link/forecast.ts';
export type { LinkChanges, LinkSpec } from '../engine/link/link-settings.ts';
export type { LinkView } from '../engine/link/link-view.ts';
export type { VerificationView, VerifyOptions } from '../engine/link/verification.ts';

export interface LinkControl {
  views(): readonly LinkView[];
  /** Throws `exists`, `invalid`. */
  add(spec: LinkSpec): Promise<unknown>;
  /** These throw `not-found`. */
  set(name: string, changes: LinkChanges): Promise<unknown>;
  remove(name: string): Promise<void>;
  pause(name: string): Promise<unknown>;
  resume(name: string): Promise<unknown>;
  detach(name: string): Promise<unknown>;
  /** Has what the secondary lacks copied now; with `full`, everything. Throws `in-use` when the link is not active. */
  resync(name: string, options: { readonly full?: boolean }): Promise<unknown>;
  forecastRestore(plan: RestorePlan): readonly LinkForecast[];
  /** Begins to compare both sides. Throws `in-use`, `unavailable` when that cannot be now. */
  verify(name: string, options: VerifyOptions): Promise<VerificationControl>;
  /** The one under way, or the last one of this run of the node. Throws `not-found`. */
  verification(name: string): VerificationControl;
  /** The group is about to be closed: whoever waits for a link that is not in its mode is refused, and waits no longer. */
  refuseHeld(): void;
}

export interface VerificationControl {
  readonly view: VerificationView;
  cancel(): void;
}

export type { Shown } from '../engine/replica/peer-state.ts';

export interface ReplicaControl extends ReplicaPort {
  /** The link that feeds it, once it has met its primary. */
  readonly upstream:
    | { readonly linkName: string; readonly memberId: string; readonly path: readonly string[] }
    | undefined;
  /** A session of that link is open. */
  readonly connected: boolean;
  readonly frozen: boolean;
  readonly applyDelaySeconds: number;
  /** What readers of its volumes get. */
  readonly shows: Shown;
  /** What a resync that is under way has brought. */
  readonly received: { readonly regions: number; readonly bytes: number };
  freeze(): Promise<void>;
  thaw(): Promise<void>;
  /** Throws `invalid`. */
  setApplyDelay(seconds: number): Promise<void>;
}
