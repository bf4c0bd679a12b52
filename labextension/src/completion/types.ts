/**
 * What the modules of this folder hand to one another: where to complete, what is shown there, what became of it.
 */
import type { IInlineCompletionItem } from '@jupyterlab/completer';

import type { ISharedText } from '../jupyterlab/patches';
import type { KernelClient } from '../kernel/client';
import type { ICell } from '../kernel/protocol';
import type { Mode } from './policy';
import type { StreamingSuggestion } from './streaming-suggestion';
import type { ICursorContext } from './suggestion';

/** The cell that the user is typing in, and the kernel that completes it. */
export interface ICompletionTarget {
  client: Pick<KernelClient, 'complete' | 'accepted'>;

  /**
   * Identifies the cell among all open documents, which `cellId` alone does not where a notebook was copied, and the
   * model, because a suggestion of one model is not what another one would suggest.
   */
  key: string;
  cellId: string;

  /** The kernel's language. */
  language: string;

  /** The path of a text file; absent for a notebook and a console. */
  path?: string;

  /** The ending of files in the kernel's language, if the kernel names one. */
  fileExtension?: string;

  /** The languages in which the user wants no ghost text. */
  disabledLanguages: readonly string[];

  /** What the settings, the notebook and the cell allow. */
  mode: Mode;

  /** All cells of the notebook as they are now. */
  cells(): ICell[];

  /** The text of the cell as it is now. */
  source(): string;

  /** Whether the cursor is at this offset, in UTF-16 units. */
  isAt(offset: number): boolean;

  /** Whether imports are shown before they are added with a suggestion. */
  showsImports: boolean;

  /** The first cell above that consists of imports; null if there is none, or it is locked. */
  importCell(): IImportCell | null;
}

/** A cell to which an import may be added. */
export interface IImportCell {
  model: ISharedText;

  /** Whether it has run, so that it has to be run again. */
  wasRun: boolean;
}

/** What became of the newest request. */
export interface IOutcome {
  kind: 'idle' | 'generating' | 'shown' | 'nothing' | 'timed out' | 'error';

  /** The kernel's code for why there is no text, or the message of the error. */
  reason?: string;
}

/** One candidate as it was handed to JupyterLab. */
export interface IInlineItem {
  target: ICompletionTarget;
  context: ICursorContext;
  suggestion: StreamingSuggestion;

  /** Which candidate of the suggestion this is. */
  index: number;

  /** JupyterLab's object, whose `insertText` JupyterLab shortens while the user types it. */
  item: IInlineCompletionItem;

  /** The text that JupyterLab was given last. */
  text: string;
}

/** How much of a suggestion the user accepted at once. */
export type AcceptedPart = 'all' | 'word' | 'line';
