/** Lines kept of one test file; a file that prints more loses its oldest ones. */
const MAX_LINES_KEPT = 20_000;

export interface TapTotals {
  readonly total: number;
  readonly pass: number;
  readonly fail: number;
  readonly skip: number;
  readonly todo: number;
}

/** `# { total: 6, pass: 4, fail: 1 }` of tap 21; zero counts are left out there. Undefined for any other line. */
export function parseTotals(line: string): TapTotals | undefined {
  const body = /^# \{ (total: \d+(?:, [a-z]+: \d+)*) \}$/.exec(line)?.[1];
  if (body === undefined) return undefined;
  const counts = new Map(
    body.split(', ').map((pair): [string, number] => {
      const [name = '', count = '0'] = pair.split(': ');
      return [name, Number(count)];
    }),
  );
  const count = (name: string): number => counts.get(name) ?? 0;
  return {
    total: count('total'),
    pass: count('pass'),
    fail: count('fail'),
    skip: count('skip'),
    todo: count('todo'),
  };
}

/** Of the lines of a failed test: each `not ok` with the diagnosis below it, and the comments. */
export function failuresOf(lines: readonly string[]): string[] {
  const kept: string[] = [];
  let inDiagnosis = false;
  for (const line of lines) {
    if (/^\s*not ok /.test(line)) {
      kept.push(line);
    } else if (inDiagnosis || /^\s+---$/.test(line)) {
      const ofFailure: boolean = inDiagnosis || /^\s*not ok /.test(kept.at(-1) ?? '');
      inDiagnosis = ofFailure && !/^\s+\.\.\.$/.test(line);
      if (ofFailure) kept.push(line);
    } else if (/^\s*# (?!Subtest|time=)/.test(line)) {
      kept.push(line);
    }
  }
  return kept;
}

/**
 * Turns TAP into what a person wants of it: one line a test file as it ends, the failures of that file in full, and
 * whatever follows the tests (the coverage table). Tap prints a file's block either before its result, or after it
 * between braces; both are understood.
 */
export class TapDigest {
  totals: TapTotals | undefined;
  readonly #print: (line: string) => void;
  #block: string[] = [];
  #blockFailed = false;
  #inOwnDiagnosis = false;

  constructor(print: (line: string) => void) {
    this.#print = print;
  }

  push(line: string): void {
    if (this.totals !== undefined) {
      this.#print(line);
      return;
    }
    this.totals = parseTotals(line);
    const result = /^(not )?ok \d+ - .*?( \{)?$/.exec(line);
    if (result !== null) this.#fileEnded(line, result[1] !== undefined, result[2] !== undefined);
    else if (line === '}') this.#closeBlock();
    else if (/^\s/.test(line)) this.#keep(line);
    else if (/^(?:Bail out|# \{)/.test(line)) this.#print(line);
  }

  /** Prints what is still held when the input ends: the block of a file that never ended. */
  end(): void {
    for (const line of this.#block) this.#print(line);
    if (this.totals === undefined) this.#print('The tests ended without totals.');
  }

  #fileEnded(line: string, failed: boolean, blockFollows: boolean): void {
    this.#print(line);
    this.#blockFailed = failed;
    this.#inOwnDiagnosis = failed;
    if (!blockFollows) this.#closeBlock();
  }

  #closeBlock(): void {
    if (this.#blockFailed) for (const line of failuresOf(this.#block)) this.#print(line);
    this.#block = [];
  }

  #keep(line: string): void {
    if (this.#inOwnDiagnosis && /^ {2}\S/.test(line)) {
      this.#print(line);
      this.#inOwnDiagnosis = line !== '  ...';
      return;
    }
    this.#block.push(line);
    if (this.#block.length > MAX_LINES_KEPT) this.#block.shift();
  }
}
