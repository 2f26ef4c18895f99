/**
 * Incremental backups with the tools that a Debian system has, and nothing of ours: the export of a snapshot says, as a context of NBD, what
 * may differ since an older one. A writer goes on all the while. docs/backup.md has the same steps for people.
 */
import { copyFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { mustRun, run } from '../../scripts/lib/command.ts';
import { generator } from '../../scripts/lib/random.ts';
import type { ServedNode } from '../../scripts/lib/served-node.ts';
import { ControlClient } from '../../server/control/client.ts';
import { NbdClient } from '../../server/nbd-client.ts';
import { fileDigest } from '../fixtures/images.ts';
import { needPrograms, serveForTest } from '../fixtures/served-node.ts';

const KIBIBYTE = 1024;
const MEBIBYTE = 1024 * KIBIBYTE;
const REGION_BYTES = 64 * KIBIBYTE;
/** Not a whole number of regions: the last one is short. */
const VOLUME_BYTES = 48 * MEBIBYTE + 4 * KIBIBYTE;
/** Writes go near to so many places only, so that a backup has few extents, and most of the volume stays as it was. */
const PLACES = 24;
const PAUSE_MS = 15;

/** What the writer did, and between which moments: before a snapshot, after it, or neither for sure. */
interface Change {
  readonly firstRegion: number;
  readonly lastRegion: number;
  readonly beganMs: number;
  endedMs: number;
}

/** When a snapshot was asked for and when it was there. */
interface Taken {
  readonly name: string;
  readonly askedMs: number;
  readonly doneMs: number;
}

interface Extent {
  readonly offset: number;
  readonly length: number;
  readonly type: number;
}

/** Writes, zeroes and trims, at sizes and offsets of any alignment, until it is told to stop. */
class Writer {
  readonly changes: Change[] = [];
  readonly #random = generator(20261125);
  readonly #client: NbdClient;
  readonly #bytes = Buffer.alloc(2 * REGION_BYTES);
  #stopping = false;
  #running: Promise<void> = Promise.resolve();

  constructor(client: NbdClient) {
    this.#client = client;
  }

  static async start(node: ServedNode, exportName: string): Promise<Writer> {
    const writer = new Writer(await NbdClient.connect(node.uri(exportName)));
    writer.#running = writer.#run();
    return writer;
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#running;
    await this.#client.disconnect();
  }

  /** So that a snapshot has something of what came since the one before. */
  async more(changes: number): Promise<void> {
    for (const wanted = this.changes.length + changes; this.changes.length < wanted; ) await sleep(PAUSE_MS);
  }

  /** Regions that may differ between two snapshots, by what the writer knows. */
  regionsBetween(from: Taken, to: Taken): Set<number> {
    const regions = new Set<number>();
    for (const { firstRegion, lastRegion, beganMs, endedMs } of this.changes) {
      if (endedMs < from.askedMs || beganMs > to.doneMs) continue;
      for (let region = firstRegion; region <= lastRegion; region++) regions.add(region);
    }
    return regions;
  }

  async #run(): Promise<void> {
    while (!this.#stopping) {
      await this.#change();
      await sleep(PAUSE_MS);
    }
  }

  #below(limit: number): number {
    return Math.floor(this.#random() * limit);
  }

  async #change(): Promise<void> {
    const place = Math.floor(VOLUME_BYTES / PLACES) * this.#below(PLACES);
    // The last place of the volume, too: a region that is short.
    const offsetBytes = this.#random() < 0.05 ? VOLUME_BYTES - 1000 : place + this.#below(REGION_BYTES);
    const lengthBytes = Math.min(1 + this.#below(this.#bytes.length), VOLUME_BYTES - offsetBytes);
    const change: Change = {
      firstRegion: Math.floor(offsetBytes / REGION_BYTES),
      lastRegion: Math.floor((offsetBytes + lengthBytes - 1) / REGION_BYTES),
      beganMs: performance.now(),
      endedMs: Number.POSITIVE_INFINITY,
    };
    this.changes.push(change);
    const kind = this.#random();
    if (kind < 0.1) await this.#client.writeZeroes(offsetBytes, lengthBytes);
    else if (kind < 0.2) await this.#client.trim(offsetBytes, lengthBytes);
    else
      await this.#client.write(
        this.#bytes.fill(1 + this.#below(255), 0, lengthBytes).subarray(0, lengthBytes),
        offsetBytes,
      );
    change.endedMs = performance.now();
  }
}

async function take(node: ServedNode, group: string, name: string): Promise<Taken> {
  const askedMs = performance.now();
  await node.must('snapshot', 'create', `${group}@${name}`);
  return { name, askedMs, doneMs: performance.now() };
}

/** What is dirty in one image since an older one, as nbdinfo shows the context. */
async function dirtyExtents(t: Test, uri: string, context: string): Promise<Extent[]> {
  const extents = JSON.parse(await mustRun('nbdinfo', [`--map=${context}`, '--json', uri])) as Extent[];
  const end = extents.reduce((at, { offset, length }) => (offset === at ? at + length : Number.NaN), 0);
  t.equal(end, VOLUME_BYTES, `${context}: extents in a row, from the start to the end`);
  return extents
    .filter(({ type }) => type === 1)
    .map(({ offset, length, type }) => ({ offset, length, type }));
}

function total(extents: readonly Extent[]): number {
  return extents.reduce((sum, { length }) => sum + length, 0);
}

/** That the extents are dirty regions, whole ones, and none that nobody touched. */
function checkTight(t: Test, extents: readonly Extent[], touched: ReadonlySet<number>): void {
  for (const { offset, length } of extents) {
    const end = offset + length;
    if (offset % REGION_BYTES !== 0 || (end % REGION_BYTES !== 0 && end !== VOLUME_BYTES))
      t.fail(`an extent of ${length} bytes at ${offset} is not of whole regions`);
    for (let region = offset / REGION_BYTES; region * REGION_BYTES < end; region++)
      if (!touched.has(region)) t.fail(`region ${region} was not touched and counts as dirty`);
  }
  t.ok(extents.length > 0, 'something is dirty');
  t.ok(total(extents) < VOLUME_BYTES / 2, `and not much: ${total(extents)} bytes`);
}

/** Copies one extent into an image, in place: both sides are opened through nbdkit's window on a range. */
async function copyExtent(uri: string, image: string, { offset, length }: Extent): Promise<void> {
  const window = ['--exit-with-parent', '--filter=offset'];
  const range = [`offset=${offset}`, `range=${length}`];
  const source = ['[', 'nbdkit', ...window, '--readonly', 'nbd', `uri=${uri}`, ...range, ']'];
  await mustRun('nbdcopy', ['--', ...source, '[', 'nbdkit', ...window, 'file', image, ...range, ']']);
}

/** A qcow2 file with the extents and nothing else, over the backup before it: how tools for virtual machines keep increments. */
async function pullIncrement(
  uri: string,
  file: string,
  base: string,
  extents: readonly Extent[],
): Promise<void> {
  await mustRun('qemu-img', [
    'create',
    '-q',
    '-f',
    'qcow2',
    '-o',
    'cluster_size=64k',
    '-b',
    uri,
    '-F',
    'raw',
    file,
  ]);
  const reads = extents.flatMap(({ offset, length }) => ['-c', `read -q ${offset} ${length}`]);
  // Copy on read: what is read from the snapshot stays in the file.
  await mustRun('qemu-io', ['-C', '-f', 'qcow2', ...reads, file]);
  await mustRun('qemu-img', ['rebase', '-u', '-f', 'qcow2', '-b', base, '-F', 'qcow2', file]);
}

/** Bytes that a qcow2 file holds itself. */
async function heldBytes(file: string): Promise<number> {
  const map = JSON.parse(await mustRun('qemu-img', ['map', '-f', 'qcow2', '--output=json', file])) as {
    length: number;
    depth: number;
    present: boolean;
  }[];
  return map.reduce((sum, { length, depth, present }) => sum + (depth === 0 && present ? length : 0), 0);
}

/** Bytes that clients have read from the node. */
async function bytesRead(node: ServedNode): Promise<number> {
  const client = new ControlClient(join(node.stateFolder, 'control.sock'));
  const value = /^tidemark_read_bytes_total (\d+)$/m.exec(await client.metrics())?.[1];
  if (value === undefined) throw new Error('The metrics have no tidemark_read_bytes_total.');
  return Number(value);
}

interface Scene {
  readonly node: ServedNode;
  readonly group: string;
  readonly folder: string;
  readonly writer: Writer;
  uriAt(snapshot: string): string;
}

/** A volume with data, and a writer on it that does not stop for anything that follows. */
async function openScene(t: Test, group: string): Promise<Scene> {
  const node = await serveForTest(t);
  await node.create(group, `v:${VOLUME_BYTES}`);
  await mustRun('qemu-io', ['-f', 'raw', '-c', 'write -q -P 0x5a 1M 20M', node.uri(`${group}/v`)]);
  const writer = await Writer.start(node, `${group}/v`);
  t.teardown(() => writer.stop());
  await writer.more(20);
  return {
    node,
    group,
    folder: t.testdir(),
    writer,
    uriAt: (snapshot) => node.uri(`${group}/v@${snapshot}`),
  };
}

/** One increment under writes: a new snapshot, its extents, a copy of them, and how much was read for that. */
async function increment(
  t: Test,
  { node, group, writer, uriAt }: Scene,
  since: Taken,
  name: string,
  prefix: string,
  copy: (uri: string, extents: readonly Extent[]) => Promise<void>,
): Promise<{ taken: Taken; extents: readonly Extent[] }> {
  await writer.more(12);
  const taken = await take(node, group, name);
  const extents = await dirtyExtents(t, uriAt(name), `${prefix}${since.name}`);
  checkTight(t, extents, writer.regionsBetween(since, taken));
  const readBefore = await bytesRead(node);
  await copy(uriAt(name), extents);
  const read = (await bytesRead(node)) - readBefore;
  t.ok(
    read > 0 && read <= total(extents),
    `${name}: ${read} bytes were read for ${total(extents)} dirty ones`,
  );
  return { taken, extents };
}

t.test('tidemark:changed: a raw image is kept up by nbdinfo and nbdcopy', async (t) => {
  if (!(await needPrograms(t, 'nbdinfo', 'nbdcopy', 'nbdkit', 'qemu-io', 'qemu-img'))) return;
  const scene = await openScene(t, 'raw');
  const { node, folder, uriAt } = scene;
  const backup = join(folder, 'backup');
  const check = async (name: string, image: string): Promise<void> => {
    const whole = join(folder, `${name}-whole`);
    await mustRun('nbdcopy', [uriAt(name), whole]);
    t.equal(await fileDigest(image), await fileDigest(whole), `the backup is ${name}, to the byte`);
  };

  const first = await take(node, 'raw', 's1');
  await mustRun('nbdcopy', [uriAt('s1'), backup]);
  await check('s1', backup);
  const kept = join(folder, 'kept');
  await copyFile(backup, kept);
  const copy = async (uri: string, extents: readonly Extent[]): Promise<void> => {
    for (const extent of extents) await copyExtent(uri, backup, extent);
  };
  const second = await increment(t, scene, first, 's2', 'tidemark:changed:', copy);
  await check('s2', backup);
  await increment(t, scene, second.taken, 's3', 'tidemark:changed:', copy);
  await check('s3', backup);
  await check('s1', kept);

  const across = await dirtyExtents(t, uriAt('s3'), 'qemu:dirty-bitmap:s1');
  t.strictSame(
    across,
    await dirtyExtents(t, uriAt('s3'), 'tidemark:changed:s1'),
    'both contexts say the same',
  );
  for (const extent of across) await copyExtent(uriAt('s3'), kept, extent);
  await check('s3', kept);
});

t.test('qemu:dirty-bitmap: a chain of qcow2 files, as tools for virtual machines keep it', async (t) => {
  if (!(await needPrograms(t, 'nbdinfo', 'qemu-io', 'qemu-img'))) return;
  const scene = await openScene(t, 'chain');
  const { node, folder, uriAt } = scene;
  const file = (name: string): string => join(folder, `${name}.qcow2`);
  const check = async (name: string): Promise<void> => {
    const compared = await run('qemu-img', ['compare', '-f', 'qcow2', '-F', 'raw', file(name), uriAt(name)]);
    t.equal(compared.status, 0, `${name}: ${compared.stdout}${compared.stderr}`);
  };

  let since = await take(node, 'chain', 's1');
  await mustRun('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', uriAt('s1'), file('s1')]);
  for (const name of ['s2', 's3']) {
    const base = file(since.name);
    const copy = (uri: string, extents: readonly Extent[]): Promise<void> =>
      pullIncrement(uri, file(name), base, extents);
    const { taken, extents } = await increment(t, scene, since, name, 'qemu:dirty-bitmap:', copy);
    t.ok(
      (await heldBytes(file(name))) <= total(extents) + REGION_BYTES,
      `${name} holds no more than what was dirty`,
    );
    t.strictSame(
      await qemuDirty(node, `chain/v@${name}`, since.name),
      extents.map(({ offset }) => offset),
    );
    since = taken;
  }
  // Each file of the chain is the volume at its snapshot, also after all the others were made.
  for (const name of ['s1', 's2', 's3']) await check(name);
});

/** Where dirty extents start, as QEMU itself reads the context. */
async function qemuDirty(node: ServedNode, exportName: string, since: string): Promise<number[]> {
  const options = [
    'driver=nbd,server.type=unix',
    `server.path=${node.socketPath}`,
    `export=${exportName}`,
    `x-dirty-bitmap=qemu:dirty-bitmap:${since}`,
  ];
  const map = JSON.parse(
    await mustRun('qemu-img', ['map', '--output=json', '--image-opts', options.join(',')]),
  ) as { start: number; data: boolean }[];
  return map.filter(({ data }) => !data).map(({ start }) => start);
}
