/** Compares the two sides of a link while everything else goes on: where no disk was tampered with, nothing may differ. */
import { Violation } from '../image.ts';
import type { Cluster } from './cluster.ts';

/** Resolves when it has begun, or was refused. */
export async function beginVerify(cluster: Cluster, pick: number): Promise<void> {
  const { life } = cluster.primary;
  const { links } = cluster.group ?? {};
  const views = links?.views() ?? [];
  const link = views[pick % Math.max(1, views.length)];
  if (links === undefined || link === undefined) return;
  const verification = await links.verify(link.name);
  if (life !== cluster.primary.life) return;
  const { id } = verification;
  cluster.note(() => `link ${link.name} is verified`);
  cluster.verifications.add(id);
  // That of a process that died is never heard of again.
  void verification.ended.then(() => {
    if (life !== cluster.primary.life) return;
    cluster.verifications.delete(id);
    const { error, regionsDiffering, volumes, lsn } = verification.view;
    const compared = volumes.map(({ regionsCompared }) => regionsCompared).join(' ');
    cluster.note(
      () => `link ${link.name}: ${compared} regions compared at ${lsn}${error ? `: ${error.message}` : ''}`,
    );
    if (regionsDiffering === 0) return;
    const which = volumes.flatMap(({ name, runs }) =>
      runs.map(({ first, end }) => `${name} ${first}-${end}`),
    );
    const what = `link ${link.name} is told to differ at ${lsn} in ${which.join(', ')}, and nothing was damaged`;
    cluster.report(new Violation('5 (verify)', what));
  });
}
