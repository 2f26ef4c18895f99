/** Small files and folder entries that survive a power cut. */
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';

/** Makes the entries of a folder (made, renamed, removed) durable. */
export async function syncFolder(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Replaces a file as a whole: after a crash it has the old content or the new. On failure the old one stays. */
export async function replaceFile(path: string, content: string): Promise<void> {
  const draft = `${path}.new`;
  let handle: FileHandle | undefined;
  try {
    handle = await open(draft, 'w', 0o600);
    await handle.writeFile(content);
    await handle.sync();
    await handle.close();
    handle = undefined;
    await rename(draft, path);
  } catch (error) {
    await handle?.close().catch(() => {});
    await rm(draft, { force: true }).catch(() => {});
    throw error;
  }
  await syncFolder(dirname(path));
}
