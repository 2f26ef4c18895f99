import { once } from 'node:events';
import { stat, writeFile } from 'node:fs/promises';
import { createServer as createHttpServer, request as httpRequest } from 'node:http';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { EngineError, type EngineErrorCode } from '../../engine/errors.ts';
import { ControlClient } from '../../server/control/client.ts';
import { boundConnections } from '../../server/control/connection-bound.ts';
import { refusalOf } from '../../server/control/refusal.ts';
import type { EventView } from '../../server/control/schemas.ts';
import { listing, startLocal, temporaryFolder } from '../fixtures/local-node.ts';

const MIB = 1024 * 1024;

interface Answer {
  readonly status: number;
  readonly type: string;
  readonly text: string;
  readonly json: unknown;
}

/** A request as any HTTP client makes it. */
async function ask(
  socketPath: string,
  method: string,
  path: string,
  body?: string,
  headers: Record<string, string> = {},
): Promise<Answer> {
  const request = httpRequest({
    socketPath,
    method,
    path,
    headers: { ...(body === undefined ? {} : { 'content-type': 'application/json' }), ...headers },
  });
  request.end(body);
  const [response] = await once(request, 'response');
  let text = '';
  for await (const chunk of response.setEncoding('utf8')) text += chunk;
  const type = String(response.headers['content-type'] ?? '');
  return {
    status: response.statusCode,
    type,
    text,
    json: type.includes('json') ? JSON.parse(text) : undefined,
  };
}

t.test('the life of a group, by the typed client', async (t) => {
  const { node } = await startLocal(t, await temporaryFolder(t));
  t.equal((await stat(node.controlPath)).mode & 0o777, 0o600);
  const client = new ControlClient(node.controlPath);
  t.teardown(() => client.close());
  const created = await client.createGroup({
    name: 'g',
    regionSize: 4096,
    volumes: [{ name: 'v', size: MIB }],
  });
  t.same(await client.group('g'), created);
  t.same((await client.status()).groups, [created]);
  t.match(await client.attach({ export: 'g/v' }), {
    device: '/dev/nbd0',
    export: 'g/v',
    connections: 1,
    readOnly: false,
  });
  t.same((await client.status()).groups[0]?.volumes[0]?.devices, ['/dev/nbd0']);
  await t.rejects(client.deleteGroup('g'), { name: 'ControlError', code: 'in-use', status: 409 });
  await client.detach('/dev/nbd0', false);
  await client.deleteGroup('g');
  await t.rejects(client.group('g'), {
    code: 'not-found',
    status: 404,
    message: 'there is no group "g" on this node',
  });
  t.same(
    (await client.events()).events.map((event) => event.type),
    ['node.started', 'group.created', 'group.deleted'],
  );
  t.match(await client.metrics(), /^tidemark_sessions 0$/m);
});

t.test('a request that is wrong gets a status and one line, and changes nothing', async (t) => {
  const folder = await temporaryFolder(t);
  const { node } = await startLocal(t, folder);
  await node.createGroup({ name: 'g', volumes: [{ name: 'v', size: MIB }] });
  const before = await listing(folder);
  const elsewhere = await temporaryFolder(t);
  const group = (changes: object): string =>
    JSON.stringify({ name: 'h', volumes: [{ name: 'v', size: MIB }], ...changes });
  const cases: [string, string, string | undefined, number, RegExp][] = [
    ['GET', '/', undefined, 404, /there is no GET \//],
    ['GET', '/v1/groups/none', undefined, 404, /there is no group "none"/],
    ['GET', `/v1/groups/${'x'.repeat(300)}`, undefined, 414, /longer than any name/],
    ['GET', `/v1/groups/${'x'.repeat(5000)}`, undefined, 414, /longer than any name/],
    ['GET', '/v1/groups/%ff', undefined, 400, /no valid URL/],
    ['GET', `/${'x'.repeat(5000)}`, undefined, 404, /there is no GET \/x{199}… in/],
    ['PROPFIND', '/v1/groups', undefined, 404, /there is no PROPFIND/],
    ['PUT', '/v1/groups', group({}), 404, /there is no PUT/],
    ['POST', '/v1/groups', '{', 400, /JSON/],
    ['POST', '/v1/groups', '[]', 400, /must be object/],
    ['POST', '/v1/groups', '{}', 400, /required property/],
    ['POST', '/v1/groups', group({ size: 1 }), 400, /^body has an unknown field "size"$/],
    ['POST', '/v1/groups', group({ volumes: [] }), 400, /at least one volume/],
    [
      'POST',
      '/v1/groups',
      group({ volumes: Array.from({ length: 65 }, (_, n) => ({ name: `v${n}`, size: MIB })) }),
      400,
      /^a group has at most 64 volumes$/,
    ],
    ['POST', '/v1/groups', group({ volumes: [{ name: 'v', size: '1M' }] }), 400, /size must be integer/],
    ['POST', '/v1/groups', group({ volumes: [{ name: 'v', size: -512 }] }), 400, /size must be >= 1/],
    ['POST', '/v1/groups', group({ volumes: [{ name: 'v', size: 1.5 }] }), 400, /size must be integer/],
    [
      'POST',
      '/v1/groups',
      group({ volumes: [{ name: 'v', file: 'relative.img' }] }),
      400,
      /no absolute path/,
    ],
    ['POST', '/v1/groups', group({ name: '../h' }), 400, /cannot name a group/],
    ['POST', '/v1/groups', group({ name: 'g' }), 409, /there is a group g already/],
    ['POST', '/v1/groups', group({ volumes: [{ name: 'v', file: join(elsewhere, 'none') }] }), 404, /none/],
    ['DELETE', '/v1/groups/none', undefined, 404, /there is no group/],
    ['POST', '/v1/devices', JSON.stringify({ export: 'g/none' }), 404, /GROUP\/VOLUME/],
    ['POST', '/v1/devices', JSON.stringify({ export: 'g/v', device: '/dev/sda' }), 400, /device/],
    ['POST', '/v1/devices', JSON.stringify({ export: 'g/v', connections: 17 }), 400, /connections/],
    ['DELETE', '/v1/devices/nbd0', undefined, 404, /not attached/],
    ['DELETE', '/v1/devices/sda', undefined, 400, /name/],
    [
      'DELETE',
      '/v1/devices/nbd0?force=maybe',
      undefined,
      400,
      /^querystring\/force must be one of "true", "false"$/,
    ],
    ['GET', '/v1/events?sinse=1', undefined, 400, /^querystring has an unknown field "sinse"$/],
    ['GET', '/v1/events?since=-1', undefined, 400, /since/],
  ];
  for (const [method, path, body, status, message] of cases) {
    const answer = await ask(node.controlPath, method, path, body);
    const what = `${method} ${path.slice(0, 40)} ${body?.slice(0, 60) ?? ''}`;
    t.equal(answer.status, status, what);
    t.match(answer.json, { code: String, message }, what);
    t.notMatch((answer.json as { message: string }).message, /\n/, what);
  }
  t.same(await listing(folder), before, 'nothing changed');
});

/** Sends bytes as they are, and gives back all that came until the node closed. */
async function sendRaw(socketPath: string, bytes: string): Promise<string> {
  const socket = connect(socketPath);
  socket.on('error', () => {});
  socket.write(bytes);
  let text = '';
  for await (const chunk of socket.setEncoding('utf8')) text += chunk;
  return text;
}

t.test('what is no request of ours has the shape of every refusal', async (t) => {
  const { node } = await startLocal(t, await temporaryFolder(t));
  const cases: [string, string, number, RegExp][] = [
    ['an unknown method', 'FOO /v1/status HTTP/1.1\r\nhost: x\r\n\r\n', 400, /no such method/],
    [
      'a long header',
      `GET /v1/status HTTP/1.1\r\nhost: x\r\nx-long: ${'x'.repeat(20_000)}\r\n\r\n`,
      431,
      /headers are too long/,
    ],
    ['another protocol', 'NBDMAGICIHAVEOPT\r\n\r\n', 400, /HTTP/],
  ];
  for (const [what, bytes, status, message] of cases) {
    const text = await sendRaw(node.controlPath, bytes);
    const [head = '', body = ''] = text.split('\r\n\r\n');
    t.match(head, new RegExp(`^HTTP/1.1 ${status} .*\r\ncontent-type: application/json`), what);
    t.match(JSON.parse(body), { code: 'invalid', message }, what);
  }
  for (const type of ['text/plain', 'application/x-www-form-urlencoded']) {
    const answer = await ask(node.controlPath, 'POST', '/v1/groups', '{}', { 'content-type': type });
    t.equal(answer.status, 415, type);
    t.match(answer.json, { code: 'invalid', message: /send it with content-type: application\/json/ }, type);
  }
});

t.test('whoever takes all connections and says nothing, or half of it, locks nobody out', async (t) => {
  const { node } = await startLocal(t, await temporaryFolder(t));
  const greedy: Socket[] = [];
  t.teardown(() => {
    for (const socket of greedy) socket.destroy();
  });
  const body =
    'POST /v1/groups HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{';
  const starts = ['', 'GET /v1/sta', body];
  for (let index = 0; index < 140; index += 1) {
    const socket = connect(node.controlPath);
    socket.on('error', () => {});
    greedy.push(socket);
    await once(socket, 'connect');
    socket.write(starts[index % starts.length] ?? '');
  }
  t.same((await new ControlClient(node.controlPath).status()).groups, []);
});

t.test('while every connection has its answer under way, one more is told so', async (t) => {
  const server = createHttpServer(() => {});
  boundConnections(server, 2);
  const path = join(await temporaryFolder(t), 'http.sock');
  await new Promise<void>((resolve) => server.listen(path, resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  for (let index = 0; index < 2; index += 1) {
    const socket = connect(path);
    t.teardown(() => socket.destroy());
    socket.write('GET / HTTP/1.1\r\nhost: x\r\n\r\n');
    await once(server, 'request');
  }
  const refused = await sendRaw(path, '');
  t.match(refused, /^HTTP\/1\.1 503 .*"code":"unavailable".*try again/s);
  await t.rejects(new ControlClient(path).status(), { code: 'unavailable', status: 503 });
});

t.test('a body that is too long is refused before it is sent', async (t) => {
  const { node } = await startLocal(t, await temporaryFolder(t));
  const request = httpRequest({
    socketPath: node.controlPath,
    method: 'POST',
    path: '/v1/groups',
    headers: { 'content-type': 'application/json', 'content-length': 2 ** 40 },
  });
  request.on('error', () => {});
  request.flushHeaders();
  const [response] = await once(request, 'response');
  t.equal(response.statusCode, 413);
  request.destroy();
});

t.test('each kind of refusal has its status; a bug is not shown to the outside', async (t) => {
  const statuses: Record<EngineErrorCode, number> = {
    invalid: 400,
    'not-found': 404,
    exists: 409,
    'in-use': 409,
    corrupt: 500,
    disk: 500,
    unavailable: 503,
    unsupported: 501,
  };
  for (const [code, status] of Object.entries(statuses)) {
    const refusal = refusalOf(new EngineError(code as EngineErrorCode, 'why\n  and what'));
    t.same(refusal, { status, body: { code, message: 'why and what' }, bug: false });
  }
  t.equal(refusalOf(new EngineError('disk', 'full', { errno: 'ENOSPC' })).status, 507);
  const bug = refusalOf(new TypeError('secret of x is undefined'));
  t.match(bug, { status: 500, body: { code: 'internal' }, bug: true });
  t.notMatch(bug.body.message, /secret/);
});

t.test('the API describes itself, with every route', async (t) => {
  const { node } = await startLocal(t, await temporaryFolder(t));
  const { json, status } = await ask(node.controlPath, 'GET', '/openapi.json');
  t.equal(status, 200);
  const paths = (json as { openapi: string; paths: Record<string, object> }).paths;
  const routes = Object.entries(paths).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => `${method} ${path}`),
  );
  t.same(routes.sort(), [
    'delete /v1/devices/{name}',
    'delete /v1/groups/{group}',
    'delete /v1/groups/{group}/links/{link}',
    'delete /v1/groups/{group}/snapshots/{snapshot}',
    'get /metrics',
    'get /openapi.json',
    'get /v1/devices',
    'get /v1/events',
    'get /v1/groups',
    'get /v1/groups/{group}',
    'get /v1/groups/{group}/links',
    'get /v1/groups/{group}/operations',
    'get /v1/groups/{group}/operations/{operation}',
    'get /v1/groups/{group}/snapshots',
    'get /v1/groups/{group}/snapshots/{snapshot}/restore-plan',
    'get /v1/groups/{group}/volumes/{volume}/changes',
    'get /v1/status',
    'post /v1/devices',
    'post /v1/groups',
    'post /v1/groups/{group}/freeze',
    'post /v1/groups/{group}/links',
    'post /v1/groups/{group}/links/{link}/detach',
    'post /v1/groups/{group}/links/{link}/pause',
    'post /v1/groups/{group}/links/{link}/resume',
    'post /v1/groups/{group}/links/{link}/resync',
    'post /v1/groups/{group}/links/{link}/set',
    'post /v1/groups/{group}/replica/set',
    'post /v1/groups/{group}/snapshots',
    'post /v1/groups/{group}/snapshots/{snapshot}/detach',
    'post /v1/groups/{group}/snapshots/{snapshot}/refresh',
    'post /v1/groups/{group}/snapshots/{snapshot}/rename',
    'post /v1/groups/{group}/snapshots/{snapshot}/restore',
    'post /v1/groups/{group}/thaw',
    'post /v1/groups/{group}/volumes/{volume}/import',
  ]);
});

t.test('metrics are text with a line a volume, and go when it goes', async (t) => {
  const { node } = await startLocal(t, await temporaryFolder(t));
  await node.createGroup({ name: 'g', volumes: [{ name: 'v', size: MIB }] });
  const shown = await ask(node.controlPath, 'GET', '/metrics');
  t.match(shown.type, /^text\/plain/);
  t.match(shown.text, /^tidemark_volume_size_bytes\{group="g",volume="v"\} 1048576$/m);
  t.match(shown.text, /^nodejs_eventloop_lag_seconds /m);
  await node.deleteGroup('g');
  t.notMatch((await ask(node.controlPath, 'GET', '/metrics')).text, /volume="v"/);
});

t.test('events are followed as they come, from where a reader was, to the end of the node', async (t) => {
  const { node } = await startLocal(t, await temporaryFolder(t));
  const client = new ControlClient(node.controlPath);
  t.teardown(() => client.close());
  const seen: EventView[] = [];
  let wanted = 1;
  let reached: () => void = () => {};
  const until = (count: number): Promise<void> =>
    new Promise((resolve) => {
      wanted = count;
      reached = resolve;
      if (seen.length >= count) resolve();
    });
  const following = (async () => {
    for await (const event of client.follow()) {
      seen.push(event);
      if (seen.length >= wanted) reached();
    }
  })();
  await until(1);
  node.events.emit({ type: 'x.y', message: 'grün\nzwei', data: { n: 1 } });
  await until(2);
  t.match(seen, [
    { type: 'node.started', id: 1 },
    { type: 'x.y', id: 2, message: 'grün\nzwei', data: { n: 1 } },
  ]);

  const later = client.follow(1);
  t.match(await later.next(), { value: { id: 2 } }, 'since');
  await later.return();
  await node.stop();
  await following;
  t.equal(seen.at(-1)?.type, 'node.stopped', 'the last thing that a follower hears');
});

t.test('where no node is, the client says so and what to do', async (t) => {
  const folder = await temporaryFolder(t);
  const absent = new ControlClient(join(folder, 'control.sock'));
  await t.rejects(absent.status(), {
    code: 'no-node',
    status: 0,
    message: /no node at .*control\.sock; start one with: tidemark serve/,
  });
  await writeFile(join(folder, 'file'), '');
  await t.rejects(new ControlClient(join(folder, 'file')).status(), {
    code: 'no-node',
    message: /no node at/,
  });
  t.throws(() => new ControlClient(`/${'x'.repeat(200)}`), {
    code: 'invalid',
    message: /201 bytes, Linux takes 107/,
  });

  const path = join(folder, 'other.sock');
  const other = createServer((socket) => socket.end('SSH-2.0-nonsense\r\n'));
  await new Promise<void>((resolve) => other.listen(path, resolve));
  t.teardown(() => other.close());
  await t.rejects(new ControlClient(path).status(), {
    code: 'no-node',
    message: /did not answer.*try again/,
  });
});
