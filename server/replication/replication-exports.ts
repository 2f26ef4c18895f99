/**
 * The exports by which a secondary's group takes what its primary sends (rule K8; docs/replication-protocol.md). They are found by their exact names only, and opened by
 * whoever comes over a unix socket, or proves the group's secret.
 */
import { type Announcement, CHECKSUM_BYTES, type ReplicaPort } from '../../engine/link/peer.ts';
import {
  BASE_ALLOCATION,
  NBD_FLAG_HAS_FLAGS,
  NBD_FLAG_READ_ONLY,
  NBD_FLAG_SEND_FLUSH,
  NBD_FLAG_SEND_TRIM,
  NBD_FLAG_SEND_WRITE_ZEROES,
} from '../../protocol/constants.ts';
import { MAX_PAYLOAD_BYTES, PREFERRED_BLOCK_BYTES } from '../../protocol/limits.ts';
import type { ExportDirectory, ExportInfo, MetaContext } from '../../protocol/session.ts';
import type { SelectedContext } from '../contexts.ts';
import type { OpenedExport, PeerSide } from '../opened-export.ts';
import { CHECKSUM_PAYLOAD_BYTES, ChecksumsDevice } from './checksums-device.ts';
import { LogDevice } from './log-device.ts';
import {
  parseReplicationName,
  REPLICATION_PREFIX,
  type ReplicationName,
  type ReplicationTarget,
} from './names.ts';
import { type MemberKind, PeerSessions } from './peer-sessions.ts';
import { CHALLENGE_PREFIX, clientProof, isSameProof, newNonce, serverProof } from './proof.ts';
import { NEEDS_CONTEXT, RegionsDevice } from './regions-device.ts';
import type { ReplicationDevice } from './replication-device.ts';
import { StateDevice } from './state-device.ts';

/** Of a group, what these exports are made of. */
export interface ReplicatedGroup {
  readonly name: string;
  readonly regionBytes: number;
  readonly volumes: ReadonlyMap<string, { readonly sizeBytes: number }>;
  readonly replica?: ReplicaPort | undefined;
}

export interface ReplicationParts {
  readonly group: (name: string) => ReplicatedGroup | undefined;
  /** The group's secret; undefined when there is none, and nobody is let in over TCP. */
  readonly secretOf: (name: string) => Buffer | undefined;
}

/** Of a connection: the nonce by which the client proves itself to it. */
interface Client {
  readonly nonce: string;
  /** It came over a unix socket. */
  readonly trusted: boolean;
}

/** Every request is a multiple of the sector, as the log and all volumes are. */
const BLOCK_BYTES = 512;

const FLAGS: Readonly<Record<ReplicationTarget['kind'], number>> = {
  state: NBD_FLAG_HAS_FLAGS,
  log: NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH,
  regions: NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES,
  checksums: NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY,
};

/** What requests are multiples of. */
const MINIMUM_BYTES: Readonly<Record<ReplicationTarget['kind'], number>> = {
  state: 1,
  log: BLOCK_BYTES,
  regions: BLOCK_BYTES,
  checksums: CHECKSUM_BYTES,
};

/** The contexts of an export, beside that of the challenge. */
const CONTEXTS: Readonly<Record<ReplicationTarget['kind'], readonly string[]>> = {
  state: [],
  log: [],
  regions: [NEEDS_CONTEXT],
  checksums: [BASE_ALLOCATION],
};

/** What a client gets of an export that it may not open, or that is not there. */
class RefusedExport implements ExportInfo {
  readonly description = '';
  readonly sizeBytes = 0;
  readonly transmissionFlags = 0;
  readonly minimumBlockBytes = 1;
  readonly preferredBlockBytes = PREFERRED_BLOCK_BYTES;
  readonly maximumPayloadBytes = MAX_PAYLOAD_BYTES;
  readonly name: string;
  readonly contexts: readonly string[];
  readonly refusal: string;

  constructor(name: string, contexts: readonly string[], refusal: string) {
    this.name = name;
    this.contexts = contexts;
    this.refusal = refusal;
  }
}

export class ReplicationExport implements OpenedExport {
  readonly description = 'for another node';
  readonly preferredBlockBytes = PREFERRED_BLOCK_BYTES;
  readonly maximumPayloadBytes: number;
  readonly image = undefined;
  readonly forKernelDevice = false;
  readonly name: string;
  readonly contexts: readonly string[];
  readonly groupName: string;
  readonly device: ReplicationDevice;
  readonly peer: PeerSide;
  readonly transmissionFlags: number;
  readonly minimumBlockBytes: number;

  constructor(name: ReplicationName, device: ReplicationDevice, contexts: readonly string[], peer: PeerSide) {
    const { kind, group } = name.target;
    this.name = name.canonical;
    this.groupName = group;
    this.device = device;
    this.contexts = contexts;
    this.peer = peer;
    this.transmissionFlags = FLAGS[kind];
    this.minimumBlockBytes = MINIMUM_BYTES[kind];
    this.maximumPayloadBytes = kind === 'checksums' ? CHECKSUM_PAYLOAD_BYTES : MAX_PAYLOAD_BYTES;
  }

  get sizeBytes(): number {
    return this.device.sizeBytes;
  }

  get presentName(): string {
    return this.name;
  }

  contextsOf(negotiated: readonly MetaContext[]): SelectedContext[] {
    const { device } = this;
    if (device instanceof ChecksumsDevice) {
      const allocation = negotiated.find((context) => context.name === BASE_ALLOCATION);
      return allocation === undefined ? [] : [{ id: allocation.id, kind: 'allocation' }];
    }
    if (!(device instanceof RegionsDevice)) return [];
    const found = negotiated.find((context) => context.name === NEEDS_CONTEXT);
    if (found === undefined) return [];
    return [{ id: found.id, kind: 'told', extents: (...range) => device.needed(...range) }];
  }
}

export class ReplicationExports {
  readonly sessions = new PeerSessions();
  readonly #parts: ReplicationParts;

  constructor(parts: ReplicationParts) {
    this.#parts = parts;
  }

  /** What one client may see: the others, and these. `trusted`: it came over a unix socket. */
  directory(others: ExportDirectory, trusted: boolean): ExportDirectory {
    const client: Client = { nonce: newNonce(), trusted };
    return {
      list: () => others.list(),
      find: (name) => (name.startsWith(REPLICATION_PREFIX) ? this.#find(name, client) : others.find(name)),
    };
  }

  #find(text: string, client: Client): ExportInfo | undefined {
    const name = parseReplicationName(text);
    const group = name && this.#parts.group(name.target.group);
    if (name === undefined || group === undefined) return undefined;
    const challenge = `${CHALLENGE_PREFIX}${client.nonce}`;
    const refused = (why: string): ExportInfo => new RefusedExport(name.canonical, [challenge], why);
    const unproven = client.trusted ? undefined : this.#whyUnproven(name, client);
    if (unproven !== undefined) return refused(unproven);
    const port = group.replica;
    if (port === undefined)
      return refused(
        `group ${group.name} of this node is a primary, and takes nothing from another: lead the link to a replica of its group, made on another node with tidemark create --replica`,
      );
    const made = this.#deviceOf(name.target, group, port, client);
    if (typeof made === 'string') return refused(made);
    const contexts = [...CONTEXTS[name.target.kind], challenge];
    return new ReplicationExport(name, made.device, contexts, made.peer);
  }

  #whyUnproven(name: ReplicationName, client: Client): string | undefined {
    const { group } = name.target;
    const secret = this.#parts.secretOf(group);
    if (secret === undefined)
      return `group ${group} of this node has no secret that could be read: links to it go over a unix socket only`;
    if (name.proof === undefined)
      return `over TCP a link proves the secret of group ${group}: give it to the link with --secret-file`;
    if (isSameProof(name.proof, clientProof(secret, client.nonce, name.canonical))) return undefined;
    return `the secret of the link is not that of group ${group} here: give it the right one with --secret-file`;
  }

  /** Or why it cannot be opened. */
  #deviceOf(
    target: ReplicationTarget,
    group: ReplicatedGroup,
    port: ReplicaPort,
    client: Client,
  ): { readonly device: ReplicationDevice; readonly peer: PeerSide } | string {
    if (target.kind === 'state') return this.#state(target, port, client);
    const { session } = target;
    const known = this.sessions.find(group.name, session);
    if (known === undefined) return `session ${session} of group ${group.name} is over`;
    if (target.kind === 'log') {
      if (known.hasLog) return `the log of session ${session} is open already`;
      return {
        device: new LogDevice(port, session),
        peer: this.#member(group.name, session, 'log', known.link),
      };
    }
    const volume = group.volumes.get(target.volume);
    if (volume === undefined) return `group ${group.name} has no volume ${target.volume}`;
    const { sizeBytes } = volume;
    const of = { port, session, volume: target.volume, sizeBytes, regionBytes: group.regionBytes };
    const device =
      target.kind === 'checksums'
        ? new ChecksumsDevice({ ...of, verifyId: target.verify })
        : new RegionsDevice({ ...of, round: target.round });
    return { device, peer: this.#member(group.name, session, target.kind, known.link) };
  }

  #state(
    target: Extract<ReplicationTarget, { kind: 'state' }>,
    port: ReplicaPort,
    client: Client,
  ): { readonly device: ReplicationDevice; readonly peer: PeerSide } {
    const secret = this.#parts.secretOf(target.group);
    const proof =
      secret === undefined || target.nonce === undefined
        ? undefined
        : serverProof(secret, client.nonce, target.nonce);
    const connection = new StateConnection(target.group, this.sessions, port);
    const begun = (session: number, announcement: Announcement): void =>
      connection.begun(session, announcement);
    return { device: new StateDevice({ port, proof, begun }), peer: connection };
  }

  #member(group: string, session: number, kind: MemberKind, link: string): PeerSide {
    let close: (reason: string) => void = () => undefined;
    return {
      link,
      opened: (closeIt) => {
        close = closeIt;
        try {
          this.sessions.joined(group, session, kind, close);
        } catch {
          // It ended while this connection was shaking hands.
          close(`session ${session} is over`);
        }
      },
      closed: (reason) => {
        this.sessions.left(group, session, close);
        if (kind === 'log') this.sessions.end(group, session, `the log connection has ended: ${reason}`);
      },
    };
  }
}

/** The connection that begins a session, and with which it ends. */
class StateConnection implements PeerSide {
  link: string | undefined;
  readonly #group: string;
  readonly #sessions: PeerSessions;
  readonly #port: ReplicaPort;
  #session: number | undefined;
  #close: (reason: string) => void = () => undefined;
  #closed: string | undefined;

  constructor(group: string, sessions: PeerSessions, port: ReplicaPort) {
    this.#group = group;
    this.#sessions = sessions;
    this.#port = port;
  }

  opened(close: (reason: string) => void): void {
    this.#close = close;
  }

  begun(session: number, announcement: Announcement): void {
    this.link = announcement.linkName;
    this.#session = session;
    this.#sessions.begun(this.#group, session, announcement.linkName, this.#port, this.#close);
    // The client went away while the hand-over was under way.
    if (this.#closed !== undefined) this.#sessions.end(this.#group, session, this.#closed);
  }

  closed(reason: string): void {
    this.#closed = reason;
    if (this.#session !== undefined) this.#sessions.end(this.#group, this.#session, reason);
  }
}
