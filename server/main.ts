#!/usr/bin/env node
import { DONE, REFUSED } from './cli/exit-status.ts';
import { runCli } from './cli/program.ts';

process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  // A reader that has seen enough (`tidemark events | head`) is no error.
  if (error.code === 'EPIPE') process.exit(DONE);
  process.stderr.write(`tidemark: cannot write the answer to standard output: ${error.message}\n`);
  process.exit(REFUSED);
});

const status = await runCli(process.argv.slice(2));
// Whether the last of the answer could be written is told later than it was written.
process.stdout.write('', () => setImmediate(() => process.exit(status)));
