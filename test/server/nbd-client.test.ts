import { readSync, writeSync } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';
import t from 'tap';
import * as nbd from '../../protocol/constants.ts';
import { encoded, requestLayout } from '../../protocol/layouts.ts';
import { NbdClient } from '../../server/nbd-client.ts';
import { listExports } from '../../server/nbd-client-connect.ts';
import { NbdClientError, NbdConnectionError } from '../../server/nbd-client-errors.ts';
import { Random } from '../fixtures/random.ts';
import { type ScriptedConnection, type ScriptedRequest, startScripted } from '../fixtures/scripted-server.ts';

/** How a promise ended: 'done', the code of the error, or the error itself when it is of another kind. */
async function endOf(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise;
    return 'done';
  } catch (error) {
    return error instanceof NbdConnectionError || error instanceof NbdClientError ? error.code : error;
  }
}

/** A server that keeps every request, to be answered by the test. */
function keeping(): { kept: (() => void)[]; request: (r: ScriptedRequest, c: ScriptedConnection) => void } {
  const kept: (() => void)[] = [];
  return {
    kept,
    request: (request, connection) => {
      const data = request.type === nbd.NBD_CMD_READ ? Buffer.alloc(request.length, 7) : undefined;
      kept.push(() => connection.reply(request, data));
    },
  };
}

t.test('no connection, and why', async (t) => {
  const silent = await startScripted(t, { connected: () => undefined });
  const foreign = await startScripted(t, {
    connected: (socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'),
  });
  const hangingUp = await startScripted(t, { connected: (socket) => socket.destroy() });
  const early = await startScripted(t, { early: Buffer.from('good morning') });
  const ordinary = await startScripted(t, {});
  const cases: [string, string, string, RegExp][] = [
    ['nobody there', 'nbd+unix:///?socket=/nonexistent/socket', 'unreachable', /ENOENT/],
    ['a server that says nothing', silent.uri, 'timeout', /within 50 ms/],
    ['not an NBD server', foreign.uri, 'refused', /does not greet as an NBD server/],
    ['closed before the greeting', hangingUp.uri, 'refused', /closed before it greeted/],
    ['replies to no request', early.uri, 'protocol', /before it was asked/],
    ['an unknown export', ordinary.uri.replace('///?', '///other?'), 'refused', /GO/],
    ['TLS', 'nbds://localhost/', 'unsupported', /TLS/],
  ];
  for (const [what, uri, code, message] of cases) {
    const timeoutMs = code === 'timeout' ? 50 : 60_000;
    await t.rejects(
      NbdClient.connect(uri, { timeoutMs }),
      { name: 'NbdConnectionError', code, message },
      what,
    );
    await t.rejects(
      NbdClient.handshake(uri, { timeoutMs }),
      { name: 'NbdConnectionError', code, message },
      what,
    );
  }
  await t.rejects(NbdClient.connect('no uri'), { name: 'NbdUriError' });
});

for (const tcp of [false, true]) {
  t.test(`every command over ${tcp ? 'TCP' : 'a unix socket'}, in each mode`, async (t) => {
    const disk = new Random(1).bytes(5000);
    const server = await startScripted(t, {
      tcp,
      request: (request, connection) => {
        const { type, offset, length, payload } = request;
        if (type === nbd.NBD_CMD_WRITE) payload.copy(disk, offset);
        if (type === nbd.NBD_CMD_BLOCK_STATUS) {
          const out = Buffer.alloc(100);
          const extents = [{ lengthBytes: length + 1, flags: 3 }];
          const end = connection.encoder.writeBlockStatus(
            out,
            0,
            request,
            connection.session.contexts[0]?.id ?? 0,
            extents,
            true,
          );
          connection.socket.write(out.subarray(0, end));
        } else {
          connection.reply(
            request,
            type === nbd.NBD_CMD_READ ? disk.subarray(offset, offset + length) : undefined,
          );
        }
      },
    });
    for (const [mode, options] of [
      ['simple', { structuredReplies: false }],
      ['structured', { extendedHeaders: false }],
      ['extended', {}],
    ] as const) {
      server.requests.length = 0;
      const client = await NbdClient.connect(server.uri, options);
      t.equal(client.session.structuredReplies, mode !== 'simple');
      t.equal(client.session.extendedHeaders, mode === 'extended');
      t.equal(client.sizeBytes, 1024 * 1024);
      const data = Buffer.from(`written in ${mode} mode`);
      await client.write(data, 77, { fua: true });
      t.equal((await client.readBuffer(77, data.length, { df: true })).toString(), data.toString());
      await client.write(Buffer.alloc(0), 10);
      t.equal((await client.readBuffer(10, 0)).length, 0);
      await client.flush();
      await client.trim(1, 2);
      await client.writeZeroes(3, 4, { noHole: true, fastZero: true, fua: true });
      await client.cache(5, 6);
      if (mode !== 'simple') {
        const status = await client.blockStatus(7, 8, { one: true });
        t.strictSame(status, new Map([['base:allocation', [{ lengthBytes: 8, flags: 3 }]]]));
      }
      if (mode === 'extended') await client.trim(0, 2 ** 40);
      await client.disconnect();
      t.equal(await client.closed, undefined);

      const told = server.requests.map(({ type, flags, offset, length }) => [
        type,
        flags & ~nbd.NBD_CMD_FLAG_PAYLOAD_LEN,
        offset,
        length,
      ]);
      const zeroFlags = nbd.NBD_CMD_FLAG_FUA | nbd.NBD_CMD_FLAG_NO_HOLE | nbd.NBD_CMD_FLAG_FAST_ZERO;
      t.strictSame(told, [
        [nbd.NBD_CMD_WRITE, nbd.NBD_CMD_FLAG_FUA, 77, data.length],
        [nbd.NBD_CMD_READ, nbd.NBD_CMD_FLAG_DF, 77, data.length],
        [nbd.NBD_CMD_WRITE, 0, 10, 0],
        [nbd.NBD_CMD_READ, 0, 10, 0],
        [nbd.NBD_CMD_FLUSH, 0, 0, 0],
        [nbd.NBD_CMD_TRIM, 0, 1, 2],
        [nbd.NBD_CMD_WRITE_ZEROES, zeroFlags, 3, 4],
        [nbd.NBD_CMD_CACHE, 0, 5, 6],
        ...(mode === 'simple' ? [] : [[nbd.NBD_CMD_BLOCK_STATUS, nbd.NBD_CMD_FLAG_REQ_ONE, 7, 8]]),
        ...(mode === 'extended' ? [[nbd.NBD_CMD_TRIM, 0, 0, 2 ** 40]] : []),
        [nbd.NBD_CMD_DISC, 0, 0, 0],
      ]);
    }
  });
}

t.test('replies in another order than the requests find their promises', async (t) => {
  const waiting: [ScriptedRequest, ScriptedConnection][] = [];
  const server = await startScripted(t, {
    request: (request, connection) => {
      waiting.push([request, connection]);
      if (waiting.length < 20) return;
      for (const [one, to] of waiting.splice(0).reverse())
        to.reply(one, Buffer.alloc(one.length, one.offset));
    },
  });
  const client = await NbdClient.connect(server.uri);
  const reads = Array.from({ length: 40 }, (_, index) => client.readBuffer(index, index + 1));
  for (const [index, data] of (await Promise.all(reads)).entries()) {
    if (data.length !== index + 1 || !data.every((byte) => byte === index))
      t.fail(`the data of read ${index}`);
  }
  await client.close();
});

t.test('no more is in flight than allowed, and all is sent in its turn', async (t) => {
  const server = keeping();
  const { uri, requests, came } = await startScripted(t, server);
  const client = await NbdClient.connect(uri, { maxInFlight: 3 });
  const ends = Array.from({ length: 10 }, (_, index) => client.trim(index, 1));
  for (let answered = 0; answered < 10; answered += 1) {
    await came(Math.min(10, answered + 3));
    t.equal(client.inFlight, Math.min(3, 10 - answered));
    t.equal(requests.length, Math.min(10, answered + 3));
    server.kept[answered]?.();
    await ends[answered];
  }
  t.strictSame(
    requests.map(({ offset }) => offset),
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
  );
  await client.close();
});

t.test('bytes in flight are bounded too, and one request larger than the bound goes alone', async (t) => {
  const server = keeping();
  const { uri, requests, came } = await startScripted(t, server);
  const client = await NbdClient.connect(uri, { maxInFlightBytes: 100 });
  const ends = [
    client.readBuffer(0, 60),
    client.write(Buffer.alloc(40), 1),
    client.flush(),
    client.write(Buffer.alloc(1000), 3),
    client.readBuffer(4, 1),
  ];
  await came(3);
  t.equal(client.inFlight, 3, 'what needs no room has its turn with the others, not before them');
  for (const answer of server.kept.splice(0)) answer();
  await came(4);
  t.equal(client.inFlight, 1);
  server.kept.shift()?.();
  await came(5);
  server.kept.shift()?.();
  await Promise.all(ends);
  t.equal(requests[3]?.payload.length, 1000);
  await client.close();
});

t.test('an error of the server rejects one request, and the connection goes on', async (t) => {
  const server = await startScripted(t, {
    request: (request, connection) => {
      if (request.type === nbd.NBD_CMD_FLUSH) {
        connection.reply(request);
        return;
      }
      const out = Buffer.alloc(connection.encoder.maximumShortReplyBytes);
      const end = connection.encoder.writeError(out, 0, request, nbd.NBD_ENOSPC, 'the disk is full');
      connection.socket.write(out.subarray(0, end));
    },
  });
  const client = await NbdClient.connect(server.uri);
  await t.rejects(client.write(Buffer.alloc(5), 9), {
    code: nbd.NBD_ENOSPC,
    name: 'ENOSPC',
    message: 'write of 5 bytes at 9: ENOSPC (the disk is full)',
  });
  t.equal(await endOf(client.readBuffer(0, 4)), nbd.NBD_ENOSPC);
  await client.flush();
  await client.disconnect();
});

t.test('the end of the connection rejects all that is in flight or waits', async (t) => {
  const server = await startScripted(t, {
    request: (request, { socket }) => {
      if (request.type === nbd.NBD_CMD_FLUSH) socket.destroy();
    },
  });
  const client = await NbdClient.connect(server.uri, { maxInFlight: 3 });
  const ends = [client.readBuffer(0, 9), client.trim(0, 1), client.flush(), client.write(Buffer.alloc(9), 0)];
  t.strictSame(await Promise.all(ends.map(endOf)), ['lost', 'lost', 'lost', 'lost']);
  t.match(await client.closed, { code: 'lost' });
  t.equal(await endOf(client.flush()), 'lost', 'and so does all that comes later');
  t.equal(client.inFlight, 0);
  await client.disconnect();
  await client.close();
});

t.test('a server that breaks the protocol loses its client', async (t) => {
  const server = await startScripted(t, {
    request: (request, { socket, encoder }) => {
      if (request.type !== nbd.NBD_CMD_FLUSH) return;
      const out = Buffer.alloc(200);
      socket.write(
        out.subarray(0, encoder.writeDone(out, 0, { ...request, cookieLow: request.cookieLow + 1000 })),
      );
    },
  });
  const client = await NbdClient.connect(server.uri);
  const ends = [client.trim(0, 1), client.flush()];
  t.strictSame(await Promise.all(ends.map(endOf)), ['protocol', 'protocol']);
  t.match(await client.closed, { code: 'protocol', message: /not in flight/ });
});

t.test('a second reply to one request is told from the reply to the next in its place', async (t) => {
  let first: ScriptedRequest | undefined;
  const server = await startScripted(t, {
    request: (request, connection) => {
      first ??= request;
      connection.reply(first);
    },
  });
  const client = await NbdClient.connect(server.uri, { maxInFlight: 1 });
  await client.flush();
  t.equal(await endOf(client.flush()), 'protocol', 'the slot is the same, the cookie is not');
});

t.test('closing at once rejects what is in flight, and touches no buffer afterwards', async (t) => {
  const { uri, came } = await startScripted(t, {
    request: (request, { socket, encoder }) => {
      const out = Buffer.alloc(64);
      const end = encoder.writeReadHeader(out, 0, request, request.length);
      // Half of the data of a large read, so that they land in its buffer directly.
      socket.write(Buffer.concat([out.subarray(0, end), Buffer.alloc(request.length / 2, 7)]));
    },
  });
  const client = await NbdClient.connect(uri);
  const target = Buffer.alloc(1024 * 1024);
  const end = endOf(client.read(target, 0));
  await came(1);
  while (target[target.length / 2 - 1] !== 7) await turn();
  const closing = client.close();
  t.equal(await end, 'closed');
  await closing;
  t.match(await client.closed, { code: 'closed' });
  t.equal(target[target.length / 2], 0);
});

t.test('goodbye waits for what is in flight, and takes nothing new', async (t) => {
  const server = keeping();
  const { uri, requests, came } = await startScripted(t, server);
  const client = await NbdClient.connect(uri, { maxInFlight: 1 });
  const ends = [client.trim(0, 1), client.trim(1, 1)];
  const goodbye = client.disconnect();
  t.equal(client.disconnect(), goodbye, 'twice is once');
  t.equal(await endOf(client.flush()), 'closed');
  await came(1);
  server.kept[0]?.();
  await came(2);
  server.kept[1]?.();
  await Promise.all(ends);
  await goodbye;
  t.equal(requests[2]?.type, nbd.NBD_CMD_DISC);
  t.equal(requests.length, 3);
  t.equal(await client.closed, undefined);
});

t.test('what no request can say is a bug of the caller', async (t) => {
  const { uri, requests } = await startScripted(t, {});
  const client = await NbdClient.connect(uri, { structuredReplies: false });
  for (const wrong of [-1, 0.5, Number.NaN, 2 ** 53])
    await t.rejects(client.trim(wrong, 1), /bug/, `${wrong}`);
  await t.rejects(client.trim(0, 2 ** 32), /bug/, 'a length of 33 bits without extended headers');
  t.equal(requests.length, 0);
  t.equal(client.inFlight, 0, 'and it leaves nothing behind');
  await client.close();
});

t.test('a list of exports', async (t) => {
  const server = await startScripted(t, { exported: { name: 'g/v', description: 'a volume' } });
  t.match(await listExports(server.uri), [{ name: 'g/v', description: 'a volume' }]);
  await t.rejects(listExports('nbd+unix:///?socket=/nonexistent'), { code: 'unreachable' });
});

for (const tcp of [false, true]) {
  t.test(`a socket for the kernel: nobody here reads it any more (${tcp ? 'TCP' : 'unix'})`, async (t) => {
    const { uri } = await startScripted(t, {
      tcp,
      request: (request, connection) => connection.reply(request, Buffer.from('for the kernel')),
    });
    const { fd, session, close } = await NbdClient.handshake(uri);
    t.equal(session.structuredReplies, false);
    t.equal(session.extendedHeaders, false);
    t.strictSame(session.contexts, []);
    const request = {
      magic: nbd.NBD_REQUEST_MAGIC,
      flags: 0,
      type: nbd.NBD_CMD_READ,
      cookie: 42n,
      offsetBytes: 0n,
      lengthBytes: 14,
    };
    writeSync(fd, encoded(requestLayout, request));
    const reply = Buffer.alloc(100);
    let came = 0;
    while (came < 30) {
      // The descriptor does not block; between two tries the loop turns, and would read the bytes away if it still did.
      for (let turns = 0; turns < 20; turns += 1) await turn();
      try {
        const count = readSync(fd, reply, came, reply.length - came, null);
        if (count === 0) throw new Error('the server has closed');
        came += count;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
      }
    }
    t.equal(reply.readUInt32BE(0), nbd.NBD_SIMPLE_REPLY_MAGIC);
    t.equal(reply.toString('utf8', 16, came), 'for the kernel');
    close();
  });
}
