/** The control API: routes over a `NodeControl`. Described by OpenAPI at `/openapi.json` and in docs/control-api.md. */
import { randomBytes } from 'node:crypto';
import type { ServerResponse } from 'node:http';
import swagger from '@fastify/swagger';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import Fastify from 'fastify';
import { Type } from 'typebox';
import { EngineError } from '../../engine/errors.ts';
import type { Logger } from '../logger.ts';
import { describeShapeError } from '../shape-errors.ts';
import { answerClientError } from './client-error.ts';
import { streamEvents, streamStart } from './event-stream.ts';
import { addLinkRoutes } from './link-routes.ts';
import type { NodeControl } from './node-control.ts';
import { refusalOf } from './refusal.ts';
import { type Api, ERRORS, NOTHING } from './routes.ts';
import {
  AttachRequest,
  DevicePath,
  DeviceView,
  EventList,
  EventQuery,
  ForceQuery,
  GroupPath,
  GroupRequest,
  GroupStatus,
  NodeStatus,
} from './schemas.ts';
import { addSnapshotRoutes } from './snapshot-routes.ts';

/** Bytes of a request's body: a group of 64 volumes with the longest paths is 270 KB. */
const MAX_BODY_BYTES = 512 * 1024;
/** Time to receive a request whole, its headers, and between two of them: clients are on this machine. */
const REQUEST_TIMEOUT_MS = 10_000;
const HEADERS_TIMEOUT_MS = 5000;
const KEEP_ALIVE_TIMEOUT_MS = 5000;
/** How often Node looks for connections that are beyond these times. */
const TIMEOUT_CHECK_MS = 1000;
/** Characters of a URL that are told back. */
const MAX_SHOWN_URL_LENGTH = 200;
/** Event streams at a time. */
const MAX_EVENT_STREAMS = 64;

/** Builds the API; the caller makes it ready, lets its `server` listen, and ends the event streams before it closes it. */
export async function buildApi(
  node: NodeControl,
  logger: Logger,
  version: string,
): Promise<{ api: Api; endStreams: () => void }> {
  const api: Api = Fastify({
    logger: false,
    bodyLimit: MAX_BODY_BYTES,
    requestTimeout: REQUEST_TIMEOUT_MS,
    keepAliveTimeout: KEEP_ALIVE_TIMEOUT_MS,
    http: { headersTimeout: HEADERS_TIMEOUT_MS, connectionsCheckingInterval: TIMEOUT_CHECK_MS },
    clientErrorHandler: answerClientError,
    frameworkErrors: (error, _request, reply) => {
      const { status, body } = refusalOf(error);
      reply.raw.writeHead(status, { 'content-type': 'application/json; charset=utf-8' });
      reply.raw.end(JSON.stringify(body));
    },
    forceCloseConnections: true,
    // Bad input is refused, not mended: nothing is dropped from it, and "10" is not 10.
    ajv: { customOptions: { removeAdditional: false, coerceTypes: false, useDefaults: false } },
  }).withTypeProvider<TypeBoxTypeProvider>();
  // Text would be taken, and then refused as if it were wrong JSON.
  api.removeContentTypeParser('text/plain');
  api.setSchemaErrorFormatter(
    (errors, part) => new Error(`${part}${errors[0]?.instancePath ?? ''} ${describeShapeError(errors)}`),
  );
  await api.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'Tidemark control API',
        version,
        description: 'HTTP with JSON over the control socket of a node.',
      },
    },
  });
  api.setErrorHandler((error, request, reply) => {
    const refusal = refusalOf(error);
    if (refusal.bug)
      logger.error({ err: error, method: request.method, url: request.url }, 'control request failed');
    return reply.code(refusal.status).send(refusal.body);
  });
  api.setNotFoundHandler((request, reply) =>
    reply.code(404).send({
      code: 'not-found',
      message: `there is no ${request.method} ${shorten(request.url)} in this API`,
    }),
  );
  addGroupRoutes(api, node);
  addSnapshotRoutes(api, node);
  addLinkRoutes(api, node);
  addDeviceRoutes(api, node);
  const streams = new Set<ServerResponse>();
  addObservationRoutes(api, node, streams);
  return {
    api,
    endStreams: () => {
      for (const stream of streams) stream.end();
    },
  };
}

function shorten(url: string): string {
  return url.length > MAX_SHOWN_URL_LENGTH ? `${url.slice(0, MAX_SHOWN_URL_LENGTH)}…` : url;
}

function addGroupRoutes(api: Api, node: NodeControl): void {
  api.get(
    '/v1/groups',
    {
      schema: {
        summary: 'All groups',
        response: { 200: Type.Object({ groups: Type.Array(GroupStatus) }), ...ERRORS },
      },
    },
    async () => ({ groups: node.status().groups }),
  );
  api.post(
    '/v1/groups',
    {
      schema: {
        summary: 'Create a group and export its volumes',
        body: GroupRequest,
        response: { 201: GroupStatus, ...ERRORS },
      },
    },
    async (request, reply) => reply.code(201).send(await node.createGroup(request.body)),
  );
  api.get(
    '/v1/groups/:group',
    { schema: { summary: 'One group', params: GroupPath, response: { 200: GroupStatus, ...ERRORS } } },
    async (request) => node.groupStatus(request.params.group),
  );
  api.delete(
    '/v1/groups/:group',
    {
      schema: {
        summary: 'Delete a group that nobody uses',
        params: GroupPath,
        response: { 204: NOTHING, ...ERRORS },
      },
    },
    async (request, reply) => {
      await node.deleteGroup(request.params.group);
      return reply.code(204).send(null);
    },
  );
}

function addDeviceRoutes(api: Api, node: NodeControl): void {
  api.get(
    '/v1/devices',
    {
      schema: {
        summary: 'Attached kernel devices',
        response: { 200: Type.Object({ devices: Type.Array(DeviceView) }), ...ERRORS },
      },
    },
    async () => ({ devices: node.devices() }),
  );
  api.post(
    '/v1/devices',
    {
      schema: {
        summary: 'Attach a volume, or a snapshot of one, to a kernel device',
        body: AttachRequest,
        response: { 201: DeviceView, ...ERRORS },
      },
    },
    async (request, reply) => reply.code(201).send(await node.attach(request.body)),
  );
  api.delete(
    '/v1/devices/:name',
    {
      schema: {
        summary: 'Detach a device',
        params: DevicePath,
        querystring: ForceQuery,
        response: { 204: NOTHING, ...ERRORS },
      },
    },
    async (request, reply) => {
      await node.detach(`/dev/${request.params.name}`, request.query.force === 'true');
      return reply.code(204).send(null);
    },
  );
}

function addObservationRoutes(api: Api, node: NodeControl, streams: Set<ServerResponse>): void {
  const run = randomBytes(4).toString('hex');
  api.get(
    '/v1/status',
    { schema: { summary: 'The node and all that it has', response: { 200: NodeStatus, ...ERRORS } } },
    async () => node.status(),
  );
  api.get(
    '/v1/events',
    {
      schema: {
        summary: 'Events after `since`; a stream of them for Accept: text/event-stream',
        querystring: EventQuery,
        response: { 200: EventList, ...ERRORS },
      },
    },
    async (request, reply) => {
      const { since } = request.query;
      if (!request.headers.accept?.includes('text/event-stream')) {
        return { events: node.events.since(Number(since ?? 0)), lastId: node.events.lastId };
      }
      if (streams.size >= MAX_EVENT_STREAMS) {
        throw new EngineError(
          'unavailable',
          `${MAX_EVENT_STREAMS} event streams are open, which is the most: close one`,
        );
      }
      streams.add(reply.raw);
      const lastEventId = request.headers['last-event-id'];
      const start = streamStart(
        node.events,
        run,
        typeof lastEventId === 'string' ? lastEventId : undefined,
        since,
      );
      reply.hijack();
      reply.raw.on('close', () => {
        streams.delete(reply.raw);
      });
      streamEvents(node.events, run, start, reply.raw);
      return reply;
    },
  );
  api.get(
    '/metrics',
    { schema: { summary: 'Metrics for Prometheus', produces: ['text/plain'] } },
    async (_request, reply) => {
      const { contentType, text } = await node.metrics();
      return reply.type(contentType).send(text);
    },
  );
  api.get('/openapi.json', { schema: { summary: 'This description' } }, async () => api.swagger());
}
