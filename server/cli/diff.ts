import type { Command } from 'commander';
import type { ControlClient } from '../control/client.ts';
import { formatSize } from '../sizes.ts';
import { atSnapshotArgument, type ImageArgument, imageArgument } from './arguments.ts';
import { type NodeFlags, type Output, withNode, withNodeFlags } from './session.ts';

interface DiffFlags extends NodeFlags {
  readonly json?: boolean;
}

interface Extent {
  readonly offset: number;
  readonly length: number;
}

export function addDiff(program: Command, output: Output): void {
  const command = program
    .command('diff')
    .description('show which extents of a volume may differ since a snapshot, or between two')
    .argument('<GROUP/VOLUME@A>', 'the volume, at the older snapshot', imageArgument)
    .argument('[@B]', 'the later snapshot (default: the volume as it is)', atSnapshotArgument)
    .option('--json', 'as JSON');
  withNodeFlags(command).action((from: ImageArgument, to: string | undefined, flags: DiffFlags) =>
    withNode(flags, async (client) => {
      if (flags.json === true) await showJson(client, from, to, output);
      else await showText(client, from, to, output);
    }),
  );
}

/** Page by page, so that neither side ever holds all of a large difference. Extents that touch across pages are one. */
async function* changesOf(
  client: ControlClient,
  { group, volume, snapshot }: ImageArgument,
  to: string | undefined,
): AsyncGenerator<Extent, void, void> {
  let held: Extent | undefined;
  for (let offset: number | null = 0; offset !== null; ) {
    const page = await client.changes(group, volume, snapshot, to, offset);
    for (const extent of page.extents) {
      if (held !== undefined && held.offset + held.length === extent.offset) {
        held = { offset: held.offset, length: held.length + extent.length };
        continue;
      }
      if (held !== undefined) yield held;
      held = extent;
    }
    offset = page.next;
  }
  if (held !== undefined) yield held;
}

async function showText(
  client: ControlClient,
  from: ImageArgument,
  to: string | undefined,
  output: Output,
): Promise<void> {
  let bytes = 0;
  let count = 0;
  for await (const { offset, length } of changesOf(client, from, to)) {
    if (count === 0) output.line('OFFSET LENGTH');
    output.line(`${offset} ${length}`);
    bytes += length;
    count += 1;
  }
  output.line(`${count} extent${count === 1 ? '' : 's'}, ${bytes} bytes (${formatSize(bytes)})`);
}

async function showJson(
  client: ControlClient,
  from: ImageArgument,
  to: string | undefined,
  output: Output,
): Promise<void> {
  const changes = changesOf(client, from, to);
  // Nothing is written before the first answer: a refusal leaves standard output empty.
  let next = await changes.next();
  const { group, volume, snapshot } = from;
  const head = { export: `${group}/${volume}`, from: snapshot, to: to ?? null };
  output.raw(`${JSON.stringify(head).slice(0, -1)},"extents":[`);
  let bytes = 0;
  for (let separator = ''; next.done !== true; next = await changes.next(), separator = ',') {
    output.raw(`${separator}${JSON.stringify(next.value)}`);
    bytes += next.value.length;
  }
  output.line(`],"bytes":${bytes}}`);
}
