/** Looks for the shortest plan that still shows what was found. */
import type { Operation, Plan } from './plan.ts';
import { type Outcome, runPlan } from './run-plan.ts';

export interface Shrunk {
  readonly plan: Plan;
  readonly runs: number;
}

/** The same thing went wrong, as far as one can tell. */
type Judge = (outcome: Outcome) => boolean;

class Shrinker {
  plan: Plan;
  runs = 0;
  readonly #judge: Judge;
  readonly #untilMs: number;

  constructor(plan: Plan, judge: Judge, untilMs: number) {
    this.plan = plan;
    this.#judge = judge;
    this.#untilMs = untilMs;
  }

  get over(): boolean {
    return Date.now() > this.#untilMs;
  }

  /** Takes the plan if it still fails, perhaps with other choices of the scheduler. */
  async try(plan: Plan, schedules: number): Promise<boolean> {
    for (let attempt = 0; attempt < schedules && !this.over; attempt++) {
      const one = attempt === 0 ? plan : { ...plan, schedule: plan.schedule + attempt };
      this.runs++;
      if (!this.#judge(await runPlan(one))) continue;
      this.plan = one;
      return true;
    }
    return false;
  }

  async #without(start: number, count: number, schedules: number): Promise<boolean> {
    const { operations } = this.plan;
    const fewer = [...operations.slice(0, start), ...operations.slice(start + count)];
    return await this.try({ ...this.plan, operations: fewer }, schedules);
  }

  /** Leaves out operations, many at once and then few. */
  async fewer(schedules: number): Promise<void> {
    for (let size = Math.ceil(this.plan.operations.length / 2); size >= 1; size = Math.floor(size / 2)) {
      for (let start = this.plan.operations.length - size; start >= 0 && !this.over; start -= size)
        await this.#without(start, size, schedules);
    }
  }

  /** Makes each operation simpler. */
  async simpler(): Promise<void> {
    for (let index = 0; index < this.plan.operations.length && !this.over; index++) {
      const operation = this.plan.operations[index];
      if (operation === undefined) continue;
      for (const simpler of simplifications(operation)) {
        const operations = this.plan.operations.with(index, simpler);
        await this.try({ ...this.plan, operations }, 2);
      }
    }
  }

  async calmer(): Promise<void> {
    const { traits } = this.plan;
    await this.try({ ...this.plan, traits: { ...traits, tryRefusal: 0 } }, 4);
    await this.try({ ...this.plan, traits: { ...this.plan.traits, tearing: 0 } }, 4);
    await this.try({ ...this.plan, firstLsn: 0 }, 4);
    await this.try({ ...this.plan, copyBytesPerSecond: 0 }, 4);
    await this.try({ ...this.plan, memoryBytes: 256 * 1024 * 1024 }, 4);
  }
}

function* simplifications(operation: Operation): Generator<Operation> {
  if (operation.steps > 0) yield { ...operation, steps: 0 };
  if ('cells' in operation && operation.cells > 1) yield { ...operation, cells: 1 };
  if (operation.op === 'crash' && operation.again.length > 0) yield { ...operation, again: [] };
  if (operation.op === 'restore' && operation.volume === null) yield { ...operation, volume: 0 };
}

/** `budgetMs`: how long it may look. The violation has to be of the same invariant. */
export async function shrink(plan: Plan, invariant: string, budgetMs: number): Promise<Shrunk> {
  const judge: Judge = (outcome) => outcome.violation?.invariant === invariant;
  const shrinker = new Shrinker(plan, judge, Date.now() + budgetMs);
  for (let before = Number.POSITIVE_INFINITY; shrinker.plan.operations.length < before && !shrinker.over; ) {
    before = shrinker.plan.operations.length;
    await shrinker.fewer(before > 30 ? 1 : 4);
    await shrinker.simpler();
  }
  await shrinker.calmer();
  return { plan: shrinker.plan, runs: shrinker.runs };
}
