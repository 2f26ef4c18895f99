/** Requests through real sockets against a model, by both ways of every request: at once, and as a job. */
import t, { type Test } from 'tap';
import * as nbd from '../../protocol/constants.ts';
import { LARGE_REQUEST_BYTES } from '../../server/limits.ts';
import type { NbdClient } from '../../server/nbd-client.ts';
import { Random } from '../fixtures/random.ts';
import { startTestServer, type TestServerOptions } from '../fixtures/test-server.ts';

const SIZE = 3 * 1024 * 1024 + 512;

/** Random requests, several in flight where they do not overlap, checked against a buffer. */
async function exercise(t: Test, client: NbdClient, random: Random, rounds: number): Promise<void> {
  const model = Buffer.alloc(SIZE);
  const range = (): [number, number] => {
    const length = random.chance(0.1) ? random.between(1, 2 * LARGE_REQUEST_BYTES) : random.between(0, 9000);
    return [random.below(SIZE - length), length];
  };
  for (let round = 0; round < rounds; round += 1) {
    const [offset, length] = range();
    const kind = random.below(6);
    const fua = random.chance(0.2);
    if (kind === 0) {
      const data = random.bytes(length);
      data.copy(model, offset);
      await client.write(data, offset, { fua });
    } else if (kind === 1 && length > 0) {
      model.fill(0, offset, offset + length);
      await client.trim(offset, length, { fua });
    } else if (kind === 2) {
      model.fill(0, offset, offset + length);
      await client.writeZeroes(offset, length, { fua, noHole: random.chance(0.5) });
    } else if (kind === 3) {
      await client.flush();
      await client.cache(offset, length);
    } else {
      const reads = Array.from({ length: random.between(1, 6) }, async () => {
        const [at, count] = range();
        const got = await client.readBuffer(at, count);
        return got.equals(model.subarray(at, at + count)) ? undefined : `${count} bytes at ${at}`;
      });
      for (const wrong of await Promise.all(reads)) {
        if (wrong !== undefined) throw new Error(`round ${round}: ${wrong} differ`);
      }
    }
  }
  t.ok((await client.readBuffer(0, SIZE)).equals(model), 'the whole volume, read at once');
}

const modes = {
  simple: { structuredReplies: false, extendedHeaders: false },
  structured: { structuredReplies: true, extendedHeaders: false },
  extended: { structuredReplies: true, extendedHeaders: true },
};

for (const [name, mode] of Object.entries(modes)) {
  for (const [how, options] of Object.entries({
    'at once': { tryRefusal: 0 },
    'as jobs': { tryRefusal: 1 },
    'either way': { tryRefusal: 0.5 },
    'sockets with memory of their own': { tryRefusal: 0.3, inline: false },
    'tight limits': {
      tryRefusal: 0.3,
      limits: { maxRequestsInFlight: 1, privateBytesPerConnection: 1, sharedBytes: 32 * 1024 * 1024 },
    },
  } satisfies Record<string, TestServerOptions>)) {
    t.test(`${name} replies, ${how}`, async (t) => {
      const server = await startTestServer(t, { sizeBytes: SIZE, ...options });
      const client = await server.client(mode);
      t.equal(client.session.extendedHeaders, mode.extendedHeaders);
      await exercise(t, client, new Random(7), 150);
      await client.disconnect();
      t.equal(server.server.permits.freeBytes, server.server.permits.totalBytes, 'permits are given back');
    });
  }
}

t.test('many requests in flight on many connections', async (t) => {
  const server = await startTestServer(t, { tryRefusal: 0.3 });
  const clients = await Promise.all(Array.from({ length: 8 }, () => server.client()));
  const BLOCK = 4096;
  const each = 64;
  await Promise.all(
    clients.map(async (client, index) => {
      const writes = Array.from({ length: each }, (_, number) =>
        client.write(Buffer.alloc(BLOCK, index * each + number), (index * each + number) * BLOCK),
      );
      await Promise.all(writes);
      await client.flush();
    }),
  );
  const [first] = clients;
  for (let number = 0; number < clients.length * each; number += 1) {
    const got = await first?.readBuffer(number * BLOCK, BLOCK);
    if (!got?.equals(Buffer.alloc(BLOCK, number))) t.fail(`block ${number}`);
  }
  t.equal(server.server.sessions().length, 8);
  await Promise.all(clients.map((client) => client.disconnect()));
});

t.test('a flush on one connection covers what another was acknowledged (multi-conn)', async (t) => {
  const server = await startTestServer(t);
  const [writer, flusher] = [await server.client(), await server.client()];
  t.ok(writer.session.transmissionFlags & nbd.NBD_FLAG_CAN_MULTI_CONN);
  const data = new Random(3).bytes(40_000);
  await writer.write(data, 1000);
  await flusher.flush();
  await writer.write(Buffer.alloc(512, 1), 8 * 1024 * 1024, { fua: true });
  server.folder.crash();
  const disk = await server.folder.open(
    [...server.folder.media.keys()].find((name) => name.endsWith('.img')) ?? '',
  );
  const found = Buffer.alloc(40_000);
  await disk.read(found, 0, found.length, 1000);
  t.ok(found.equals(data), 'flushed');
  const single = Buffer.alloc(512);
  await disk.read(single, 0, 512, 8 * 1024 * 1024);
  t.ok(single.equals(Buffer.alloc(512, 1)), 'written with FUA');
});

t.test('errors of the disk become errors of the request, and the session goes on', async (t) => {
  const server = await startTestServer(t);
  for (const refusal of [0, 1]) {
    server.folder.faults.tryRefusal = refusal;
    const client = await server.client();
    for (const [errno, expected] of [
      ['ENOSPC', nbd.NBD_ENOSPC],
      ['EDQUOT', nbd.NBD_ENOSPC],
      ['EIO', nbd.NBD_EIO],
      ['EROFS', nbd.NBD_EPERM],
    ] as const) {
      server.folder.faults.decide = (operation) => (operation === 'write' ? errno : undefined);
      await t.rejects(client.write(Buffer.alloc(4096), 0), { code: expected }, `${errno} on write`);
    }
    server.folder.faults.decide = (operation) => (operation === 'read' ? 'EIO' : undefined);
    await t.rejects(client.readBuffer(0, 4096), { code: nbd.NBD_EIO });
    await t.rejects(client.readBuffer(0, 2 * LARGE_REQUEST_BYTES), { code: nbd.NBD_EIO });
    server.folder.faults.decide = undefined;
    await client.write(Buffer.alloc(4096, 9), 0);
    t.ok((await client.readBuffer(0, 4096)).equals(Buffer.alloc(4096, 9)));
    await client.disconnect();
  }
});

t.test('after a failed sync the volume takes no more writes, and says so (L6)', async (t) => {
  const server = await startTestServer(t);
  const client = await server.client();
  await client.write(Buffer.alloc(4096, 5), 0);
  await client.flush();
  await client.write(Buffer.alloc(4096, 6), 0);
  server.folder.faults.decide = (operation) => (operation === 'sync' ? 'EIO' : undefined);
  await t.rejects(client.flush(), { code: nbd.NBD_EIO });
  server.folder.faults.decide = undefined;
  await t.rejects(client.flush(), { code: nbd.NBD_EIO }, 'a sync is not repeated in hope');
  await t.rejects(client.write(Buffer.alloc(512), 0), { code: nbd.NBD_EIO });
  await t.rejects(client.trim(0, 4096), { code: nbd.NBD_EIO });
  t.ok((await client.readBuffer(0, 4096)).equals(Buffer.alloc(4096, 6)), 'reads go on');
  t.match(server.volume.failure, /takes no more writes/);
});

t.test('allocation: holes are told, also of a range in the middle', async (t) => {
  const server = await startTestServer(t);
  const client = await server.client();
  await client.write(Buffer.alloc(4096, 1), 65536);
  const status = await client.blockStatus(0, 16 * 1024 * 1024);
  const extents = status.get(nbd.BASE_ALLOCATION) ?? [];
  t.equal(extents[0]?.lengthBytes, 65536);
  t.equal(extents[0]?.flags, nbd.NBD_STATE_HOLE | nbd.NBD_STATE_ZERO);
  t.equal(extents[1]?.flags, 0);
  const one = await client.blockStatus(65536, 65536, { one: true });
  t.equal(one.get(nbd.BASE_ALLOCATION)?.length, 1);
});

t.test('what is not legal is refused by name, and changes nothing', async (t) => {
  const server = await startTestServer(t, { sizeBytes: 1024 * 1024 });
  const client = await server.client({ extendedHeaders: false });
  const end = client.sizeBytes;
  await t.rejects(client.write(Buffer.alloc(2), end - 1), { code: nbd.NBD_ENOSPC });
  await t.rejects(client.readBuffer(end, 1), { code: nbd.NBD_EINVAL });
  await t.rejects(client.trim(end - 1, 2), { code: nbd.NBD_EINVAL });
  await t.rejects(client.writeZeroes(end, 1), { code: nbd.NBD_ENOSPC });
  await t.rejects(client.blockStatus(0, 0), { code: nbd.NBD_EINVAL });
  await t.rejects(client.readBuffer(0, 33 * 1024 * 1024), { code: nbd.NBD_EINVAL });
  await t.rejects(client.write(Buffer.alloc(40 * 1024 * 1024), 0), { code: nbd.NBD_EINVAL });
  t.equal(server.volume.written.count, 0);
  t.ok((await client.readBuffer(0, end)).equals(Buffer.alloc(end)), 'the session goes on');
});
