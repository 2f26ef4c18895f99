/** What the benchmark of links measures: a node with a replica behind it, and another server that has none. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { LinkStatus } from '../../server/control/link-schemas.ts';
import type { PeerName } from './bench-cells.ts';
import { type Peer, startPeer, warm } from './bench-peers.ts';
import { GROUP, NodeSubject, type Subject } from './bench-subjects.ts';

const LINK = 'link';
/** Between two looks at a lag; and at what is waited for, or so many times what the look took: it must not slow down what it looks at. */
const SAMPLE_MS = 200;
const LOOK_MS = 20;
const PAUSE_BETWEEN_LOOKS = 20;

export interface LinkedOptions {
  readonly name: string;
  readonly folder: string;
  readonly sizeBytes: number;
  /** Of both nodes. */
  readonly logBytes: number;
}

/** A primary and its secondary, each a node of its own, over files with the same content: nothing has to be copied at first. */
export class LinkedSubject implements Subject {
  readonly name: string;
  readonly primary: NodeSubject;
  readonly secondary: NodeSubject;

  private constructor(name: string, primary: NodeSubject, secondary: NodeSubject) {
    this.name = name;
    this.primary = primary;
    this.secondary = secondary;
  }

  static async start({ name, folder, sizeBytes, logBytes }: LinkedOptions): Promise<LinkedSubject> {
    const own = join(folder, name);
    await mkdir(own);
    const common = { folder: own, sizeBytes, logBytes };
    const primary = await NodeSubject.start({ ...common, name: 'primary' });
    let secondary: NodeSubject | undefined;
    try {
      secondary = await NodeSubject.start({ ...common, name: 'secondary', replica: true });
      const subject = new LinkedSubject(name, primary, secondary);
      await primary.control.addLink(GROUP, {
        uri: secondary.node.uri(GROUP),
        name: LINK,
        assumeEqual: true,
        // The lag is bounded by the log, and writers are held there.
        onFull: 'block',
      });
      await subject.untilShipped();
      return subject;
    } catch (error) {
      await secondary?.stop();
      await primary.stop();
      throw error;
    }
  }

  uri(): string {
    return this.primary.uri();
  }

  async prepare(): Promise<void> {
    await this.primary.prepare();
    await this.secondary.prepare();
  }

  async settle(): Promise<Readonly<Record<string, number>>> {
    const startMs = performance.now();
    await this.untilApplied();
    return { settleMs: Math.round(performance.now() - startMs) };
  }

  async stop(): Promise<void> {
    await this.primary.stop();
    await this.secondary.stop();
  }

  async link(): Promise<LinkStatus> {
    const [link] = await this.primary.control.links(GROUP);
    if (link === undefined) throw new Error('the link is gone');
    return link;
  }

  pause(): Promise<LinkStatus> {
    return this.primary.control.steerLink(GROUP, LINK, 'pause');
  }

  resume(): Promise<LinkStatus> {
    return this.primary.control.steerLink(GROUP, LINK, 'resume');
  }

  /** Until the secondary has all of the log durably. */
  async untilShipped(): Promise<void> {
    await untilSeen(async () => {
      const { state, lagBytes, dcmRegions, reason } = await this.link();
      if (state === 'failed') throw new Error(`the link has failed: ${reason}`);
      return state === 'streaming' && lagBytes === 0 && dcmRegions === 0;
    });
  }

  /** Until it is in the volumes of both. */
  async untilApplied(): Promise<void> {
    await this.untilShipped();
    const { log } = await this.primary.untilSettled();
    await untilSeen(async () => {
      const there = await this.secondary.status();
      if (there.failure !== null || there.stall !== null)
        throw new Error(`the secondary: ${there.failure ?? there.stall}`);
      return (there.log?.appliedLsn ?? 0) >= (log?.endLsn ?? 0);
    });
  }
}

async function untilSeen(look: () => Promise<boolean>): Promise<void> {
  for (;;) {
    const lookMs = performance.now();
    if (await look()) return;
    await sleep(Math.max(LOOK_MS, (performance.now() - lookMs) * PAUSE_BETWEEN_LOOKS));
  }
}

/** Looks at the lag of a link, until it is stopped. */
export class LinkSampler {
  readonly #subject: LinkedSubject;
  readonly #running: Promise<void>;
  #stopped = false;
  #mostLagBytes = 0;
  #mostLagSeconds = 0;

  constructor(subject: LinkedSubject) {
    this.#subject = subject;
    this.#running = this.#run();
  }

  async stop(): Promise<{ readonly mostLagBytes: number; readonly mostLagSeconds: number }> {
    this.#stopped = true;
    await this.#running;
    return { mostLagBytes: this.#mostLagBytes, mostLagSeconds: this.#mostLagSeconds };
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      const { lagBytes, lagSeconds } = await this.#subject.link();
      this.#mostLagBytes = Math.max(this.#mostLagBytes, lagBytes);
      this.#mostLagSeconds = Math.max(this.#mostLagSeconds, lagSeconds);
      await sleep(SAMPLE_MS);
    }
  }
}

/** Another server, over a file of its own. */
export class PeerSubject implements Subject {
  readonly name: string;
  readonly pid: number;
  readonly #peer: Peer;

  private constructor(peer: Peer, pid: number) {
    this.name = peer.name;
    this.pid = pid;
    this.#peer = peer;
  }

  static async start(name: PeerName, folder: string, sizeBytes: number): Promise<PeerSubject> {
    const peer = await startPeer(name, folder, sizeBytes);
    return new PeerSubject(peer, peer.pid);
  }

  uri(): string {
    return this.#peer.uri;
  }

  prepare(): Promise<void> {
    return warm(this.#peer.file);
  }

  async settle(): Promise<Readonly<Record<string, number>>> {
    return {};
  }

  stop(): Promise<void> {
    return this.#peer.stop();
  }
}
