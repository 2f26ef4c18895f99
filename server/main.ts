#!/usr/bin/env node
import { runCli } from './cli/program.ts';

// A reader that has seen enough (`tidemark events | head`) is no error.
process.stdout.on('error', () => process.exit(0));

process.exit(await runCli(process.argv.slice(2)));
