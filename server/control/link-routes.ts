/** Routes for links, and for what a secondary applies. */
import { Type } from 'typebox';
import {
  LinkPath,
  LinkRequest,
  LinkSetRequest,
  LinkStatus,
  ReplicaSetRequest,
  ResyncRequest,
} from './link-schemas.ts';
import type { NodeControl } from './node-control.ts';
import { type Api, ERRORS, NOTHING } from './routes.ts';
import { GroupPath, GroupStatus } from './schemas.ts';

const LINKS = '/v1/groups/:group/links';
const LINK = `${LINKS}/:link`;

export function addLinkRoutes(api: Api, node: NodeControl): void {
  const { links } = node;
  api.get(
    LINKS,
    {
      schema: {
        summary: 'Links of a group',
        params: GroupPath,
        response: { 200: Type.Object({ links: Type.Array(LinkStatus) }), ...ERRORS },
      },
    },
    async (request) => ({ links: links.list(request.params.group) }),
  );
  api.post(
    LINKS,
    {
      schema: {
        summary: 'Replicate a group to another node',
        params: GroupPath,
        body: LinkRequest,
        response: { 201: LinkStatus, ...ERRORS },
      },
    },
    async (request, reply) => reply.code(201).send(await links.add(request.params.group, request.body)),
  );
  api.post(
    `${LINK}/set`,
    {
      schema: {
        summary: 'Change the settings of a link',
        params: LinkPath,
        body: LinkSetRequest,
        response: { 200: LinkStatus, ...ERRORS },
      },
    },
    (request) => links.set(request.params.group, request.params.link, request.body),
  );
  api.delete(
    LINK,
    {
      schema: {
        summary: 'Remove a link; the secondary keeps what it has',
        params: LinkPath,
        response: { 204: NOTHING, ...ERRORS },
      },
    },
    async (request, reply) => {
      await links.remove(request.params.group, request.params.link);
      return reply.code(204).send(null);
    },
  );
  api.post(
    `${LINK}/resync`,
    {
      schema: {
        summary: 'Have what the secondary lacks copied now',
        params: LinkPath,
        body: ResyncRequest,
        response: { 200: LinkStatus, ...ERRORS },
      },
    },
    (request) => links.resync(request.params.group, request.params.link, request.body.full ?? false),
  );
  addSteering(api, node);
}

function addSteering(api: Api, node: NodeControl): void {
  for (const what of ['pause', 'resume', 'detach'] as const) {
    api.post(
      `${LINK}/${what}`,
      {
        schema: {
          summary: STEERING[what],
          params: LinkPath,
          response: { 200: LinkStatus, ...ERRORS },
        },
      },
      (request) => node.links.steer(request.params.group, request.params.link, what),
    );
  }
  for (const what of ['freeze', 'thaw'] as const) {
    api.post(
      `/v1/groups/:group/${what}`,
      {
        schema: {
          summary: what === 'freeze' ? 'Keep a secondary from applying' : 'Let a secondary apply again',
          params: GroupPath,
          response: { 200: GroupStatus, ...ERRORS },
        },
      },
      async (request) => {
        const { group } = request.params;
        await node.links[what](group);
        return node.groupStatus(group);
      },
    );
  }
  api.post(
    '/v1/groups/:group/replica/set',
    {
      schema: {
        summary: 'Change how a secondary applies',
        params: GroupPath,
        body: ReplicaSetRequest,
        response: { 200: GroupStatus, ...ERRORS },
      },
    },
    async (request) => {
      const { group } = request.params;
      await node.links.setReplica(group, request.body);
      return node.groupStatus(group);
    },
  );
}

const STEERING = {
  pause: 'Stop sending: the log is kept up to the limit of the link, then regions are marked',
  resume: 'Go on sending',
  detach: 'Stop sending and keep no log: regions are marked',
} as const;
