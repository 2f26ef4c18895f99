import type { GroupState } from '../group-state.ts';
import type { LogIntake } from '../log/intake.ts';
import type { ControlEffects } from '../snapshot/control-effects.ts';
import type { Admission, AdmissionHost } from './admission.ts';
import type { Needs } from './needs.ts';
import type { Resync } from './resync.ts';
import type { Session } from './session.ts';
import type { Verifying } from './verifying.ts';

export interface ReplicaHost extends AdmissionHost {
  /** Resolves when `holds`, which is looked at whenever something has changed. */
  readonly until: (holds: () => boolean) => Promise<void>;
  readonly isClosing: () => boolean;
  /** Why the group takes no more writes, or undefined. */
  readonly failure: () => string | undefined;
  /** The links of this node, which pass on what it gets (rule K11). */
  readonly fed: () => FedLinks;
}

/** See `Links`, which is that. */
export interface FedLinks {
  suspend(why: string): Promise<() => void>;
  interrupt(why: string): Promise<void>;
  letGo(why: string): Promise<void>;
}

/** What the parts of a secondary share. */
export interface ReplicaParts {
  readonly state: GroupState;
  readonly effects: ControlEffects;
  readonly needs: Needs;
  readonly host: ReplicaHost;
  readonly session: Session;
  readonly intake: LogIntake;
  readonly admission: Admission;
  readonly resync: Resync;
  readonly verifying: Verifying;
}
