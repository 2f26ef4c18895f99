/** What the kernel says of a process under measurement. */
import { readFile } from 'node:fs/promises';

/** Of the fields that the kernel counts time in: `getconf CLK_TCK`, which is 100 on every Linux that Node runs on. */
const TICKS_PER_SECOND = 100;
/** Fields behind the name of the program, which is in brackets and may have anything in it; see proc(5). */
const USER_FIELD = 11;
const SYSTEM_FIELD = 12;

/** CPU time of a process so far, all its threads, in its own code and in the kernel for it. */
export async function cpuSeconds(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const ticks = Number(fields[USER_FIELD]) + Number(fields[SYSTEM_FIELD]);
  if (!Number.isFinite(ticks)) throw new Error(`/proc/${pid}/stat has no times`);
  return ticks / TICKS_PER_SECOND;
}
