/** Links and replicas, as the control API asks for them. */
import { turnstile } from '../engine/disk/turnstile.ts';
import { EngineError } from '../engine/errors.ts';
import { checkName } from '../engine/names.ts';
import type { LinkRequest, LinkSetRequest, LinkStatus, ReplicaSetRequest } from './control/link-schemas.ts';
import type { LinkAdministration } from './control/node-control.ts';
import type { VerificationStatus, VerifyRequest } from './control/verify-schemas.ts';
import type { GroupControl } from './group-control.ts';
import { parseSecret } from './group-secrets.ts';
import type { LinkControl } from './link-control.ts';
import { linkStatusOf, verificationStatusOf } from './link-status.ts';
import { parseUri } from './uris.ts';

export interface LinkServiceParts {
  /** Throws `not-found`, `unavailable`. */
  readonly requireGroup: (name: string) => GroupControl;
  /** Throws when the node is shutting down. */
  readonly checkRunning: () => void;
  readonly secrets: LinkSecrets;
}

/** Where secrets of links are kept. */
export interface LinkSecrets {
  read(group: string, link: string): Promise<Buffer | undefined>;
  write(group: string, link: string, secret: Buffer): Promise<void>;
  remove(group: string, link: string): Promise<void>;
}

export class LinkService implements LinkAdministration {
  readonly #parts: LinkServiceParts;
  /** By group: a link and its secret change together, one change at a time. */
  readonly #turns = new WeakMap<LinkControl, <T>(change: () => Promise<T>) => Promise<T>>();

  constructor(parts: LinkServiceParts) {
    this.#parts = parts;
  }

  list(groupName: string): LinkStatus[] {
    return (this.#parts.requireGroup(groupName).links?.views() ?? []).map(linkStatusOf);
  }

  async add(groupName: string, request: LinkRequest): Promise<LinkStatus> {
    const group = this.#groupToChange(groupName);
    const links = linksOf(group);
    return await this.#inTurn(links, async () => {
      const name = request.name ?? freeName(links);
      checkName('link', name);
      if (links.views().some((view) => view.name === name))
        throw new EngineError(
          'exists',
          `group ${group.name} has a link ${name} already: choose another name`,
        );
      const { secret: text, ...asked } = request;
      const secret = text === undefined ? undefined : parseSecret('the request', text);
      checkUri(request.uri, secret !== undefined);
      await this.#withSecret(group.name, name, secret, () => links.add({ ...asked, name }));
      return viewOf(links, group, name);
    });
  }

  async set(groupName: string, name: string, request: LinkSetRequest): Promise<LinkStatus> {
    const { group, links } = this.#linkToChange(groupName, name);
    return await this.#inTurn(links, async () => {
      const { secret: text, ...changes } = request;
      const secret = text === undefined ? undefined : parseSecret('the request', text);
      if (changes.uri !== undefined) {
        const known = secret ?? (await this.#parts.secrets.read(group.name, name));
        checkUri(changes.uri, known !== undefined);
      }
      await this.#withSecret(group.name, name, secret, async () => {
        if (Object.keys(changes).length > 0) await links.set(name, changes);
      });
      return viewOf(links, group, name);
    });
  }

  async remove(groupName: string, name: string): Promise<void> {
    const { group, links } = this.#linkToChange(groupName, name);
    await this.#inTurn(links, async () => {
      await links.remove(name);
      await this.#parts.secrets.remove(group.name, name);
    });
  }

  /** The secret comes first, because the link connects at once; where the change is refused, it is as before. */
  async #withSecret(
    group: string,
    link: string,
    secret: Buffer | undefined,
    change: () => Promise<unknown>,
  ): Promise<void> {
    const { secrets } = this.#parts;
    const before = secret && (await secrets.read(group, link).catch(() => undefined));
    if (secret !== undefined) await secrets.write(group, link, secret);
    try {
      await change();
    } catch (error) {
      if (secret !== undefined) {
        const undone =
          before === undefined ? secrets.remove(group, link) : secrets.write(group, link, before);
        await undone.catch(() => undefined);
      }
      throw error;
    }
  }

  #inTurn<T>(links: LinkControl, change: () => Promise<T>): Promise<T> {
    let turns = this.#turns.get(links);
    if (turns === undefined) {
      turns = turnstile(1);
      this.#turns.set(links, turns);
    }
    return turns(change);
  }

  async steer(groupName: string, name: string, what: 'pause' | 'resume' | 'detach'): Promise<LinkStatus> {
    const { group, links } = this.#linkToChange(groupName, name);
    await links[what](name);
    return viewOf(links, group, name);
  }

  async resync(groupName: string, name: string, full: boolean): Promise<LinkStatus> {
    const { group, links } = this.#linkToChange(groupName, name);
    await links.resync(name, { full });
    return viewOf(links, group, name);
  }

  async verify(groupName: string, name: string, request: VerifyRequest): Promise<VerificationStatus> {
    const { links } = this.#linkToChange(groupName, name);
    return verificationStatusOf(name, (await links.verify(name, request)).view);
  }

  verification(groupName: string, name: string): VerificationStatus {
    const group = this.#parts.requireGroup(groupName);
    return verificationStatusOf(name, linksOf(group).verification(name).view);
  }

  cancelVerify(groupName: string, name: string): VerificationStatus {
    const { links } = this.#linkToChange(groupName, name);
    const verification = links.verification(name);
    verification.cancel();
    return verificationStatusOf(name, verification.view);
  }

  async freeze(groupName: string): Promise<void> {
    await replicaOf(this.#groupToChange(groupName)).freeze();
  }

  async thaw(groupName: string): Promise<void> {
    await replicaOf(this.#groupToChange(groupName)).thaw();
  }

  async setReplica(groupName: string, { applyDelaySeconds }: ReplicaSetRequest): Promise<void> {
    await replicaOf(this.#groupToChange(groupName)).setApplyDelay(applyDelaySeconds);
  }

  #groupToChange(name: string): GroupControl {
    this.#parts.checkRunning();
    return this.#parts.requireGroup(name);
  }

  #linkToChange(groupName: string, name: string): { group: GroupControl; links: LinkControl } {
    const group = this.#groupToChange(groupName);
    const links = linksOf(group);
    viewOf(links, group, name);
    return { group, links };
  }
}

function linksOf(group: GroupControl): LinkControl {
  if (group.links !== undefined) return group.links;
  throw new EngineError('unsupported', `group ${group.name} is a ${group.role} and has no links of its own`);
}

function replicaOf(group: GroupControl): NonNullable<GroupControl['replica']> {
  if (group.replica !== undefined) return group.replica;
  throw new EngineError(
    'invalid',
    `group ${group.name} is a primary here, and applies its own writes: do that where it is a secondary`,
  );
}

function viewOf(links: LinkControl, group: GroupControl, name: string): LinkStatus {
  const view = links.views().find((each) => each.name === name);
  if (view !== undefined) return linkStatusOf(view);
  throw new EngineError('not-found', `group ${group.name} has no link ${JSON.stringify(name)}`);
}

function freeName(links: LinkControl): string {
  const taken = new Set(links.views().map(({ name }) => name));
  let number = 1;
  while (taken.has(`link-${number}`)) number += 1;
  return `link-${number}`;
}

/** What can be seen of a URI without connecting. Throws `invalid`, `unsupported`. */
function checkUri(text: string, hasSecret: boolean): void {
  const uri = parseUri(text);
  if (uri.tls)
    throw new EngineError('unsupported', `${text}: links over TLS are not supported; use nbd: or nbd+unix:`);
  if (uri.exportName !== '') checkName('group', uri.exportName);
  if (uri.address.kind === 'tcp' && !hasSecret)
    throw new EngineError(
      'invalid',
      `${text}: over TCP a link proves the secret of the group there: give it with --secret-file (DIR/groups/GROUP/secret of that node)`,
    );
}
