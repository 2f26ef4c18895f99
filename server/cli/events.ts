import type { Command } from 'commander';
import type { EventView } from '../control/schemas.ts';
import { type NodeFlags, type Output, withNode, withNodeFlags } from './session.ts';

interface EventFlags extends NodeFlags {
  readonly follow?: boolean;
  readonly json?: boolean;
}

export function addEvents(program: Command, output: Output): void {
  const command = program
    .command('events')
    .description('show what happened on the node since it started')
    .option('--follow', 'go on with what comes, until interrupted')
    .option('--json', 'one JSON object a line');
  withNodeFlags(command).action(async (flags: EventFlags) => {
    const show = (event: EventView): void =>
      output.line(flags.json === true ? JSON.stringify(event) : formatEvent(event));
    await withNode(flags, async (client) => {
      if (flags.follow === true) {
        for await (const event of client.follow()) show(event);
      } else {
        const { events } = await client.events();
        for (const event of events) show(event);
      }
    });
  });
}

export function formatEvent(event: EventView): string {
  return `${event.time}  ${event.type.padEnd(18)}  ${event.message}`;
}
