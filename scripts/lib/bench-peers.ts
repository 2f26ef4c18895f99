import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { type FileHandle, mkdir, open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { PeerName } from './bench-cells.ts';
import { mustRun } from './command.ts';
import { ServedNode } from './served-node.ts';

const MEBIBYTE_BYTES = 1024 * 1024;
/** A server that does not answer on its socket by then is broken. */
const START_LIMIT_MS = 20_000;

/** A server under measurement, over a file of its own. */
export interface Peer<Name extends string = PeerName> {
  readonly name: Name;
  readonly uri: string;
  /** What it serves. */
  readonly file: string;
  /** Of its process. */
  readonly pid: number;
  stop(): Promise<void>;
}

/** Starts a server over a new, fully written file of `sizeBytes` in `folder`. */
export async function startPeer(name: PeerName, folder: string, sizeBytes: number): Promise<Peer> {
  const own = join(folder, name);
  await mkdir(own);
  const file = join(own, 'disk.img');
  await fillFile(file, sizeBytes);
  if (name === 'tidemark') return startTidemark(own, file, sizeBytes);
  const socket = join(own, 'nbd.sock');
  if (name === 'qemu-nbd') {
    return startServer(name, file, 'qemu-nbd', ['--persistent', '-f', 'raw', '-k', socket, file], socket);
  }
  const threads = name === 'nbdkit-1-thread' ? ['--threads', '1'] : [];
  return startServer(name, file, 'nbdkit', ['--foreground', ...threads, '-U', socket, 'file', file], socket);
}

/** The version of each server, and of fio that loads them, as they print it. */
export async function versions(names: readonly PeerName[]): Promise<Record<string, string>> {
  const found: Record<string, string> = { node: process.version };
  const firstLine = async (program: string): Promise<string> =>
    (await mustRun(program, ['--version'])).split('\n')[0] ?? '';
  found['fio'] = await firstLine('fio');
  if (names.some((name) => name.startsWith('nbdkit'))) found['nbdkit'] = await firstLine('nbdkit');
  if (names.includes('qemu-nbd')) found['qemu-nbd'] = await firstLine('qemu-nbd');
  return found;
}

async function startTidemark(folder: string, file: string, sizeBytes: number): Promise<Peer> {
  const node = await ServedNode.start({ stateFolder: join(folder, 'state') });
  try {
    await node.create('bench', `disk:${sizeBytes},file=${file}`);
  } catch (error) {
    await node.stop();
    throw error;
  }
  return {
    name: 'tidemark',
    uri: node.uri('bench/disk'),
    file,
    pid: node.pid,
    stop: async () => {
      await node.stop();
    },
  };
}

/** Starts nbdkit or qemu-nbd, and waits until it listens on `socket`. */
export async function startServer<Name extends string>(
  name: Name,
  file: string,
  program: string,
  programArguments: readonly string[],
  socket: string,
): Promise<Peer<Name>> {
  const pidPath = `${socket}.pid`;
  const serve = [program, '--pid-file', pidPath, ...programArguments];
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', ...serve], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  await untilReady(child, pidPath);
  return {
    name,
    uri: `nbd+unix:///?socket=${socket}`,
    file,
    pid: Number((await readFile(pidPath, 'utf8')).trim()),
    stop: async () => {
      const ended = once(child, 'exit');
      child.kill('SIGTERM');
      await ended;
    },
  };
}

/** Reads a file through, so that the page cache has it: the servers are compared, not what the machine evicted meanwhile. */
export async function warm(path: string): Promise<void> {
  const block = Buffer.alloc(MEBIBYTE_BYTES);
  const handle = await open(path, 'r');
  try {
    while ((await handle.read(block, 0, block.length)).bytesRead > 0);
  } finally {
    await handle.close();
  }
}

/** Both servers write their process id to a file once they listen. */
async function untilReady(child: ChildProcess, pidPath: string): Promise<void> {
  const endMs = performance.now() + START_LIMIT_MS;
  while (performance.now() < endMs) {
    if (child.exitCode !== null)
      throw new Error(`${child.spawnargs[3]} ended with status ${child.exitCode}.`);
    const text = await readFile(pidPath, 'utf8').catch(() => '');
    if (text !== '') return;
    await sleep(20);
  }
  throw new Error(`${child.spawnargs[3]} does not get ready.`);
}

/** Fills a file with bytes that are not zero, so that no server finds a hole to be quick with. */
export async function fillFile(path: string, sizeBytes: number): Promise<void> {
  const block = Buffer.alloc(MEBIBYTE_BYTES);
  for (let index = 0; index < block.length; index++) block[index] = 1 + (index % 251);
  let handle: FileHandle | undefined;
  try {
    handle = await open(path, 'wx');
    for (let offset = 0; offset < sizeBytes; offset += block.length) {
      await handle.write(block, 0, Math.min(block.length, sizeBytes - offset), offset);
    }
    await handle.sync();
  } finally {
    await handle?.close();
  }
}
