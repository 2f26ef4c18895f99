import type { BlockDevice } from '../engine/block-device.ts';
import type { ExportInfo, MetaContext } from '../protocol/session.ts';
import type { ImageOfGroup, SelectedContext } from './contexts.ts';

/** What the connection of a session needs of the export that it is open on. */
export interface OpenedExport extends ExportInfo {
  readonly groupName: string;
  readonly device: BlockDevice;
  /** Of a volume, or of one as a snapshot has it. */
  readonly image: ImageOfGroup | undefined;
  /** `name`, or what has become of it. */
  readonly presentName: string;
  /** It was opened by a kernel device of this node. */
  readonly forKernelDevice: boolean;
  /** Of the export of a link: another node is the client. */
  readonly peer: PeerSide | undefined;
  /** From the contexts that were negotiated to what they mean. */
  contextsOf(negotiated: readonly MetaContext[]): SelectedContext[];
}

export interface PeerSide {
  /** Name of the link, once it is known. */
  readonly link: string | undefined;
  /** The transmission phase begins. `close` ends the connection at once. */
  opened(close: (reason: string) => void): void;
  /** The connection is gone. */
  closed(reason: string): void;
}
