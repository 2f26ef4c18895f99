/**
 * Seeded nonsense on the wire: requests cut, flipped, repeated, reordered, mixed with noise. The server must go on serving
 * others, must answer every request that it took exactly once, and must not write a byte that was not asked for.
 */
import t, { type Test } from 'tap';
import * as nbd from '../../protocol/constants.ts';
import { requestLayout } from '../../protocol/layouts.ts';
import { Random } from '../fixtures/random.ts';
import { exportNameHandshake, RawSession, requestBytes } from '../fixtures/raw-session.ts';
import { startTestServer, type TestServer, until } from '../fixtures/test-server.ts';

const SIZE = 1024 * 1024;
const SLOT = 512;
const SLOTS = SIZE / SLOT;

/** For each slot the values that it may hold: what it held, and what legal writes put there. */
type Allowed = Set<number>[];

/** Reads a stream as the specification has it, and notes what it asks for; stops where a server has to stop. */
function note(stream: Buffer, allowed: Allowed): void {
  const { span } = requestLayout;
  for (let at = 0; at + span <= stream.length; ) {
    const request = requestLayout.decode(stream, at);
    if (request.magic !== nbd.NBD_REQUEST_MAGIC || request.type === nbd.NBD_CMD_DISC) return;
    at += span;
    const offset = Number(request.offsetBytes);
    const length = request.lengthBytes;
    if (request.type === nbd.NBD_CMD_WRITE) {
      for (
        let byte = 0;
        byte < length && at + length <= stream.length && offset + length <= SIZE;
        byte += 1
      ) {
        allowed[Math.floor((offset + byte) / SLOT)]?.add(stream[at + byte] ?? 0);
      }
      at += length;
    } else if (request.type === nbd.NBD_CMD_TRIM || request.type === nbd.NBD_CMD_WRITE_ZEROES) {
      const end = Math.min(offset + length, SIZE);
      for (let slot = Math.floor(offset / SLOT); slot * SLOT < end; slot += 1) allowed[slot]?.add(0);
    }
  }
}

function mutate(random: Random, stream: Buffer): Buffer {
  const bytes = Buffer.from(stream);
  switch (random.below(5)) {
    case 0: // Flip bits in one header or anywhere.
      for (let flips = random.between(1, 4); flips > 0; flips -= 1) {
        const at = random.chance(0.5) ? random.below(Math.min(28, bytes.length)) : random.below(bytes.length);
        bytes[at] = (bytes[at] ?? 0) ^ (1 << random.below(8));
      }
      return bytes;
    case 1:
      return bytes.subarray(0, random.below(bytes.length));
    case 2: {
      const at = random.below(bytes.length);
      return Buffer.concat([bytes.subarray(0, at), random.bytes(random.between(1, 60)), bytes.subarray(at)]);
    }
    case 3: {
      const at = random.below(bytes.length);
      return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + random.between(1, 40))]);
    }
    default:
      return bytes;
  }
}

function randomRequest(random: Random): Buffer {
  const slot = random.below(SLOTS);
  const type = random.pick([0, 1, 1, 1, 3, 4, 5, 6, 7, random.below(0x10000)]);
  const flags = random.chance(0.1) ? random.below(0x10000) : random.pick([0, 0, nbd.NBD_CMD_FLAG_FUA]);
  const cookie = BigInt(random.below(2 ** 32));
  if (type === nbd.NBD_CMD_WRITE) {
    const payload = Buffer.alloc(SLOT, random.between(1, 255));
    return requestBytes({ type, flags, cookie, offset: slot * SLOT }, payload);
  }
  const length = type === nbd.NBD_CMD_FLUSH ? 0 : random.pick([0, SLOT, 4096, 2 ** 32 - 1]);
  const offset =
    type === nbd.NBD_CMD_FLUSH ? 0 : random.pick([slot * SLOT, SIZE - 1, 2n ** 63n, 2n ** 64n - 1n]);
  return requestBytes({ type, flags, cookie, offset, length });
}

async function attack(random: Random, server: TestServer, allowed: Allowed): Promise<void> {
  const requests = Array.from({ length: random.between(1, 30) }, () => randomRequest(random));
  const stream = mutate(random, Buffer.concat(requests));
  note(stream, allowed);
  const session = await RawSession.open(server);
  for (let at = 0; at < stream.length && !session.socket.destroyed; ) {
    const count = random.between(1, 3000);
    session.send(stream.subarray(at, at + count));
    at += count;
  }
  if (random.chance(0.5)) session.socket.end();
  else session.socket.destroySoon();
  await until(() => server.server.connectionCount === 1);
}

async function check(t: Test, seed: number, server: TestServer, allowed: Allowed): Promise<void> {
  const whole = Buffer.alloc(SIZE);
  await server.volume.read(whole, 0, SIZE, 0);
  for (let at = 0; at < SIZE; at += 1) {
    if (!allowed[Math.floor(at / SLOT)]?.has(whole[at] ?? 0)) {
      t.fail(`seed ${seed}: byte ${at} is ${whole[at]}, which nobody asked for`);
      return;
    }
  }
  t.pass(`seed ${seed}`);
}

for (const inline of [true, false]) {
  t.test(`requests, ${inline ? 'read in place' : 'read by events'}`, async (t) => {
    for (let seed = 1; seed <= 4; seed += 1) {
      const random = new Random(seed * 1000);
      const server = await startTestServer(t, { sizeBytes: SIZE, seed, inline, tryRefusal: random.next() });
      const allowed: Allowed = Array.from({ length: SLOTS }, () => new Set([0]));
      const witness = await server.client();
      for (let round = 0; round < 60; round += 1) await attack(random, server, allowed);
      t.equal((await witness.readBuffer(0, SIZE)).length, SIZE, 'another client is served on');
      await witness.disconnect();
      await until(() => server.server.connectionCount === 0);
      await check(t, seed, server, allowed);
      t.equal(server.server.permits.freeBytes, server.server.permits.totalBytes);
    }
  });
}

t.test('handshakes', async (t) => {
  const server = await startTestServer(t, { sizeBytes: SIZE });
  const witness = await server.client();
  for (let seed = 1; seed <= 150; seed += 1) {
    const random = new Random(seed);
    const valid = Buffer.concat([exportNameHandshake(), randomRequest(random)]);
    const socket = await server.rawSocket();
    socket.resume();
    socket.end(random.chance(0.3) ? random.bytes(random.below(300)) : mutate(random, valid));
  }
  await until(() => server.server.connectionCount === 1);
  t.equal((await witness.readBuffer(0, SIZE)).length, SIZE);
  await witness.disconnect();
});
