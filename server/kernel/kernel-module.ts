/** Whether the running kernel has a module: loaded, built in, or waiting in /lib/modules. */
import { readFile, stat } from 'node:fs/promises';
import { release } from 'node:os';
import { join } from 'node:path';
import type { KernelPaths } from './device-state.ts';

export type ModuleState =
  | { readonly kind: 'loaded' }
  | { readonly kind: 'built-in' }
  | { readonly kind: 'loadable' }
  | { readonly kind: 'absent'; readonly release: string };

/** Where `modprobe` looks, and what for: `kernel/drivers/block/nbd.ko`, perhaps compressed, one a line. */
export async function findModule(
  paths: KernelPaths,
  name: string,
  modulesRoot = '/lib/modules',
): Promise<ModuleState> {
  const folder = join(modulesRoot, release());
  const pattern = new RegExp(`/${name}\\.ko(\\.(xz|zst|gz))?(:|$)`, 'm');
  if (await lists(join(folder, 'modules.builtin'), pattern)) return { kind: 'built-in' };
  if (await isFolder(join(paths.sys, 'module', name))) return { kind: 'loaded' };
  if (await lists(join(folder, 'modules.dep'), pattern)) return { kind: 'loadable' };
  return { kind: 'absent', release: release() };
}

/** A parameter of a loaded module, as text; undefined when there is no such module or parameter. */
export async function loadedModuleParameter(
  paths: KernelPaths,
  name: string,
  parameter: string,
): Promise<string | undefined> {
  try {
    return (await readFile(join(paths.sys, 'module', name, 'parameters', parameter), 'utf8')).trim();
  } catch {
    return undefined;
  }
}

async function lists(path: string, pattern: RegExp): Promise<boolean> {
  try {
    return pattern.test(await readFile(path, 'utf8'));
  } catch {
    return false;
  }
}

async function isFolder(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch {
    return false;
  }
}
