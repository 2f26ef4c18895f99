/** What the snapshot benchmark measures: nodes with a volume and so many snapshots, and qemu-nbd over a qcow2 overlay. */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ControlClient } from '../../server/control/client.ts';
import type { GroupStatus } from '../../server/control/schemas.ts';
import { NbdClient } from '../../server/nbd-client.ts';
import { fillFile, type Peer, startServer, warm } from './bench-peers.ts';
import { mustRun } from './command.ts';
import { generator } from './random.ts';
import { ServedNode } from './served-node.ts';

const MEBIBYTE_BYTES = 1024 * 1024;
export const GROUP = 'bench';
const EXPORT = `${GROUP}/disk`;
/** A group that is not done with its background work by then does not get done: that is a finding, not a measurement. */
const SETTLE_LIMIT_MS = 600_000;
const SETTLE_LOOK_MS = 50;
/** A look at a large group with many snapshots costs the node some time, which must not slow down what is waited for. */
const PAUSE_BETWEEN_LOOKS = 20;

/** Something that serves a volume of the common size; what `prepare` does is not measured. */
export interface Subject {
  readonly name: string;
  uri(): string;
  /** Before each turn. */
  prepare(): Promise<void>;
  /** After each turn: waits until what it left to be done is done, and says what there is to say of it. */
  settle(): Promise<Readonly<Record<string, number>>>;
  stop(): Promise<void>;
}

export interface NodeSubjectOptions {
  readonly name: string;
  readonly folder: string;
  readonly sizeBytes: number;
  readonly logBytes?: number;
  /** A volume that takes no space before it is written; else it is written in full. */
  readonly sparse?: boolean;
  /** It takes writes from a primary only. */
  readonly replica?: boolean;
}

/** A node of its own with one group of one volume. */
export class NodeSubject implements Subject {
  readonly name: string;
  readonly node: ServedNode;
  readonly control: ControlClient;
  readonly sizeBytes: number;
  readonly #file: string | undefined;

  private constructor(options: NodeSubjectOptions, node: ServedNode, file: string | undefined) {
    this.name = options.name;
    this.sizeBytes = options.sizeBytes;
    this.node = node;
    this.control = new ControlClient(join(node.stateFolder, 'control.sock'));
    this.#file = file;
  }

  static async start(options: NodeSubjectOptions): Promise<NodeSubject> {
    const own = join(options.folder, options.name);
    await mkdir(own);
    const file = options.sparse === true ? undefined : join(own, 'disk.img');
    if (file !== undefined) await fillFile(file, options.sizeBytes);
    const node = await ServedNode.start({ stateFolder: join(own, 'state') });
    try {
      const subject = new NodeSubject(options, node, file);
      const where = file === undefined ? {} : { file };
      await subject.control.createGroup({
        name: GROUP,
        volumes: [{ name: 'disk', size: options.sizeBytes, ...where }],
        ...(options.logBytes === undefined ? {} : { logSize: options.logBytes }),
        ...(options.replica === true ? { replica: {} } : {}),
      });
      return subject;
    } catch (error) {
      await node.stop();
      throw error;
    }
  }

  uri(): string {
    return this.node.uri(EXPORT);
  }

  async prepare(): Promise<void> {
    if (this.#file !== undefined) await warm(this.#file);
  }

  async settle(): Promise<Readonly<Record<string, number>>> {
    const { log, counters } = await this.status();
    const startMs = performance.now();
    const settled = await this.untilSettled();
    const regionsPreserved = settled.counters?.regionsPreserved ?? 0;
    return {
      pendingBytesAtEnd: log?.pending ?? 0,
      logUsedAtEnd: log?.used ?? 0,
      settleMs: Math.round(performance.now() - startMs),
      regionsPreservedAtEnd: counters?.regionsPreserved ?? 0,
      regionsPreserved,
      logSize: settled.log?.size ?? 0,
      endLsn: settled.log?.endLsn ?? 0,
    };
  }

  async stop(): Promise<void> {
    this.control.close();
    await this.node.stop();
  }

  status(): Promise<GroupStatus> {
    return this.control.group(GROUP);
  }

  createSnapshot(name: string): Promise<unknown> {
    return this.control.createSnapshot(GROUP, { name });
  }

  deleteSnapshot(name: string): Promise<void> {
    return this.control.deleteSnapshot(GROUP, name, false);
  }

  /** Regions that will be copied. */
  async restore(name: string): Promise<number> {
    const { plan } = await this.control.restore(GROUP, name, {});
    return plan.regions;
  }

  async deleteAllSnapshots(): Promise<void> {
    for (const { name } of (await this.status()).snapshots) await this.deleteSnapshot(name);
    await this.untilSettled();
  }

  /** Waits until everything that is logged is applied, and no work is under way. */
  async untilSettled(): Promise<GroupStatus> {
    const endMs = performance.now() + SETTLE_LIMIT_MS;
    for (;;) {
      const lookMs = performance.now();
      const status = await this.status();
      const tookMs = performance.now() - lookMs;
      if (status.failure !== null || status.stall !== null)
        throw new Error(`${this.name}: ${status.failure ?? status.stall}`);
      const { log, operations } = status;
      const applied = log === null || log.appliedLsn === log.endLsn;
      if (applied && operations.every(({ state }) => state !== 'running')) return status;
      if (performance.now() > endMs)
        throw new Error(`${this.name} does not settle: ${JSON.stringify({ log, operations })}`);
      await sleep(Math.max(SETTLE_LOOK_MS, tookMs * PAUSE_BETWEEN_LOOKS));
    }
  }

  /** Small writes all over the volume. */
  async scatter(writes: number, seed: number): Promise<void> {
    await scatter(this.uri(), this.sizeBytes, writes, seed);
  }

  /** Resolves once a flush of all that is dirty has been answered. */
  async flush(): Promise<void> {
    const client = await NbdClient.connect(this.uri());
    await client.flush();
    await client.disconnect();
  }
}

/** qemu-nbd over a qcow2 overlay: one that has everything, or a new one for each turn. */
export class OverlaySubject implements Subject {
  readonly name: string;
  readonly #folder: string;
  readonly #base: string;
  readonly #fresh: boolean;
  #server: Peer<string> | undefined;

  private constructor(name: string, folder: string, fresh: boolean) {
    this.name = name;
    this.#folder = join(folder, name);
    this.#base = join(this.#folder, 'base.img');
    this.#fresh = fresh;
  }

  static async start(
    name: string,
    folder: string,
    sizeBytes: number,
    fresh: boolean,
  ): Promise<OverlaySubject> {
    const subject = new OverlaySubject(name, folder, fresh);
    await mkdir(subject.#folder);
    await fillFile(subject.#base, sizeBytes);
    await subject.#begin();
    try {
      if (!fresh) await writeAll(subject.uri(), sizeBytes);
    } catch (error) {
      await subject.stop();
      throw error;
    }
    return subject;
  }

  uri(): string {
    if (this.#server === undefined) throw new Error(`${this.name} does not run.`);
    return this.#server.uri;
  }

  async prepare(): Promise<void> {
    if (this.#fresh) {
      await this.stop();
      await warm(this.#base);
      await this.#begin();
    } else await warm(this.#overlay());
  }

  async settle(): Promise<Readonly<Record<string, number>>> {
    return {};
  }

  async stop(): Promise<void> {
    await this.#server?.stop();
    this.#server = undefined;
  }

  #overlay(): string {
    return join(this.#folder, 'overlay.qcow2');
  }

  async #begin(): Promise<void> {
    const overlay = this.#overlay();
    const socket = join(this.#folder, 'nbd.sock');
    await rm(overlay, { force: true });
    await rm(`${socket}.pid`, { force: true });
    await mustRun('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', this.#base, '-F', 'raw', overlay]);
    const serve = ['--persistent', '-f', 'qcow2', '-k', socket, overlay];
    this.#server = await startServer(this.name, overlay, 'qemu-nbd', serve, socket);
  }
}

/** Writes a volume in full, so that every region of it is preserved, or every cluster allocated. */
export async function writeAll(uri: string, sizeBytes: number): Promise<void> {
  const block = Buffer.alloc(MEBIBYTE_BYTES, 0x6b);
  const offsets = Array.from(
    { length: Math.ceil(sizeBytes / block.length) },
    (_, index) => index * block.length,
  );
  await writeThrough(uri, 8, offsets, (offset) =>
    block.subarray(0, Math.min(block.length, sizeBytes - offset)),
  );
}

/** 4 KiB at so many random places, 32 at a time. */
export async function scatter(uri: string, sizeBytes: number, writes: number, seed: number): Promise<void> {
  const random = generator(seed);
  const block = Buffer.alloc(4096, 0x3c);
  const places = Math.floor(sizeBytes / block.length);
  const offsets = Array.from({ length: writes }, () => Math.floor(random() * places) * block.length);
  await writeThrough(uri, 32, offsets, () => block);
}

async function writeThrough(
  uri: string,
  depth: number,
  offsets: readonly number[],
  bytesAt: (offsetBytes: number) => Buffer,
): Promise<void> {
  const client = await NbdClient.connect(uri);
  let next = 0;
  const lane = async (): Promise<void> => {
    for (let offset = offsets[next++]; offset !== undefined; offset = offsets[next++])
      await client.write(bytesAt(offset), offset);
  };
  try {
    await Promise.all(Array.from({ length: depth }, lane));
  } finally {
    await client.disconnect();
  }
}
