/**
 * `npm run mutants -- [--only TEXT] [--seed N] [--minutes M] [--rotate] [--keep]`: builds each mutant of the list and has the simulator look for it;
 * prints how many runs it took. Fails when one survives.
 *
 * A seed that is known to show it is tried first (mutants/seeds.json; `--keep` writes what was found there); one that has gone stale costs a run, and
 * the mutant is searched for. With `--rotate` it begins at a place that the current commit chooses and stops when the time is over,
 * so that each is looked for again and again without all taking their time every time.
 */
import { spawn, spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  linkSync,
  mkdirSync,
  readFileSync,
  rmSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import ts from 'typescript';
import { MUTANTS } from './mutants/list.ts';
import { byFile, type Edit, type Mutant, mutate } from './mutants/mutant.ts';

const MS_PER_MINUTE = 60_000;
const DEFAULT_SEED = 1;
/** As compiled: dist/simulation/test/simulation. */
const BUILT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const ROOT = dirname(dirname(BUILT));
const FOLDER = join(ROOT, 'dist', `mutants-${process.pid}`);
const SEEDS_FILE = join(ROOT, 'test', 'simulation', 'mutants', 'seeds.json');

function compile(text: string, file: string): string {
  const compilerOptions: ts.CompilerOptions = {
    target: ts.ScriptTarget.ES2023,
    module: ts.ModuleKind.ESNext,
    verbatimModuleSyntax: true,
    rewriteRelativeImportExtensions: true,
  };
  return ts.transpileModule(text, { compilerOptions, fileName: file }).outputText;
}

/** The text of each file that the edits change. Throws when one does not fit. */
function mutated(name: string, edits: readonly Edit[]): Map<string, string> {
  return new Map(
    [...byFile(edits)].map(([file, own]) => [
      file,
      mutate(name, own, readFileSync(join(ROOT, file), 'utf8')),
    ]),
  );
}

/** A copy of the compiled tree, with links for all that is the same. Returns its folder. */
function build(name: string, edits: readonly Edit[], folderName: string): string {
  const folder = join(FOLDER, folderName);
  mkdirSync(FOLDER, { recursive: true });
  cpSync(BUILT, folder, {
    recursive: true,
    filter: (from, to) => {
      if (!from.endsWith('.js')) return !from.endsWith('.map');
      linkSync(from, to);
      return false;
    },
  });
  for (const [file, text] of mutated(name, edits)) {
    const target = join(folder, file.replace(/\.ts$/, '.js'));
    if (!existsSync(target)) throw new Error(`mutant "${name}": ${file} is no part of what is simulated`);
    unlinkSync(target);
    writeFileSync(target, compile(text, file));
  }
  return folder;
}

interface Search {
  readonly folder: string;
  readonly mutant: Mutant;
  readonly seed: number;
  readonly runs: number;
  readonly untilMs: number;
}

/** How many runs it took until one showed a violation, and what was said of it. Undefined: none did. */
interface Found {
  readonly runs: number;
  readonly why: string;
}

function simulate({ folder, mutant, seed, runs, untilMs }: Search): Promise<Found | undefined> {
  const run = join(folder, 'test', 'simulation', 'run.js');
  const ops = mutant.ops === undefined ? [] : ['--ops', mutant.ops.join(',')];
  const prefer = mutant.prefer === undefined ? [] : ['--prefer', JSON.stringify(mutant.prefer)];
  const minutes = Math.min(2 ** 20, Math.max(0.01, (untilMs - Date.now()) / MS_PER_MINUTE));
  const bounds = ['--runs', String(runs), '--minutes', String(minutes), '--shrink', '0'];
  const which = mutant.cluster === true ? ['--cluster'] : [];
  const settings = ['--seed', String(seed), ...bounds, ...ops, ...prefer, ...which];
  const child = spawn(process.execPath, [run, ...settings], { stdio: ['ignore', 'pipe', 'inherit'] });
  let said = '';
  child.stdout.setEncoding('utf8');
  child.stdout.on('data', (text: string) => {
    said += text;
  });
  return new Promise((resolve, reject) => {
    child.on('close', (code) => {
      const after = /^after (\d+) runs/m.exec(said)?.[1];
      const why = /^VIOLATION of invariant (.*)$\n(.*)$/m.exec(said);
      if (code === 0) resolve(undefined);
      else if (after === undefined) reject(new Error(`mutant "${mutant.name}" does not run: ${said}`));
      else resolve({ runs: Number(after), why: `${why?.[1]}: ${why?.[2]?.trim().slice(0, 100)}` });
    });
  });
}

interface Hunt {
  /** Undefined: it was not found. */
  readonly runs: number | undefined;
  readonly seed: number;
  readonly why: string;
}

/** Looks for one mutant. What the engine does without the bug as well says nothing about the simulator: such a seed is passed over. */
class Hunter {
  readonly #mutant: Mutant;
  readonly #folder: string;
  readonly #sound: string;
  readonly #untilMs: number;

  constructor(mutant: Mutant, untilMs: number) {
    const setting = mutant.setting ?? [];
    this.#mutant = mutant;
    this.#untilMs = untilMs;
    this.#folder = build(mutant.name, [...setting, ...mutant.edits], 'mutant');
    this.#sound = setting.length === 0 ? BUILT : build(mutant.name, setting, 'sound');
  }

  #search(folder: string, seed: number, runs: number): Promise<Found | undefined> {
    return simulate({ folder, mutant: this.#mutant, seed, runs, untilMs: this.#untilMs });
  }

  async hunt(known: number | undefined, first: number): Promise<Hunt> {
    if (known !== undefined) {
      const found = await this.#search(this.#folder, known, 1);
      if (found !== undefined && (await this.#isItsOwn(known)))
        return { runs: 1, seed: known, why: found.why };
    }
    for (let done = 0; done < this.#mutant.maxRuns && Date.now() < this.#untilMs; ) {
      const found = await this.#search(this.#folder, first + done, this.#mutant.maxRuns - done);
      if (found === undefined) break;
      done += found.runs;
      const seed = first + done - 1;
      if (await this.#isItsOwn(seed)) return { runs: done, seed, why: found.why };
    }
    return { runs: undefined, seed: 0, why: '' };
  }

  async #isItsOwn(seed: number): Promise<boolean> {
    if ((await this.#search(this.#sound, seed, 1)) === undefined) return true;
    console.log(`seed ${seed} shows a violation without the mutant too`);
    return false;
  }
}

/** Why it is no bug of this source any more, if so. */
function whyUnfit({ name, edits, setting = [] }: Mutant): string | undefined {
  try {
    mutated(name, [...setting, ...edits]);
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

function readSeeds(): Record<string, number> {
  return JSON.parse(readFileSync(SEEDS_FILE, 'utf8')) as Record<string, number>;
}

function keepSeed(name: string, seed: number): void {
  const seeds = { ...readSeeds(), [name]: seed };
  const known = MUTANTS.filter((mutant) => seeds[mutant.name] !== undefined);
  const kept = Object.fromEntries(known.map((mutant) => [mutant.name, seeds[mutant.name]]));
  writeFileSync(SEEDS_FILE, `${JSON.stringify(kept, null, 2)}\n`);
}

function firstOfCommit(): number {
  const head = spawnSync('git', ['rev-parse', 'HEAD'], { cwd: ROOT, encoding: 'utf8' }).stdout;
  return Number.parseInt(head.slice(0, 8), 16) || 0;
}

async function main(): Promise<boolean> {
  const { values } = parseArgs({
    options: {
      only: { type: 'string' },
      seed: { type: 'string' },
      minutes: { type: 'string' },
      rotate: { type: 'boolean' },
      keep: { type: 'boolean' },
    },
  });
  const { only } = values;
  const chosen = MUTANTS.filter((one) => only === undefined || one.name.includes(only) || one.rule === only);
  if (chosen.length === 0) throw new Error(`no mutant and no rule is called ${only}`);
  const rotates = values.rotate === true;
  const untilMs = Date.now() + Number(values.minutes ?? 2 ** 20) * MS_PER_MINUTE;
  const first = rotates ? firstOfCommit() % chosen.length : 0;
  const seeds = readSeeds();
  let survived = 0;
  let caught = 0;
  for (const mutant of [...chosen.slice(first), ...chosen.slice(0, first)]) {
    if (Date.now() > untilMs) break;
    rmSync(FOLDER, { recursive: true, force: true });
    const unfit = whyUnfit(mutant);
    if (unfit !== undefined) {
      survived++;
      console.log(`${mutant.rule.padEnd(6)} ${unfit}`);
      continue;
    }
    const hunter = new Hunter(mutant, untilMs);
    const { runs, seed, why } = await hunter.hunt(seeds[mutant.name], Number(values.seed ?? DEFAULT_SEED));
    const outOfTime = runs === undefined && Date.now() > untilMs;
    const missed = outOfTime ? 'no time left' : `SURVIVED ${mutant.maxRuns} runs`;
    const what = runs === undefined ? missed : `${runs} runs (seed ${seed})`;
    console.log(`${mutant.rule.padEnd(6)} ${mutant.name}\n       ${what} ${why}`);
    if (runs !== undefined) {
      caught++;
      if (values.keep === true) keepSeed(mutant.name, seed);
    } else if (!outOfTime) survived++;
  }
  console.log(`${caught} of ${chosen.length} mutants caught, ${survived} survived`);
  return survived === 0 && caught > 0;
}

try {
  process.exitCode = (await main()) ? 0 : 1;
} finally {
  rmSync(FOLDER, { recursive: true, force: true });
}
