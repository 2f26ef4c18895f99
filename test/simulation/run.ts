/**
 * `npm run simulate -- [--seed N] [--runs N] [--steps N] [--minutes M] [--ops a,b] [--jobs N] [--shrink SECONDS] [--tally] [--verbose]`, or
 * `-- --plan FILE [--verbose]` for one that was kept. With `--cluster` it is a primary and its secondaries, else one node.
 *
 * Runs seeds N, N+1, … and stops at the first violation: prints its seed, what was drawn, and the shortest run found that shows it. With `--tally` it
 * goes on, and ends with a list of what was found, each kind once.
 */
import { fork } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { type AnyPlan, type Game, oneNode, severalNodes } from './game.ts';
import type { Outcome } from './run-plan.ts';
import { shrink } from './shrink.ts';

const MS_PER_MINUTE = 60_000;
/** Operations of a run at most, unless told otherwise. */
const DEFAULT_STEPS = 80;
const REPORT_MS = 30_000;
/** By how much of its text a violation is known again. */
const TALLY_CHARACTERS = 90;

interface Settings {
  readonly seed: number;
  readonly runs: number;
  readonly steps: number;
  readonly minutes: number;
  readonly jobs: number;
  readonly stride: number;
  readonly shrinkSeconds: number;
  readonly cluster: boolean;
  readonly operations: readonly string[];
  readonly prefer: object;
  readonly tally: boolean;
  readonly verbose: boolean;
  readonly plan: string | undefined;
}

function settings(): Settings {
  const { values } = parseArgs({
    options: {
      seed: { type: 'string' },
      runs: { type: 'string' },
      steps: { type: 'string' },
      minutes: { type: 'string' },
      jobs: { type: 'string' },
      stride: { type: 'string' },
      shrink: { type: 'string' },
      ops: { type: 'string' },
      prefer: { type: 'string' },
      cluster: { type: 'boolean' },
      plan: { type: 'string' },
      tally: { type: 'boolean' },
      verbose: { type: 'boolean' },
    },
  });
  const number = (text: string | undefined, otherwise: number): number => {
    const value = text === undefined ? otherwise : Number(text);
    if (Number.isFinite(value)) return value;
    throw new Error(`${text} is no number`);
  };
  const cluster = values.cluster ?? false;
  const { operations } = cluster ? severalNodes : oneNode;
  const asked = values.ops?.split(',');
  const unknown = asked?.find((name) => !operations.includes(name));
  if (unknown !== undefined)
    throw new Error(`there is no operation ${unknown}; there are ${operations.join(', ')}`);
  return {
    seed: number(values.seed, Math.floor(Math.random() * 2 ** 31)),
    runs: number(values.runs, values.minutes === undefined ? 1000 : 2 ** 40),
    steps: number(values.steps, DEFAULT_STEPS),
    minutes: number(values.minutes, 2 ** 20),
    jobs: number(values.jobs, 1),
    stride: number(values.stride, 1),
    shrinkSeconds: number(values.shrink, 60),
    cluster,
    operations: operations.filter((name) => asked?.includes(name) ?? true),
    prefer: JSON.parse(values.prefer ?? '{}') as object,
    tally: values.tally ?? false,
    verbose: values.verbose ?? false,
    plan: values.plan,
  };
}

function showOperations(plan: AnyPlan): string {
  return plan.operations.map((operation, index) => `  ${index}: ${JSON.stringify(operation)}`).join('\n');
}

async function showViolation<P extends AnyPlan>(
  game: Game<P>,
  plan: P,
  outcome: Outcome,
  options: Settings,
): Promise<void> {
  const { violation } = outcome;
  if (violation === undefined) return;
  const { operations: _, ...drawn } = plan;
  console.log(`\nVIOLATION of invariant ${violation.invariant}\n  ${violation.message}`);
  console.log(
    `seed ${plan.seed} (--seed ${plan.seed} --runs 1 --steps ${options.steps}${options.cluster ? ' --cluster' : ''}), drawn: ${JSON.stringify(drawn)}`,
  );
  console.log(showOperations(plan));
  if (options.shrinkSeconds <= 0) return;
  const shrunk = await shrink(game, plan, violation.invariant, options.shrinkSeconds * 1000);
  const last = await game.run(shrunk.plan, true);
  console.log(`\nthe shortest run found, after ${shrunk.runs} more:`);
  console.log(showOperations(shrunk.plan));
  console.log(last.trace.join('\n'));
  console.log(`${last.violation?.invariant}: ${last.violation?.message}`);
  console.log(`\nto keep as test/simulation/regressions/NAME.json:\n${JSON.stringify(shrunk.plan)}`);
}

/** Violations by kind: those that differ in numbers only are one. */
class Tally {
  count = 0;
  readonly #kinds = new Map<string, { seeds: number[]; message: string }>();

  add(seed: number, violation: NonNullable<Outcome['violation']>): void {
    this.count++;
    const message = `${violation.invariant}: ${violation.message}`;
    const kind = message.replaceAll(/[0-9a-f]{8}-[-0-9a-f]{27}|[0-9]+/g, 'N').slice(0, TALLY_CHARACTERS);
    const known = this.#kinds.get(kind);
    if (known === undefined) this.#kinds.set(kind, { seeds: [seed], message });
    else known.seeds.push(seed);
  }

  show(): void {
    for (const { seeds, message } of [...this.#kinds.values()].sort(
      (a, b) => b.seeds.length - a.seeds.length,
    ))
      console.log(`${seeds.length} times, seeds ${seeds.slice(0, 5).join(', ')}: ${message}`);
  }
}

/** Runs seeds until one fails or the time is over. Returns how many were run, and whether all held. */
async function runSeeds<P extends AnyPlan>(game: Game<P>, options: Settings): Promise<boolean> {
  const startedMs = Date.now();
  const untilMs = startedMs + options.minutes * MS_PER_MINUTE;
  let reportMs = startedMs + REPORT_MS;
  let steps = 0;
  let runs = 0;
  const tally = new Tally();
  const rate = (): string => `${((runs * 1000) / Math.max(1, Date.now() - startedMs)).toFixed(0)} runs/s`;
  for (; runs < options.runs && Date.now() < untilMs; runs++) {
    const plan = game.generate(
      options.seed + runs * options.stride,
      options.operations,
      options.steps,
      options.prefer,
    );
    const outcome = await game.run(plan, options.verbose);
    steps += outcome.steps;
    if (options.verbose) console.log(outcome.trace.join('\n'));
    if (outcome.violation !== undefined && options.tally) tally.add(plan.seed, outcome.violation);
    else if (outcome.violation !== undefined) {
      console.log(`after ${runs + 1} runs, ${rate()}`);
      await showViolation(game, plan, outcome, options);
      return false;
    }
    if (Date.now() < reportMs) continue;
    reportMs = Date.now() + REPORT_MS;
    console.log(`${runs + 1} runs, ${rate()}`);
  }
  if (tally.count > 0) {
    tally.show();
    console.log(`${runs} runs, ${tally.count} with a violation, ${rate()}`);
    return false;
  }
  console.log(
    `${runs} runs without a violation, ${rate()}, ${(steps / Math.max(1, runs)).toFixed(0)} steps a run`,
  );
  return true;
}

/** Every process takes every n-th seed; the first that finds something ends all. */
async function runJobs(options: Settings): Promise<boolean> {
  const share = Math.ceil(options.runs / options.jobs);
  const children = Array.from({ length: options.jobs }, (_, index) => {
    const own = [
      '--seed',
      String(options.seed + index),
      '--runs',
      String(share),
      '--stride',
      String(options.jobs),
    ];
    const same = ['--steps', String(options.steps), '--minutes', String(options.minutes)];
    const rest = ['--shrink', String(options.shrinkSeconds), '--ops', options.operations.join(',')];
    const prefer = ['--prefer', JSON.stringify(options.prefer)];
    const which = options.cluster ? ['--cluster'] : [];
    return fork(fileURLToPath(import.meta.url), [...own, ...same, ...rest, ...prefer, ...which]);
  });
  const ends = children.map(
    (child) =>
      new Promise<boolean>((resolve) => {
        child.on('exit', (code) => {
          if (code !== 0) for (const other of children) if (other !== child) other.kill();
          resolve(code === 0);
        });
      }),
  );
  return (await Promise.all(ends)).every((fine) => fine);
}

async function main(): Promise<boolean> {
  const options = settings();
  if (options.plan !== undefined) return await runKept(options.plan);
  console.log(`seeds from ${options.seed}, operations: ${options.operations.join(', ')}`);
  if (options.jobs > 1) return await runJobs(options);
  return options.cluster ? await runSeeds(severalNodes, options) : await runSeeds(oneNode, options);
}

async function runKept(file: string): Promise<boolean> {
  const plan = JSON.parse(readFileSync(file, 'utf8'));
  const outcome = await ('secondaries' in plan ? severalNodes : oneNode).run(plan, true);
  console.log(outcome.trace.join('\n'));
  const { violation } = outcome;
  console.log(violation === undefined ? 'no violation' : `${violation.invariant}: ${violation.message}`);
  return violation === undefined;
}

process.exitCode = (await main()) ? 0 : 1;
