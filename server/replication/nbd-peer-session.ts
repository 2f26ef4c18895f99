import { EngineError } from '../../engine/errors.ts';
import {
  type Announcement,
  type LogRestart,
  type PeerSession,
  type PeerState,
  REPLICATION_PROTOCOL,
  type RegionContent,
} from '../../engine/link/peer.ts';
import type { RegionRun } from '../../engine/map/region-map.ts';
import { LOG_SECTOR_BYTES, type Lsn, type RegionIndex } from '../../engine/units.ts';
import { BASE_ALLOCATION } from '../../protocol/constants.ts';
import type { NbdClient } from '../nbd-client.ts';
import { ChecksumConnection } from './checksum-connection.ts';
import type { CommandDocument } from './documents.ts';
import { openPeer, type PeerAddress } from './peer-connection.ts';
import { isSameProof, newNonce, serverProof } from './proof.ts';
import { sendRegions } from './region-writes.ts';
import { NEEDS_CONTEXT, neededRuns } from './regions-device.ts';
import { type GoodAnswer, StateClient } from './state-client.ts';
import { fromTheWire } from './wire-errors.ts';

export interface SessionTimes {
  /** For each connection and its handshake, in milliseconds. */
  readonly connectMs: number;
  /** In which the state is told, which waits for nothing; else the secondary counts as gone. In milliseconds. */
  readonly silenceMs: number;
}

/** Bytes that one block status request asks about, with and without extended headers: its answer is short of it where there is much to tell. */
const NEEDS_STEP_BYTES = 1024 ** 4;
const COMPACT_NEEDS_STEP_BYTES = 2 * 1024 ** 3;
/** How often as long as the state the needs of a volume may take to be told: they come in many answers. */
const NEEDS_SILENCES = 10;
/** Beyond so many runs what lies between two of them counts as needed as well: a region too many costs a copy. */
const MAX_NEEDED_RUNS = 65_536;

/** Without the fields that every command has. */
type Command = CommandDocument extends infer Each
  ? Each extends unknown
    ? Omit<Each, 'protocol'>
    : never
  : never;

/** What a hand-over leads to. */
interface Begun {
  readonly session: number;
  readonly log: NbdClient;
  readonly regionBytes: number;
  readonly volumes: Announcement['volumes'];
}

/** Regions of a volume, in one round. */
interface RoundConnection {
  readonly roundId: string;
  readonly client: Promise<NbdClient>;
}

/**
 * A session of a link over NBD: a connection to the state export, which lasts as long as the session; one to the log, from the hand-over on; one for each
 * volume that regions go to, opened with the first of a round and kept to its end; and one to the checksums of a volume that is verified. When any of them breaks the session is over.
 */
export class NbdPeerSession implements PeerSession {
  readonly closed: Promise<string>;
  readonly #address: PeerAddress;
  readonly #times: SessionTimes;
  readonly #stateConnection: NbdClient;
  readonly #state: StateClient;
  readonly #clients = new Set<NbdClient>();
  readonly #rounds = new Map<string, RoundConnection>();
  readonly #checksums: ChecksumConnection;
  #begun: Begun | undefined;
  #over: string | undefined;
  #resolveClosed: (reason: string) => void = () => undefined;

  private constructor(address: PeerAddress, times: SessionTimes, state: NbdClient) {
    this.#address = address;
    this.#times = times;
    this.#stateConnection = state;
    this.#state = new StateClient(state);
    this.#checksums = new ChecksumConnection({
      open: (verify, volume) => {
        const { session } = this.#requireBegun();
        const { group } = this.#address;
        return this.#open({ kind: 'checksums', group, volume, session, verify }, [BASE_ALLOCATION]);
      },
      part: (opened) => this.#part(opened),
    });
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
    this.#watch(state);
  }

  /** Connects, and sees to it that the other side knows the secret. Rejects with `unavailable`. */
  static async open(address: PeerAddress, times: SessionTimes): Promise<NbdPeerSession> {
    const nonce = address.secret && newNonce();
    const opened = await openPeer(
      address,
      { kind: 'state', group: address.group, nonce },
      { timeoutMs: times.connectMs },
    );
    const session = new NbdPeerSession(address, times, opened.client);
    try {
      await session.#checkProof(nonce, opened.serverNonce);
      return session;
    } catch (error) {
      session.close();
      throw error;
    }
  }

  async #checkProof(nonce: string | undefined, serverNonce: string | undefined): Promise<void> {
    const { secret } = this.#address;
    const { proof } = await this.#document();
    if (secret === undefined) return;
    const isProved =
      nonce !== undefined &&
      serverNonce !== undefined &&
      isSameProof(proof, serverProof(secret, serverNonce, nonce));
    if (!isProved)
      throw new EngineError(
        'unavailable',
        'the node there cannot prove that it knows the secret of the group',
      );
  }

  async state(): Promise<PeerState> {
    return (await this.#document()).state;
  }

  async begin(announcement: Announcement): Promise<PeerState> {
    const { path, regionBytes, volumes, named } = announcement;
    const told = {
      ...announcement,
      path: [...path],
      volumes: [...volumes],
      named: { ...named, snapshots: [...named.snapshots] },
    };
    const { session, state } = await this.#command({ call: 'begin', announcement: told });
    if (session === undefined || state === undefined)
      throw new EngineError('unavailable', 'the secondary answers a hand-over with no session');
    const log = await this.#open({ kind: 'log', group: this.#address.group, session }, [], LOG_SECTOR_BYTES);
    this.#begun = { session, log, regionBytes, volumes };
    return state;
  }

  async restart(restart: LogRestart): Promise<void> {
    const told = { ...restart, snapshots: [...restart.snapshots] };
    await this.#command({ call: 'restart', restart: told });
  }

  async append(lsn: Lsn, bytes: Buffer): Promise<void> {
    await this.#ask(this.#requireBegun().log.write(bytes, lsn * LOG_SECTOR_BYTES));
  }

  async sync(): Promise<void> {
    await this.#ask(this.#requireBegun().log.flush());
  }

  async hold(roundId: string, lsn: Lsn): Promise<void> {
    await this.#command({ call: 'hold', roundId, lsn });
  }

  async writeRegions(roundId: string, volume: string, regions: readonly RegionContent[]): Promise<void> {
    const { regionBytes } = this.#requireBegun();
    const client = await this.#roundConnection(roundId, volume);
    await this.#ask(sendRegions(client, regionBytes, regions));
  }

  async syncRegions(roundId: string): Promise<void> {
    this.#requireBegun();
    const ofRound = [...this.#rounds.values()].filter((each) => each.roundId === roundId);
    await this.#ask(Promise.all(ofRound.map(async ({ client }) => (await client).flush())));
  }

  async release(roundId: string, complete: boolean): Promise<void> {
    await this.#command({ call: 'release', roundId, complete });
    for (const [volume, connection] of this.#rounds) {
      if (connection.roundId !== roundId) continue;
      this.#rounds.delete(volume);
      this.#part(connection.client);
    }
  }

  async needs(volume: string): Promise<readonly RegionRun[]> {
    const { session, regionBytes, volumes } = this.#requireBegun();
    const target = {
      kind: 'regions',
      group: this.#address.group,
      volume,
      session,
      round: undefined,
    } as const;
    const opened = this.#open(target, [NEEDS_CONTEXT]);
    const client = await opened;
    const limitMs = NEEDS_SILENCES * this.#times.silenceMs;
    const timer = setTimeout(
      () => this.#end(`the secondary has not told what it needs of ${volume} within ${limitMs} ms`),
      limitMs,
    );
    try {
      if (client.session.contexts.length === 0)
        throw new EngineError('unavailable', `the secondary does not tell ${NEEDS_CONTEXT}`);
      const own = volumes.find(({ name }) => name === volume)?.sizeBytes;
      if (client.sizeBytes !== own)
        throw new EngineError(
          'unavailable',
          `volume ${volume} has ${client.sizeBytes} bytes there, not ${own}`,
        );
      return await this.#ask(readNeeds(client, regionBytes));
    } finally {
      clearTimeout(timer);
      this.#part(opened);
    }
  }

  async beginVerify(verifyId: string): Promise<void> {
    await this.#command({ call: 'verify', verifyId });
  }

  async content(
    verifyId: string,
    volume: string,
    first: RegionIndex,
    end: RegionIndex,
  ): Promise<readonly RegionRun[]> {
    return await this.#ask(this.#checksums.content(verifyId, volume, first, end));
  }

  async checksums(verifyId: string, volume: string, first: RegionIndex, end: RegionIndex): Promise<Buffer> {
    return await this.#ask(this.#checksums.checksums(verifyId, volume, first, end));
  }

  async endVerify(verifyId: string): Promise<void> {
    this.#checksums.end();
    await this.#command({ call: 'end-verify', verifyId });
  }

  close(): void {
    this.#end('this side closed the connection');
  }

  async #document(): Promise<Awaited<ReturnType<StateClient['document']>>> {
    const timer = setTimeout(
      () => this.#end(`the secondary has not told its state within ${this.#times.silenceMs} ms`),
      this.#times.silenceMs,
    );
    try {
      return await this.#ask(this.#state.document());
    } finally {
      clearTimeout(timer);
    }
  }

  async #command(command: Command): Promise<GoodAnswer> {
    return await this.#ask(this.#state.command({ ...command, protocol: REPLICATION_PROTOCOL }));
  }

  /** The answer to a request; what it is refused with as an error of ours, and the reason of the end once the session is over. */
  async #ask<Answer>(asked: Promise<Answer>): Promise<Answer> {
    try {
      return await asked;
    } catch (error) {
      const failure = fromTheWire(error);
      if (failure instanceof EngineError && failure.code === 'unavailable' && this.#over !== undefined)
        throw new EngineError('unavailable', this.#over, { cause: failure });
      throw failure;
    }
  }

  #requireBegun(): Begun {
    if (this.#over !== undefined) throw new EngineError('unavailable', this.#over);
    if (this.#begun === undefined)
      throw new EngineError('invalid', 'the session has not begun: begin() comes first');
    return this.#begun;
  }

  /** Regions that are written while it is being opened follow in their order: all wait for the one promise. */
  #roundConnection(roundId: string, volume: string): Promise<NbdClient> {
    const known = this.#rounds.get(volume);
    if (known?.roundId === roundId) return known.client;
    if (known !== undefined) this.#part(known.client);
    const { session } = this.#requireBegun();
    const client = this.#open(
      { kind: 'regions', group: this.#address.group, volume, session, round: roundId },
      [],
    );
    const connection = { roundId, client };
    this.#rounds.set(volume, connection);
    client.catch(() => {
      if (this.#rounds.get(volume) === connection) this.#rounds.delete(volume);
    });
    return client;
  }

  async #open(
    target: Parameters<typeof openPeer>[1],
    contexts: readonly string[],
    offsetUnitBytes = 1,
  ): Promise<NbdClient> {
    const options = { contexts, offsetUnitBytes, timeoutMs: this.#times.connectMs };
    const { client } = await openPeer(this.#address, target, options);
    this.#watch(client);
    if (this.#over === undefined) return client;
    void client.close();
    throw new EngineError('unavailable', this.#over);
  }

  /** Says goodbye to a connection that is not needed any more. */
  #part(opened: Promise<NbdClient>): void {
    opened.then(
      (client) => {
        this.#clients.delete(client);
        void client.disconnect();
      },
      () => undefined,
    );
  }

  #watch(client: NbdClient): void {
    this.#clients.add(client);
    void client.closed.then((reason) => {
      // One that was parted from is none of ours any more.
      if (this.#clients.delete(client)) this.#end(reason?.message ?? 'the connection was closed');
    });
  }

  #end(reason: string): void {
    if (this.#over !== undefined) return;
    this.#over = reason;
    const clients = [...this.#clients];
    this.#clients.clear();
    for (const client of clients) void client.close();
    if (!clients.includes(this.#stateConnection)) void this.#stateConnection.close();
    this.#resolveClosed(reason);
  }
}

async function readNeeds(client: NbdClient, regionBytes: number): Promise<RegionRun[]> {
  const runs: RegionRun[] = [];
  const stepBytes = client.session.extendedHeaders ? NEEDS_STEP_BYTES : COMPACT_NEEDS_STEP_BYTES;
  for (let at = 0; at < client.sizeBytes; ) {
    const answer = await client.blockStatus(at, Math.min(stepBytes, client.sizeBytes - at));
    const extents = answer.get(NEEDS_CONTEXT) ?? [];
    for (const run of neededRuns(extents, at, regionBytes)) {
      const end = Math.min(run.end, Math.ceil(client.sizeBytes / regionBytes));
      const last = runs.at(-1);
      if (last !== undefined && (last.end >= run.first || runs.length >= MAX_NEEDED_RUNS))
        runs[runs.length - 1] = { ...last, end };
      else runs.push({ first: run.first, end });
    }
    const toldBytes = extents.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
    // It tells of regions: by smaller steps it would never come to the end.
    if (toldBytes < Math.min(regionBytes, client.sizeBytes - at))
      throw new EngineError('unavailable', `the secondary tells of ${toldBytes} bytes, less than a region`);
    at += toldBytes;
  }
  return runs;
}
