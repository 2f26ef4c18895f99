/** Routes for snapshots, restores, changes and imports. */
import { Type } from 'typebox';
import type { NodeControl } from './node-control.ts';
import { type Api, ERRORS, NOTHING } from './routes.ts';
import { ForceQuery, GroupPath } from './schemas.ts';
import {
  ChangesPage,
  ChangesQuery,
  ImportRequest,
  OperationPath,
  OperationStatus,
  PlanQuery,
  RefreshRequest,
  RenameRequest,
  RestorePlanView,
  RestoreRequest,
  RestoreView,
  SnapshotPath,
  SnapshotRequest,
  SnapshotStatus,
  VolumePath,
} from './snapshot-schemas.ts';

const SNAPSHOTS = '/v1/groups/:group/snapshots';
const SNAPSHOT = `${SNAPSHOTS}/:snapshot`;
const VOLUME = '/v1/groups/:group/volumes/:volume';
const OPERATIONS = '/v1/groups/:group/operations';

export function addSnapshotRoutes(api: Api, { snapshots }: NodeControl): void {
  api.get(
    SNAPSHOTS,
    {
      schema: {
        summary: 'Snapshots of a group, oldest first',
        params: GroupPath,
        response: { 200: Type.Object({ snapshots: Type.Array(SnapshotStatus) }), ...ERRORS },
      },
    },
    async (request) => ({ snapshots: snapshots.list(request.params.group) }),
  );
  api.post(
    SNAPSHOTS,
    {
      schema: {
        summary: 'Take a snapshot of all volumes of a group at one point in time',
        params: GroupPath,
        body: SnapshotRequest,
        response: { 201: SnapshotStatus, ...ERRORS },
      },
    },
    async (request, reply) =>
      reply.code(201).send(await snapshots.create(request.params.group, request.body)),
  );
  api.delete(
    SNAPSHOT,
    {
      schema: {
        summary: 'Delete a snapshot',
        params: SnapshotPath,
        querystring: ForceQuery,
        response: { 204: NOTHING, ...ERRORS },
      },
    },
    async (request, reply) => {
      const { group, snapshot } = request.params;
      await snapshots.delete(group, snapshot, request.query.force === 'true');
      return reply.code(204).send(null);
    },
  );
  addSnapshotChangeRoutes(api, snapshots);
  addRestoreRoutes(api, snapshots);
  addVolumeRoutes(api, snapshots);
  addOperationRoutes(api, snapshots);
}

function addSnapshotChangeRoutes(api: Api, snapshots: NodeControl['snapshots']): void {
  api.post(
    `${SNAPSHOT}/rename`,
    {
      schema: {
        summary: 'Give a snapshot another name',
        params: SnapshotPath,
        body: RenameRequest,
        response: { 200: SnapshotStatus, ...ERRORS },
      },
    },
    (request) => snapshots.rename(request.params.group, request.params.snapshot, request.body.name),
  );
  api.post(
    `${SNAPSHOT}/refresh`,
    {
      schema: {
        summary: 'Move a snapshot to now',
        params: SnapshotPath,
        body: RefreshRequest,
        response: { 200: SnapshotStatus, ...ERRORS },
      },
    },
    (request) =>
      snapshots.refresh(request.params.group, request.params.snapshot, request.body.force ?? false),
  );
  api.post(
    `${SNAPSHOT}/detach`,
    {
      schema: {
        summary: 'Begin to make a full copy of a snapshot that needs its volume no longer',
        params: SnapshotPath,
        response: { 202: OperationStatus, ...ERRORS },
      },
    },
    async (request, reply) =>
      reply.code(202).send(await snapshots.detach(request.params.group, request.params.snapshot)),
  );
}

function addRestoreRoutes(api: Api, snapshots: NodeControl['snapshots']): void {
  api.get(
    `${SNAPSHOT}/restore-plan`,
    {
      schema: {
        summary: 'What a restore would move; changes nothing',
        params: SnapshotPath,
        querystring: PlanQuery,
        response: { 200: RestorePlanView, ...ERRORS },
      },
    },
    async (request) =>
      snapshots.planRestore(request.params.group, request.params.snapshot, request.query.volume),
  );
  api.post(
    `${SNAPSHOT}/restore`,
    {
      schema: {
        summary: 'Restore the group, or one volume of it; complete for every reader when it is answered',
        params: SnapshotPath,
        body: RestoreRequest,
        response: { 202: RestoreView, ...ERRORS },
      },
    },
    async (request, reply) => {
      const { group, snapshot } = request.params;
      return reply.code(202).send(await snapshots.restore(group, snapshot, request.body));
    },
  );
}

function addVolumeRoutes(api: Api, snapshots: NodeControl['snapshots']): void {
  api.get(
    `${VOLUME}/changes`,
    {
      schema: {
        summary: 'What may differ between a snapshot and a later one, or the volume as it is; page by page',
        params: VolumePath,
        querystring: ChangesQuery,
        response: { 200: ChangesPage, ...ERRORS },
      },
    },
    async (request) => snapshots.changes(request.params.group, request.params.volume, request.query),
  );
  api.post(
    `${VOLUME}/import`,
    {
      schema: {
        summary: 'Begin to write an image into a volume; only what differs is written',
        params: VolumePath,
        body: ImportRequest,
        response: { 202: OperationStatus, ...ERRORS },
      },
    },
    async (request, reply) => {
      const { group, volume } = request.params;
      return reply.code(202).send(await snapshots.import(group, volume, request.body));
    },
  );
}

function addOperationRoutes(api: Api, snapshots: NodeControl['snapshots']): void {
  api.get(
    OPERATIONS,
    {
      schema: {
        summary: 'Long work that is under way',
        params: GroupPath,
        response: { 200: Type.Object({ operations: Type.Array(OperationStatus) }), ...ERRORS },
      },
    },
    async (request) => ({ operations: snapshots.operations(request.params.group) }),
  );
  api.get(
    `${OPERATIONS}/:operation`,
    {
      schema: {
        summary: 'One operation: under way, or over',
        params: OperationPath,
        response: { 200: OperationStatus, ...ERRORS },
      },
    },
    async (request) => snapshots.operation(request.params.group, request.params.operation),
  );
}
