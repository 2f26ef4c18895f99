/** Looks for the shortest plan that still shows what was found. */
import type { AnyPlan, Game } from './game.ts';
import type { Outcome } from './run-plan.ts';

export interface Shrunk<P> {
  readonly plan: P;
  readonly runs: number;
}

/** The same thing went wrong, as far as one can tell. */
type Judge = (outcome: Outcome) => boolean;

class Shrinker<P extends AnyPlan> {
  plan: P;
  runs = 0;
  readonly #game: Game<P>;
  readonly #judge: Judge;
  readonly #untilMs: number;

  constructor(game: Game<P>, plan: P, judge: Judge, untilMs: number) {
    this.#game = game;
    this.plan = plan;
    this.#judge = judge;
    this.#untilMs = untilMs;
  }

  get over(): boolean {
    return Date.now() > this.#untilMs;
  }

  /** Takes the plan if it still fails, perhaps with other choices of the scheduler. */
  async try(plan: P, schedules: number): Promise<boolean> {
    for (let attempt = 0; attempt < schedules && !this.over; attempt++) {
      const one = attempt === 0 ? plan : { ...plan, schedule: plan.schedule + attempt };
      this.runs++;
      if (!this.#judge(await this.#game.run(one, false))) continue;
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
      for (const simpler of this.#game.simpler(operation)) {
        const operations = this.plan.operations.with(index, simpler);
        await this.try({ ...this.plan, operations }, 2);
      }
    }
  }

  async calmer(): Promise<void> {
    for (const calmer of this.#game.calmer(this.plan)) await this.try({ ...this.plan, ...calmer }, 4);
  }
}

/** `budgetMs`: how long it may look. The violation has to be of the same invariant. */
export async function shrink<P extends AnyPlan>(
  game: Game<P>,
  plan: P,
  invariant: string,
  budgetMs: number,
): Promise<Shrunk<P>> {
  const judge: Judge = (outcome) => outcome.violation?.invariant === invariant;
  const shrinker = new Shrinker(game, plan, judge, Date.now() + budgetMs);
  for (let before = Number.POSITIVE_INFINITY; shrinker.plan.operations.length < before && !shrinker.over; ) {
    before = shrinker.plan.operations.length;
    await shrinker.fewer(before > 30 ? 1 : 4);
    await shrinker.simpler();
  }
  await shrinker.calmer();
  return { plan: shrinker.plan, runs: shrinker.runs };
}
