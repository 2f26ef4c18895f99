/**
 * `npm run mutants -- [--only TEXT] [--seed N] [--minutes M] [--rotate]`: builds each mutant of the list and has the simulator look for it; prints how
 * many runs it took. Fails when one survives. With `--rotate` it begins at a place that the current commit chooses and stops when the
 * time is over, so that each is looked for again and again without all taking their time every time.
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
import { MUTANTS, type Mutant } from './mutant-list.ts';
import { mutate } from './mutate.ts';

const MS_PER_MINUTE = 60_000;
const DEFAULT_SEED = 1;
/** As compiled: dist/simulation/test/simulation. */
const BUILT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const ROOT = dirname(dirname(BUILT));
const FOLDER = join(ROOT, 'dist', 'mutants');

function compile(text: string, file: string): string {
  const compilerOptions: ts.CompilerOptions = {
    target: ts.ScriptTarget.ES2023,
    module: ts.ModuleKind.ESNext,
    verbatimModuleSyntax: true,
    rewriteRelativeImportExtensions: true,
  };
  return ts.transpileModule(text, { compilerOptions, fileName: file }).outputText;
}

/** A copy of the compiled tree, with links for all that is the same. Returns its folder. */
function build(mutant: Mutant, index: number): string {
  const text = mutate(mutant, readFileSync(join(ROOT, mutant.file), 'utf8'));
  const folder = join(FOLDER, String(index));
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(FOLDER, { recursive: true });
  cpSync(BUILT, folder, {
    recursive: true,
    filter: (from, to) => {
      if (!from.endsWith('.js')) return !from.endsWith('.map');
      linkSync(from, to);
      return false;
    },
  });
  const target = join(folder, mutant.file.replace(/\.ts$/, '.js'));
  if (!existsSync(target))
    throw new Error(`mutant "${mutant.name}": ${mutant.file} is no part of what is simulated`);
  unlinkSync(target);
  writeFileSync(target, compile(text, mutant.file));
  return folder;
}

interface Hunt {
  /** Undefined: it survived. */
  readonly runs: number | undefined;
  readonly said: string;
}

/** Runs seeds until one shows a violation; says which run that was. */
function simulate(folder: string, mutant: Mutant, seed: number, runs: number): Promise<Hunt> {
  const run = join(folder, 'test', 'simulation', 'run.js');
  const ops = mutant.ops === undefined ? [] : ['--ops', mutant.ops.join(',')];
  const settings = ['--seed', String(seed), '--runs', String(runs), '--shrink', '0', ...ops];
  const child = spawn(process.execPath, [run, ...settings], { stdio: ['ignore', 'pipe', 'inherit'] });
  let said = '';
  child.stdout.setEncoding('utf8');
  child.stdout.on('data', (text: string) => {
    said += text;
  });
  return new Promise((resolve) => {
    child.on('close', (code) => {
      const after = /^after (\d+) runs/m.exec(said)?.[1];
      resolve({ runs: code === 0 || after === undefined ? undefined : Number(after), said });
    });
  });
}

/** What the engine does without the bug as well says nothing about the simulator: such a seed is passed over, and told. */
async function hunt(mutant: Mutant, folder: string, seed: number): Promise<Hunt> {
  for (let done = 0; done < mutant.maxRuns; ) {
    const found = await simulate(folder, mutant, seed + done, mutant.maxRuns - done);
    if (found.runs === undefined) return found;
    done += found.runs;
    const sound = await simulate(BUILT, mutant, seed + done - 1, 1);
    if (sound.runs === undefined) return { runs: done, said: found.said };
    console.log(`seed ${seed + done - 1} shows a violation without the mutant too`);
  }
  return { runs: undefined, said: '' };
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
    },
  });
  const { only } = values;
  const chosen = MUTANTS.filter((one) => only === undefined || one.name.includes(only) || one.rule === only);
  // A list that does not fit the source is told before any time is spent.
  for (const mutant of chosen) mutate(mutant, readFileSync(join(ROOT, mutant.file), 'utf8'));
  const untilMs = Date.now() + Number(values.minutes ?? Number.POSITIVE_INFINITY) * MS_PER_MINUTE;
  const first = values.rotate === true ? firstOfCommit() % Math.max(1, chosen.length) : 0;
  const order = [...chosen.slice(first), ...chosen.slice(0, first)];
  let survived = 0;
  let hunted = 0;
  for (const [index, mutant] of order.entries()) {
    if (Date.now() > untilMs) break;
    hunted++;
    const { runs, said } = await hunt(mutant, build(mutant, index), Number(values.seed ?? DEFAULT_SEED));
    const what = runs === undefined ? `SURVIVED ${mutant.maxRuns} runs` : `${runs} runs`;
    const why = /^VIOLATION of (invariant .*)$/m.exec(said)?.[1] ?? '';
    console.log(`${mutant.rule.padEnd(8)} ${mutant.name.padEnd(60)} ${what} ${why}`);
    if (runs !== undefined) continue;
    survived++;
    console.log(said);
  }
  rmSync(FOLDER, { recursive: true, force: true });
  console.log(`${hunted} of ${chosen.length} mutants hunted, ${survived} survived`);
  return survived === 0 && (hunted > 0 || chosen.length === 0);
}

process.exitCode = (await main()) ? 0 : 1;
