import { createServer, get, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import t from 'tap';
import { streamEvents, streamStart } from '../../server/control/event-stream.ts';
import { EventLog } from '../../server/events.ts';

t.test('events are numbered from 1, stamped, and told to subscribers until they leave', async (t) => {
  const log = new EventLog(() => Date.UTC(2026, 0, 2, 3, 4, 5));
  const seen: number[] = [];
  const leave = log.subscribe((event) => seen.push(event.id));
  log.emit({ type: 'a.b', message: 'one', group: 'g', data: { n: 1 } });
  log.emit({ type: 'a.b', message: 'two' });
  leave();
  log.emit({ type: 'a.b', message: 'three' });
  t.same(seen, [1, 2]);
  t.same(log.since(0)[0], {
    id: 1,
    time: '2026-01-02T03:04:05.000Z',
    type: 'a.b',
    message: 'one',
    group: 'g',
    data: { n: 1 },
  });
  t.equal(log.lastId, 3);
});

t.test('the ring agrees with a plain list, whatever is asked for', async (t) => {
  const log = new EventLog(() => 0, 7);
  const all: number[] = [];
  for (let count = 0; count <= 25; count += 1) {
    for (let since = 0; since <= 27; since += 1) {
      for (const limit of [1, 3, 100]) {
        const kept = all.slice(-7).filter((id) => id > since);
        t.same(
          log.since(since, limit).map((event) => event.id),
          kept.slice(0, limit),
          `${count} events, since ${since}, limit ${limit}`,
        );
      }
    }
    log.emit({ type: 'x', message: '' });
    all.push(count + 1);
  }
});

t.test('where a stream begins', async (t) => {
  const log = new EventLog(() => 0);
  for (let n = 0; n < 5; n += 1) log.emit({ type: 'x', message: '' });
  t.equal(streamStart(log, 'ab', undefined, undefined), 5, 'with what comes');
  t.equal(streamStart(log, 'ab', undefined, '2'), 2, 'where it is told');
  t.equal(streamStart(log, 'ab', 'ab-3', '2'), 3, 'where it was, when it comes back');
  t.equal(streamStart(log, 'ab', 'cd-3', undefined), 0, 'at the start, when the node was restarted');
  t.equal(streamStart(log, 'ab', 'nonsense', undefined), 0);
});

/** A server with one stream of `log`, from its start; resolves with both ends. */
async function oneStream(
  t: { teardown(run: () => unknown): void },
  log: EventLog,
): Promise<{ sender: ServerResponse; receiver: IncomingMessage }> {
  let sender: ServerResponse | undefined;
  const server = createServer((_request, response) => {
    sender = response;
    streamEvents(log, 'ab', 0, response);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const receiver = await new Promise<IncomingMessage>((resolve) => get({ host: '127.0.0.1', port }, resolve));
  t.teardown(() => {
    receiver.destroy();
    server.closeAllConnections();
    server.close();
  });
  if (sender === undefined) throw new Error('no request came');
  return { sender, receiver };
}

t.test('a reader that stops costs a buffer, not the events it misses, and is told of the gap', async (t) => {
  const log = new EventLog(() => 0, 16);
  const { sender, receiver } = await oneStream(t, log);
  receiver.pause();
  const message = 'm'.repeat(1024);
  const events = 20_000;
  let most = 0;
  for (let n = 0; n < events; n += 1) {
    log.emit({ type: 'x', message });
    most = Math.max(most, sender.writableLength);
    if (n % 100 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  t.ok(most < 64 * 1024 * 1.5, `${most} bytes waited at most`);

  let text = '';
  receiver.setEncoding('utf8');
  const last = new Promise<void>((resolve) => {
    receiver.on('data', (chunk: string) => {
      text += chunk;
      if (text.includes(`id: ab-${events}\n`)) resolve();
    });
  });
  receiver.resume();
  await last;
  const ids = [...text.matchAll(/^id: ab-(\d+)$/gm)].map((match) => Number(match[1]));
  const missed = [...text.matchAll(/^event: missed\ndata: \{"missed":(\d+)\}$/gm)].map((match) =>
    Number(match[1]),
  );
  t.ok(missed.length > 0, 'there was a gap');
  t.equal(
    ids.length + missed.reduce((sum, n) => sum + n, 0),
    events,
    'every event came, or was counted as missed',
  );
  t.same(
    ids,
    [...ids].sort((a, b) => a - b),
    'in order',
  );
});

t.test('a stream that closes is no subscriber any more', async (t) => {
  const log = new EventLog(() => 0);
  const { sender, receiver } = await oneStream(t, log);
  const closed = new Promise((resolve) => sender.once('close', resolve));
  receiver.destroy();
  await closed;
  log.emit({ type: 'x', message: 'nobody reads this' });
  t.equal(sender.writableLength, 0);
});
