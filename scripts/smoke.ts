/**
 * A short round trip through all of it, under whichever Node.js runs this file: serve, create, write, read back, trim,
 * restart, read again, stop. Prints one line; a failure is an exception.
 */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { NbdClient } from '../server/nbd-client.ts';
import { ServedNode } from './lib/served-node.ts';

const OFFSET_BYTES = 5 * 1024 * 1024 + 1;
const LENGTH_BYTES = 300_001;

const stateFolder = await mkdtemp(join(tmpdir(), 'tidemark-smoke-'));
try {
  const expected = await writeSome();
  await readAfterRestart(expected);
  console.log(`Node ${process.version}: served, written, read back, restarted, read again`);
} finally {
  await rm(stateFolder, { recursive: true, force: true });
}

async function writeSome(): Promise<Buffer> {
  const node = await ServedNode.start({ stateFolder });
  try {
    await node.create('g', 'v:64M');
    const client = await NbdClient.connect(node.uri('g/v'));
    const data = Buffer.alloc(LENGTH_BYTES, 'tidemark');
    await client.write(data, OFFSET_BYTES, { fua: true });
    await client.trim(OFFSET_BYTES + 1000, 50_000);
    data.fill(0, 1000, 51_000);
    assert.deepEqual(await client.readBuffer(OFFSET_BYTES, LENGTH_BYTES), data);
    await client.disconnect();
    return data;
  } finally {
    assert.equal(await node.stop(), 0, 'a clean stop ends with status 0');
  }
}

async function readAfterRestart(expected: Buffer): Promise<void> {
  const node = await ServedNode.start({ stateFolder });
  try {
    const client = await NbdClient.connect(node.uri('g/v'));
    assert.deepEqual(await client.readBuffer(OFFSET_BYTES, LENGTH_BYTES), expected);
    await client.disconnect();
    await node.must('status', '--json');
  } finally {
    await node.stop();
  }
}
