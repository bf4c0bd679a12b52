/**
 * Asks where JupyterLab asks nobody: after Enter, and in an empty cell below others.
 */
import type { CodeEditor } from '@jupyterlab/codeeditor';

import { worthAsking, type AfterEnter } from './policy';
import { isAtLineStart, type IPlace } from './suggestion';
import type { Provider } from './provider';

/** How long a new empty cell is left alone: one who walks through cells wants nothing in them. */
const ARRIVAL_MS = 400;

export class Enter {
  constructor(private _options: Enter.IOptions) {}

  /** The text in an editor has changed; called before JupyterLab asks, if it does. */
  typed(editor: CodeEditor.IEditor, delta: readonly { insert?: unknown }[]): void {
    const { provider } = this._options;
    const { fetched } = provider;
    setTimeout(() => {
      if (provider.fetched !== fetched || editor.isDisposed || !editor.hasFocus()) {
        return; // JupyterLab has asked by itself.
      }
      const place = this._placeAtLineStart(editor);
      const entered = delta.some(
        ({ insert }) => typeof insert === 'string' && /^\n[ \t]*$/.test(insert)
      );
      // What was typed of a ghost is no reason for it to go.
      if (
        place &&
        (provider.knows(place) || (entered && worthAsking(this._options.policy(), place.prefix)))
      ) {
        this._ask();
      }
    }, 0);
  }

  /** The cursor has come into another cell. `isBelowCode` tells whether there is code above. */
  arrived(editor: CodeEditor.IEditor, isBelowCode: boolean): void {
    if (this._options.policy() === 'off' || !isBelowCode) {
      return;
    }
    const { provider } = this._options;
    const { fetched } = provider;
    setTimeout(() => {
      if (
        provider.fetched === fetched &&
        !editor.isDisposed &&
        editor.hasFocus() &&
        editor.model.sharedModel.getSource() === ''
      ) {
        this._ask();
      }
    }, ARRIVAL_MS);
  }

  private _placeAtLineStart(editor: CodeEditor.IEditor): IPlace | null {
    const source = editor.model.sharedModel.getSource();
    const offset = editor.getOffsetAt(editor.getCursorPosition());
    const [prefix, suffix] = [source.slice(0, offset), source.slice(offset)];
    const cell = this._options.keyOf(editor, source);
    const isEnd = suffix.split('\n', 1)[0].trim() === '';
    return cell !== null && isEnd && isAtLineStart(prefix) ? { cell, prefix, suffix } : null;
  }

  private _ask(): void {
    this._options.provider.automatically(() => this._options.invoke());
  }
}

export namespace Enter {
  export interface IOptions {
    provider: Provider;

    /** When to ask, in the document in front. */
    policy(): AfterEnter;

    /** What the provider calls the cell in this editor; null if none of ours is there. */
    keyOf(editor: CodeEditor.IEditor, source: string): string | null;

    /** Makes JupyterLab ask for ghost text where the cursor is. */
    invoke(): void;
  }
}
