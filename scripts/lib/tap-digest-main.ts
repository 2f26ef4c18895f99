/**
 * Usage: tap --reporter=tap | node dist/scripts/lib/tap-digest-main.js TOTALS.json
 *
 * Prints a digest of the TAP on standard input and writes tap's own totals as JSON to the named file. Ends with
 * status 1 when there are no totals or when they hold a failure.
 */
import { writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { TapDigest } from './tap-digest.ts';

const totalsPath = process.argv[2];
if (totalsPath === undefined) {
  console.error('usage: tap-digest-main.js TOTALS.json');
  process.exit(2);
}
const digest = new TapDigest((line) => console.log(line));
for await (const line of createInterface({ input: process.stdin })) digest.push(line);
digest.end();
if (digest.totals !== undefined) writeFileSync(totalsPath, JSON.stringify(digest.totals));
process.exitCode = digest.totals === undefined || digest.totals.fail > 0 ? 1 : 0;
