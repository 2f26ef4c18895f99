/** What the server asks of a group's links, and of a group that is a replica: as interfaces, like `GroupControl`. */
import type { ReplicaPort } from '../engine/link/peer.ts';
import type { RestorePlan } from '../engine/snapshots.ts';
import type { Lsn } from '../engine/units.ts';

export type LinkMode = 'async' | 'memory' | 'sync';
export type LinkState = 'connecting' | 'resync' | 'streaming' | 'paused' | 'detached' | 'failed';
/** The ways of Fig. 5: not known yet; only the record travels; what the secondary needs is moved; it is marked until the link is up. */
export type RestorePath = 'pending' | 'by reference' | 'by regions' | 'marked';

/** What a user asks for at `link add`. */
export interface LinkSpec {
  readonly name: string;
  readonly uri: string;
  readonly mode: LinkMode;
  readonly onLost: 'go-on' | 'block';
  readonly onFull: 'dcm' | 'block' | 'detach';
  /** Log kept for it at most, in bytes; 0: half of the ring. */
  readonly limitBytes: number;
  /** And in seconds; 0: as long as that lasts. */
  readonly limitSeconds: number;
  /** What a resync moves a second at most, in bytes; 0: no limit. */
  readonly rateBytesPerSecond: number;
}

export type LinkChanges = Partial<Omit<LinkSpec, 'name'>>;

export interface LinkView extends LinkSpec {
  readonly id: string;
  readonly state: LinkState;
  readonly reason: string | undefined;
  /** What has to happen for it to go on, or undefined. */
  readonly waitsFor: string | undefined;
  readonly lagBytes: number;
  readonly lagSeconds: number;
  readonly dcmRegions: number;
  /** Of the log, since the node started; and by resyncs. */
  readonly bytesShipped: number;
  readonly regionsResynced: number;
  readonly bytesResynced: number;
  readonly position: { readonly baseLsn: Lsn; readonly logLsn: Lsn | null };
  readonly lastRestore: { readonly lsn: Lsn; readonly path: RestorePath } | undefined;
}

/** What a restore would do on one link. */
export interface LinkForecast {
  readonly link: string;
  readonly path: RestorePath;
  /** What would travel, in bytes. */
  readonly bytes: number;
  /** What else there is to know: that writers are held meanwhile, … */
  readonly note: string | undefined;
}

export interface LinkControl {
  views(): readonly LinkView[];
  /** Throws `exists`, `invalid`. `assumeEqual`: the secondary's volumes have the same content already. */
  add(spec: LinkSpec & { readonly assumeEqual: boolean }): Promise<unknown>;
  /** These throw `not-found`. */
  set(name: string, changes: LinkChanges): Promise<unknown>;
  remove(name: string): Promise<void>;
  pause(name: string): Promise<unknown>;
  resume(name: string): Promise<unknown>;
  detach(name: string): Promise<unknown>;
  forecastRestore(plan: RestorePlan): readonly LinkForecast[];
}

export interface ReplicaControl extends ReplicaPort {
  /** The link that feeds it, once it has met its primary. */
  readonly upstream: { readonly linkName: string; readonly memberId: string } | undefined;
  /** A session of that link is open. */
  readonly connected: boolean;
  readonly frozen: boolean;
  readonly applyDelaySeconds: number;
  freeze(): Promise<void>;
  thaw(): Promise<void>;
}
