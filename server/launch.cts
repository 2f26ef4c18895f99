#!/usr/bin/env node
/**
 * The command as it is installed. Not an ES module on purpose: loading one starts Node's thread pool, and its size counts
 * only before that. Disk syncs sit in the pool for milliseconds each; with the default of four, four volumes that sync
 * would hold up every read that has to wait for a disk.
 */
process.env['UV_THREADPOOL_SIZE'] ??= '8';
void import('./main.ts');
