import type { LogRestart } from '../link/peer.ts';
import type { ControlEffects } from '../snapshot/control-effects.ts';

/**
 * The names of the primary's snapshots as of where a log begins anew: what was deleted meanwhile, or is of another image now, has none any more (rule S4),
 * and what was detached meanwhile is detached here, too. In memory; `giveBack` takes that back when it cannot be made durable, `tell` when it is.
 */
export function takeNames(
  effects: ControlEffects,
  named: LogRestart['snapshots'],
): { readonly giveBack: () => void; readonly tell: () => void } {
  const before = effects.named.filter((snapshot) => !snapshot.local);
  const old = before.map((snapshot) => ({
    snapshot,
    name: snapshot.name,
    recordedName: snapshot.recordedName,
    detaching: snapshot.kind === 'layer' && snapshot.detaching,
  }));
  const local = new Set(effects.named.filter(({ local }) => local).map(({ name }) => name));
  for (const snapshot of before) {
    const found = named.find(({ id }) => id === snapshot.id);
    // Under the same id there may be another image: one that was detached, and refreshed (rule K10).
    const isSame = found?.imageId === snapshot.imageId && !local.has(found.name);
    snapshot.name = isSame ? found.name : null;
    snapshot.recordedName = snapshot.name;
    if (isSame && found.detached && snapshot.kind === 'layer') snapshot.detaching = true;
  }
  const giveBack = (): void => {
    for (const { snapshot, name, recordedName, detaching } of old) {
      Object.assign(snapshot, { name, recordedName });
      if (snapshot.kind === 'layer') snapshot.detaching = detaching;
    }
  };
  const tell = (): void => {
    for (const { snapshot } of old) if (snapshot.name === null) effects.onGone(snapshot.id, undefined);
  };
  return { giveBack, tell };
}
