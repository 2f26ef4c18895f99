/**
 * What the demo needs of an NBD client, for machines that have none installed; and what it asks of its two nodes.
 *
 * Usage: demo-client info URI | trim URI OFFSET LENGTH | fill URI OFFSET LENGTH | copy-in FILE URI | copy-out URI FILE
 *        demo-client follow SOCKET SOCKET | traffic SOCKET
 *
 * Offsets and lengths are sizes as the command line of tidemark has them: `4M`. `follow` waits until the second node shows all that the first one has;
 * `traffic` prints the bytes that the first link of the first group has carried. Both take control sockets.
 */
import { type FileHandle, open } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { BASE_ALLOCATION, NBD_STATE_HOLE, NBD_STATE_ZERO } from '../protocol/constants.ts';
import { ControlClient } from '../server/control/client.ts';
import type { GroupStatus } from '../server/control/schemas.ts';
import { NbdClient } from '../server/nbd-client.ts';
import { parseSize } from '../server/sizes.ts';

const CHUNK_BYTES = 1024 * 1024;
/** Block status is asked for in steps that any server takes. */
const STATUS_STEP_BYTES = 1024 * CHUNK_BYTES;
const FOLLOW_LOOK_MS = 20;

async function withClient(uri: string | undefined, use: (client: NbdClient) => Promise<void>): Promise<void> {
  if (uri === undefined) throw new Error('which URI?');
  const client = await NbdClient.connect(uri);
  try {
    await use(client);
  } finally {
    await client.disconnect();
  }
}

async function withFile(
  path: string | undefined,
  flags: string,
  use: (file: FileHandle) => Promise<void>,
): Promise<void> {
  if (path === undefined) throw new Error('which file?');
  const file = await open(path, flags);
  try {
    await use(file);
  } finally {
    await file.close();
  }
}

async function info(client: NbdClient): Promise<void> {
  const { export: served, structuredReplies, extendedHeaders } = client.session;
  console.log(`export ${served.name}: ${served.sizeBytes} bytes`);
  console.log(`  block size: any from ${served.minimumBlockBytes}, preferably ${served.preferredBlockBytes}`);
  console.log(`  structured replies: ${structuredReplies}, extended headers: ${extendedHeaders}`);
}

/** Overwrites a range with one byte. */
async function fill(client: NbdClient, offset: number, length: number): Promise<void> {
  const chunk = Buffer.alloc(CHUNK_BYTES, 0xee);
  for (let done = 0; done < length; done += CHUNK_BYTES)
    await client.write(chunk.subarray(0, Math.min(CHUNK_BYTES, length - done)), offset + done);
  await client.flush();
}

/** The volume's extents, neighbours of one kind as one. */
async function* extents(client: NbdClient): AsyncGenerator<{ offset: number; length: number; kind: string }> {
  let offset = 0;
  let current = { offset: 0, length: 0, kind: '' };
  while (offset < client.sizeBytes) {
    const length = Math.min(STATUS_STEP_BYTES, client.sizeBytes - offset);
    const status = await client.blockStatus(offset, length);
    for (const extent of status.get(BASE_ALLOCATION) ?? []) {
      const hole = (extent.flags & (NBD_STATE_HOLE | NBD_STATE_ZERO)) !== 0;
      const kind = hole ? 'hole' : 'data';
      if (kind !== current.kind && current.length > 0) {
        yield current;
        current = { offset, length: 0, kind };
      }
      current.kind = kind;
      current.length += extent.lengthBytes;
      offset += extent.lengthBytes;
    }
  }
  if (current.length > 0) yield current;
}

async function copyIn(client: NbdClient, file: FileHandle): Promise<void> {
  const chunk = Buffer.alloc(CHUNK_BYTES);
  const zeroes = Buffer.alloc(CHUNK_BYTES);
  for (let offset = 0; offset < client.sizeBytes; ) {
    const { bytesRead } = await file.read(chunk, 0, Math.min(CHUNK_BYTES, client.sizeBytes - offset), offset);
    if (bytesRead === 0) break;
    const data = chunk.subarray(0, bytesRead);
    if (!data.equals(zeroes.subarray(0, bytesRead))) await client.write(data, offset);
    offset += bytesRead;
  }
  await client.flush();
}

async function copyOut(client: NbdClient, file: FileHandle): Promise<void> {
  await file.truncate(client.sizeBytes);
  for await (const { offset, length, kind } of extents(client)) {
    if (kind === 'hole') continue;
    for (let done = 0; done < length; done += CHUNK_BYTES) {
      const data = await client.readBuffer(offset + done, Math.min(CHUNK_BYTES, length - done));
      await file.write(data, 0, data.length, offset + done);
    }
  }
}

async function groupOf(socket: string | undefined): Promise<GroupStatus> {
  if (socket === undefined) throw new Error('which node?');
  const node = new ControlClient(socket);
  try {
    const [group] = (await node.status()).groups;
    if (group === undefined) throw new Error('the node has no group');
    return group;
  } finally {
    node.close();
  }
}

async function follow(primary: string | undefined, secondary: string | undefined): Promise<void> {
  for (;;) {
    const here = await groupOf(primary);
    const there = await groupOf(secondary);
    const [link] = here.links;
    if (link?.state === 'failed') throw new Error(`the link has failed: ${link.reason}`);
    const isLinked = link?.state === 'streaming' && link.dcmRegions === 0;
    const isWhole = there.replica?.resyncing === false && !there.replica.needsRegions;
    const endLsn = here.log?.endLsn ?? Number.POSITIVE_INFINITY;
    const isApplied = [here, there].every(({ log }) => log !== null && log.appliedLsn >= endLsn);
    if (isLinked && isWhole && isApplied) return;
    await sleep(FOLLOW_LOOK_MS);
  }
}

async function traffic(socket: string | undefined): Promise<void> {
  const [link] = (await groupOf(socket)).links;
  console.log((link?.bytesShipped ?? 0) + (link?.bytesResynced ?? 0));
}

function size(text: string | undefined): number {
  if (text === undefined) throw new Error('which range?');
  return parseSize(text);
}

async function main([command, first, second, third]: readonly string[]): Promise<void> {
  switch (command) {
    case 'info':
      return withClient(first, info);
    case 'trim':
      return withClient(first, (client) => client.trim(size(second), size(third)));
    case 'fill':
      return withClient(first, (client) => fill(client, size(second), size(third)));
    case 'copy-in':
      return withFile(first, 'r', (file) => withClient(second, (client) => copyIn(client, file)));
    case 'copy-out':
      return withFile(second, 'w', (file) => withClient(first, (client) => copyOut(client, file)));
    case 'follow':
      return follow(first, second);
    case 'traffic':
      return traffic(first);
    default:
      throw new Error(`no command ${command}`);
  }
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
