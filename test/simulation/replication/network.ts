/**
 * The network between simulated nodes: each call of a link is a message that takes its time, and so is the answer. What goes over one connection arrives in
 * order. Connections break: what was on its way may still arrive, and nobody hears of it.
 */
import { EngineError } from '../../../engine/errors.ts';
import type {
  Announcement,
  LogRestart,
  PeerConnector,
  PeerSession,
  PeerState,
  RegionContent,
  ReplicaPort,
} from '../../../engine/link/peer.ts';
import type { RegionRun } from '../../../engine/map/region-map.ts';
import type { Scheduler } from '../scheduler.ts';

/** Where a session ends: a process that runs, or none. */
export interface Host {
  /** Of the process that runs there now; undefined while it is down, or has no group open. */
  readonly port: ReplicaPort | undefined;
  /** Grows with each process. */
  readonly life: number;
}

/** What went over the network, for the checks. */
export interface Traffic {
  regions(node: number, volume: string, regions: readonly RegionContent[]): void;
  bytes(node: number, count: number): void;
}

/** A message takes so many steps at most, on a fast way. */
const DELAY_STEPS = 6;

export class Network {
  readonly #scheduler: Scheduler;
  readonly #hosts: readonly Host[];
  readonly #traffic: Traffic;
  /** By node: how slow the way to it is, and whether there is one. */
  readonly #ways: { factor: number; up: boolean }[];
  readonly #sessions = new Set<SimSession>();

  constructor(scheduler: Scheduler, hosts: readonly Host[], traffic: Traffic) {
    this.#scheduler = scheduler;
    this.#hosts = hosts;
    this.#traffic = traffic;
    this.#ways = hosts.map(() => ({ factor: 1, up: true }));
  }

  /** As the process of a node has it, while that lives. */
  connector(from: number): PeerConnector {
    const life = this.#hosts[from]?.life;
    return {
      connect: (uri) => this.#connect(from, life ?? 0, Number(uri.replace('sim:', ''))),
    };
  }

  slow(node: number, factor: number): void {
    const way = this.#ways[node];
    if (way !== undefined) way.factor = factor;
  }

  /** Breaks all connections of a node, and lets no new ones be made until `mend`. */
  cut(node: number): void {
    const way = this.#ways[node];
    if (way !== undefined) way.up = false;
    for (const session of [...this.#sessions])
      if (session.from === node || session.to === node) session.break('the connection was lost');
  }

  mend(node: number): void {
    const way = this.#ways[node];
    if (way !== undefined) way.up = true;
  }

  /** The process there is gone. */
  died(node: number): void {
    for (const session of [...this.#sessions])
      if (session.from === node || session.to === node) session.break('the other side is gone');
  }

  isUp(node: number): boolean {
    return this.#ways[node]?.up === true;
  }

  host(node: number): Host | undefined {
    return this.#hosts[node];
  }

  get traffic(): Traffic {
    return this.#traffic;
  }

  forget(session: SimSession): void {
    this.#sessions.delete(session);
  }

  /** Waits as a message does, in steps of the world. */
  async delay(node: number): Promise<void> {
    const steps = this.#scheduler.random.between(1, DELAY_STEPS * (this.#ways[node]?.factor ?? 1));
    for (let left = steps; left > 0; left--) await this.step();
  }

  step(): Promise<void> {
    return new Promise((resolve) => {
      this.#scheduler.add({ perform: resolve });
    });
  }

  get chance(): (share: number) => boolean {
    return (share) => this.#scheduler.random.chance(share);
  }

  async #connect(from: number, life: number, to: number): Promise<PeerSession> {
    await this.delay(to);
    // A dead process hears nothing.
    if (this.#hosts[from]?.life !== life) return await never();
    const host = this.#hosts[to];
    if (!this.isUp(to) || !this.isUp(from) || host?.port === undefined)
      throw new EngineError('unavailable', `node ${to} cannot be reached`);
    const session = new SimSession(this, { from, fromLife: life, to, toLife: host.life }, host.port);
    this.#sessions.add(session);
    return session;
  }
}

function never(): Promise<never> {
  return new Promise(() => {});
}

interface Ends {
  readonly from: number;
  readonly fromLife: number;
  readonly to: number;
  readonly toLife: number;
}

class SimSession implements PeerSession {
  readonly closed: Promise<string>;
  readonly #network: Network;
  readonly #ends: Ends;
  readonly #port: ReplicaPort;
  #session: number | undefined;
  #broken: string | undefined;
  #resolveClosed: (reason: string) => void = () => {};
  /** Messages on their way, by connection: the log's, that of the regions, that of checksums, and everything else. */
  readonly #queues = new Map<string, (() => void)[]>();
  readonly #hurt = new Set<(error: EngineError) => void>();

  constructor(network: Network, ends: Ends, port: ReplicaPort) {
    this.#network = network;
    this.#ends = ends;
    this.#port = port;
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
  }

  get from(): number {
    return this.#ends.from;
  }

  get to(): number {
    return this.#ends.to;
  }

  state(): Promise<PeerState> {
    return this.#call('state', async () => this.#port.state());
  }

  async begin(announcement: Announcement): Promise<PeerState> {
    return await this.#call('state', async () => {
      const { session, state } = await this.#port.begin(announcement);
      this.#session = session;
      return state;
    });
  }

  restart(restart: LogRestart): Promise<void> {
    return this.#call('state', () => this.#port.restart(this.#number, restart));
  }

  append(lsn: number, bytes: Buffer): Promise<void> {
    // What is lent is the caller's again once the call is over: the network has its own.
    const own = Buffer.from(bytes);
    this.#network.traffic.bytes(this.to, own.length);
    return this.#call('log', () => this.#port.append(this.#number, lsn, own));
  }

  sync(): Promise<void> {
    return this.#call('log', () => this.#port.sync(this.#number));
  }

  hold(roundId: string, lsn: number): Promise<void> {
    return this.#call('state', () => this.#port.hold(this.#number, roundId, lsn));
  }

  writeRegions(roundId: string, volume: string, regions: readonly RegionContent[]): Promise<void> {
    const own = regions.map(({ region, bytes }) => ({ region, bytes: bytes && Buffer.from(bytes) }));
    this.#network.traffic.regions(this.to, volume, own);
    return this.#call('regions', () => this.#port.writeRegions(this.#number, roundId, volume, own));
  }

  syncRegions(roundId: string): Promise<void> {
    return this.#call('regions', () => this.#port.syncRegions(this.#number, roundId));
  }

  release(roundId: string, complete: boolean): Promise<void> {
    return this.#call('state', () => this.#port.release(this.#number, roundId, complete));
  }

  needs(volume: string): Promise<readonly RegionRun[]> {
    return this.#call('state', async () => this.#port.needs(this.#number, volume));
  }

  beginVerify(verifyId: string): Promise<void> {
    return this.#call('state', () => this.#port.beginVerify(this.#number, verifyId));
  }

  content(verifyId: string, volume: string, first: number, end: number): Promise<readonly RegionRun[]> {
    return this.#call('checksums', () => this.#port.content(this.#number, verifyId, volume, first, end));
  }

  checksums(verifyId: string, volume: string, first: number, end: number): Promise<Buffer> {
    return this.#call('checksums', () => this.#port.checksums(this.#number, verifyId, volume, first, end));
  }

  endVerify(verifyId: string): Promise<void> {
    return this.#call('state', () => this.#port.endVerify(this.#number, verifyId));
  }

  close(): void {
    this.break('closed by its owner');
  }

  break(reason: string): void {
    if (this.#broken !== undefined) return;
    this.#broken = reason;
    this.#network.forget(this);
    const error = new EngineError('unavailable', reason);
    if (this.#callerLives) {
      for (const hurt of this.#hurt) hurt(error);
      this.#resolveClosed(reason);
    }
    if (this.#session !== undefined && this.#hostLives) this.#port.ended(this.#session, reason);
  }

  get #number(): number {
    if (this.#session === undefined) throw new EngineError('invalid', 'nothing was begun');
    return this.#session;
  }

  get #callerLives(): boolean {
    return this.#network.host(this.from)?.life === this.#ends.fromLife;
  }

  get #hostLives(): boolean {
    const host = this.#network.host(this.to);
    return host?.life === this.#ends.toLife && host.port === this.#port;
  }

  #call<T>(connection: string, work: () => Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.#broken !== undefined) {
        reject(new EngineError('unavailable', this.#broken));
        return;
      }
      const hurt = (error: EngineError): void => {
        this.#hurt.delete(hurt);
        reject(error);
      };
      this.#hurt.add(hurt);
      const answer = async (tell: () => void): Promise<void> => {
        await this.#network.delay(this.to);
        if (this.#hurt.delete(hurt) && this.#callerLives) tell();
      };
      this.#enqueue(connection, () => {
        // What was sent before the connection broke may arrive after it.
        if (!this.#hostLives || (this.#broken !== undefined && this.#network.chance(0.5))) return;
        work().then(
          (value) => answer(() => resolve(value)),
          (error: unknown) => answer(() => reject(error)),
        );
      });
    });
  }

  #enqueue(connection: string, arrive: () => void): void {
    const queue = this.#queues.get(connection);
    if (queue !== undefined) {
      queue.push(arrive);
      return;
    }
    const fresh = [arrive];
    this.#queues.set(connection, fresh);
    void this.#drain(connection, fresh);
  }

  /** Messages of one connection arrive in order; what they ask for may take its time, and is answered whenever it is done. */
  async #drain(connection: string, queue: (() => void)[]): Promise<void> {
    for (;;) {
      await this.#network.delay(this.to);
      queue.shift()?.();
      if (queue.length === 0) break;
    }
    this.#queues.delete(connection);
  }
}
