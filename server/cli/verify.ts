import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import { EngineError } from '../../engine/errors.ts';
import { type ControlClient, ControlError } from '../control/client.ts';
import type { VerificationStatus } from '../control/verify-schemas.ts';
import { formatSize } from '../sizes.ts';
import { groupArgument, linkNameArgument, sizeArgument } from './arguments.ts';
import { chosen } from './resync.ts';
import { type NodeFlags, type Output, withNode, withNodeFlags } from './session.ts';

/** Between two looks at how far it is. */
const PERIOD_MS = 250;
/** Runs that are printed of a volume; `--json` has more. */
const MAX_PRINTED_RUNS = 20;
/** ANSI: to the start of the line, and the rest of it cleared. */
const CLEAR_LINE = '\r\u001b[K';

interface VerifyFlags extends NodeFlags {
  readonly link?: string;
  readonly mark?: boolean;
  readonly rate?: number;
  readonly cancel?: boolean;
  readonly json?: boolean;
}

export function addVerify(program: Command, output: Output): void {
  const command = program
    .command('verify')
    .description('compare a group with its secondaries, by checksums, while all are in use')
    .argument('<group>', 'a group of this node', groupArgument)
    .option('--link <name>', 'only this one (default: all, one after the other)', linkNameArgument)
    .option('--mark', 'what differs is copied to the secondary, by a resync')
    .option('--rate <size>', 'content read a second on each side at most (default: no limit)', sizeArgument)
    .option('--cancel', 'end the comparison under way')
    .option('--json', 'as JSON');
  withNodeFlags(command).action((group: string, flags: VerifyFlags) =>
    withNode(flags, async (client) => {
      const links = chosen(await client.links(group), group, flags.link);
      if (flags.cancel === true) {
        for (const { name } of links) await client.cancelVerify(group, name);
        return;
      }
      const found: VerificationStatus[] = [];
      const refusals: ControlError[] = [];
      // One link that cannot be verified now is no reason to leave the others.
      for (const { name } of links)
        await verified(client, group, name, flags, output).then(
          (status) => found.push(status),
          (error: unknown) => {
            if (!(error instanceof ControlError)) throw error;
            refusals.push(error);
          },
        );
      if (flags.json === true) output.line(JSON.stringify({ verifications: found }, null, 2));
      const [refusal] = refusals;
      if (refusal !== undefined) throw refusal;
      refuseUnlike(found);
    }),
  );
}

/** Compares, and prints what was found. ^C ends it on the node as well. Rejects when it could not begin. */
async function verified(
  client: ControlClient,
  group: string,
  link: string,
  flags: VerifyFlags,
  output: Output,
): Promise<VerificationStatus> {
  let status = await client.verifyLink(group, link, {
    ...(flags.mark === true ? { mark: true } : {}),
    ...(flags.rate === undefined ? {} : { rateBytesPerSecond: flags.rate }),
  });
  const { id } = status;
  const cancel = (): void => void client.cancelVerify(group, link).catch(() => undefined);
  process.once('SIGINT', cancel);
  try {
    const progress = new Progress(output, flags.json !== true);
    while (status.state === 'running') {
      await sleep(PERIOD_MS);
      status = await client.verification(group, link);
      if (status.id !== id) throw new EngineError('unavailable', `link ${link} is verified by somebody else`);
      if (status.state === 'running') progress.show(status);
    }
    progress.clear();
  } finally {
    process.off('SIGINT', cancel);
  }
  if (flags.json !== true) for (const line of formatVerification(status)) output.line(line);
  return status;
}

/** How far it is, for people, or each new reason why it does not go on. */
class Progress {
  readonly #output: Output;
  readonly #isShown: boolean;
  #waitedFor: string | null = null;

  constructor(output: Output, isShown: boolean) {
    this.#output = output;
    this.#isShown = isShown;
  }

  show(status: VerificationStatus): void {
    if (!this.#isShown) return;
    if (this.#output.isTerminal) this.#output.raw(`${CLEAR_LINE}${formatProgress(status)}`);
    else if (status.waitsFor !== null && status.waitsFor !== this.#waitedFor)
      this.#output.line(formatProgress(status));
    this.#waitedFor = status.waitsFor;
  }

  clear(): void {
    if (this.#isShown && this.#output.isTerminal) this.#output.raw(CLEAR_LINE);
  }
}

function formatProgress({ link, done, total, waitsFor }: VerificationStatus): string {
  return `link ${link}: ${done}/${total} regions${waitsFor === null ? '' : `, waits for: ${waitsFor}`}`;
}

/** What was found, a line for the link, and one for each volume that differs. */
export function formatVerification(status: VerificationStatus): string[] {
  const { link, lsn, volumes, regionsDiffering, marked, checksumBytes, error } = status;
  const compared = volumes.reduce((sum, volume) => sum + volume.regionsCompared, 0);
  const what = regionsDiffering === 0 ? 'no difference' : `${regionsDiffering} regions differ`;
  const how = `${compared} regions compared at LSN ${lsn ?? '-'}, ${formatSize(checksumBytes)} of checksums`;
  const mended = marked ? '; they are marked, and copied now' : '';
  const lines = [`link ${link}: ${what}${error === null ? '' : ' so far'}; ${how}${mended}`];
  for (const { name, runs, regionsDiffering: count } of volumes) {
    if (count === 0) continue;
    const shown = runs.slice(0, MAX_PRINTED_RUNS).map((run) => formatRun(run.region, run.count));
    const more = runs.length > MAX_PRINTED_RUNS ? ', …' : '';
    lines.push(`volume ${name}: ${count} regions differ: ${shown.join(', ')}${more}`);
  }
  return lines;
}

function formatRun(region: number, count: number): string {
  return count === 1 ? `${region}` : `${region}-${region + count - 1}`;
}

/** Throws what ended one early, or that something differs and was left so. */
function refuseUnlike(found: readonly VerificationStatus[]): void {
  for (const { link, error } of found)
    if (error !== null) throw new ControlError(error.code, 0, `link ${link}: ${error.message}`);
  const unlike = found.filter(({ regionsDiffering, marked }) => regionsDiffering > 0 && !marked);
  if (unlike.length === 0) return;
  const names = unlike.map(({ link }) => link).join(', ');
  throw new EngineError('corrupt', `what link ${names} leads to differs: verify --mark copies what does`);
}
