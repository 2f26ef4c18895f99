/** What a secondary makes of a primary that announces itself (rule K2). Pure: it looks, and decides. */
import { EngineError } from '../errors.ts';
import type { GroupRecord } from '../group-record.ts';
import { type Announcement, MAX_PATH, type PeerVolume, REPLICATION_PROTOCOL } from '../link/peer.ts';

/** Why the announcement is refused, or undefined. Nothing has been changed for it. */
export function refusalOf(record: GroupRecord, announced: Announcement): EngineError | undefined {
  const { replica, name } = record;
  if (announced.protocol !== REPLICATION_PROTOCOL) {
    const what = `the primary speaks version ${announced.protocol} of replication, and this node ${REPLICATION_PROTOCOL}: run versions of tidemark that go together`;
    return new EngineError('unsupported', what);
  }
  if (replica === null) {
    const what = `group ${name} is a primary here: only one made with --replica takes the writes of another`;
    return new EngineError('invalid', what);
  }
  if (announced.memberId === record.memberId)
    return new EngineError('invalid', `group ${name} here is the primary's own: name another node`);
  if (announced.path.includes(record.memberId)) {
    const what = `group ${name} here feeds that primary, so that it would go round in a loop: name another node`;
    return new EngineError('invalid', what);
  }
  if (announced.path.length >= MAX_PATH) {
    const what = `there are ${announced.path.length + 1} nodes above group ${name} here, and ${MAX_PATH} at most pass one on to another: link it to one that is higher up`;
    return new EngineError('invalid', what);
  }
  const { upstream } = replica;
  if (upstream !== null && upstream.memberId !== announced.memberId) {
    const what = `group ${name} here takes the writes of another primary, by its link ${upstream.linkName}: remove that link first, and this replica`;
    return new EngineError('in-use', what);
  }
  const unlike = differenceOf(record, announced);
  if (unlike !== undefined)
    return new EngineError(
      'invalid',
      `group ${name} here is of another shape: ${unlike}: create it as the primary's is`,
    );
  return upstream === null ? undefined : strangeOrigin(record, announced);
}

/** Records of the log name volumes by their place: so the order counts. */
function differenceOf(record: GroupRecord, announced: Announcement): string | undefined {
  if (record.regionBytes !== announced.regionBytes)
    return `its regions have ${record.regionBytes} bytes, the primary's ${announced.regionBytes}`;
  const show = (volumes: readonly PeerVolume[]) =>
    volumes.map((volume) => `${volume.name}:${volume.sizeBytes}`).join(', ');
  const [own, theirs] = [show(record.volumes), show(announced.volumes)];
  return own === theirs ? undefined : `it has the volumes ${own}, the primary ${theirs}, in that order`;
}

function strangeOrigin(record: GroupRecord, { origin, durableLsn }: Announcement): EngineError | undefined {
  const { name, generation, replica } = record;
  const todo = 'delete it here and create it anew to have it follow that primary';
  if (origin.groupId !== record.id)
    return new EngineError(
      'invalid',
      `group ${name} here is a replica of another group of that name: ${todo}`,
    );
  if (origin.generation.number !== generation.number || origin.generation.id !== generation.id) {
    const what = `the log of the primary is of generation ${origin.generation.number}, and that of group ${name} here of ${generation.number}: their histories differ: ${todo}`;
    return new EngineError('unavailable', what);
  }
  if (replica !== null && replica.horizonLsn > durableLsn) {
    const what = `group ${name} here has applied up to LSN ${replica.horizonLsn}, and the log of the primary ends at ${durableLsn}: they have diverged: ${todo}`;
    return new EngineError('unavailable', what);
  }
  return undefined;
}
