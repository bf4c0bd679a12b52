/**
 * Requests ghost text where JupyterLab does not: after Enter, and in an empty cell below others.
 */
import type { CodeEditor } from '@jupyterlab/codeeditor';

import { shouldTriggerAfterEnter, type AfterEnter } from './policy';
import type { IAfterEnter } from '../kernel/languages';
import type { Provider } from './provider';
import { isAtLineStart, type ICursorContext } from './suggestion';

/** How long to wait in an empty cell: a user who moves through cells wants no ghost text in each of them. */
const EMPTY_CELL_DELAY_MS = 400;

export class NewlineTrigger {
  constructor(private _options: NewlineTrigger.IOptions) {}

  /** The text in an editor has changed; called before JupyterLab requests anything for the change. */
  onTextChanged(editor: CodeEditor.IEditor, delta: readonly { insert?: unknown }[]): void {
    const { provider } = this._options;
    const { fetchCount } = provider;
    setTimeout(() => {
      if (provider.fetchCount !== fetchCount || editor.isDisposed || !editor.hasFocus()) {
        return; // JupyterLab has made a request itself.
      }
      const context = this._contextAtLineStart(editor);
      const isEnter = delta.some(
        ({ insert }) => typeof insert === 'string' && /^\n[ \t]*$/.test(insert)
      );
      // A suggestion must not vanish because the user typed its line break.
      if (context && (provider.hasSuggestion(context) || (isEnter && this._isWanted(context)))) {
        this._request();
      }
    }, 0);
  }

  /** The cursor has moved to another cell. `isBelowCode` tells whether there is code above. */
  onCellEntered(editor: CodeEditor.IEditor, isBelowCode: boolean): void {
    if (this._options.policy() === 'off' || !isBelowCode) {
      return;
    }
    const { provider } = this._options;
    const { fetchCount } = provider;
    setTimeout(() => {
      if (
        provider.fetchCount === fetchCount &&
        !editor.isDisposed &&
        editor.hasFocus() &&
        editor.model.sharedModel.getSource() === ''
      ) {
        this._request();
      }
    }, EMPTY_CELL_DELAY_MS);
  }

  private _isWanted(context: ICursorContext): boolean {
    const { policy, provider, rules } = this._options;
    return (
      (policy() !== 'off' && provider.followsAccepted(context)) ||
      shouldTriggerAfterEnter(policy(), context.prefix, rules(context.prefix))
    );
  }

  private _contextAtLineStart(editor: CodeEditor.IEditor): ICursorContext | null {
    const source = editor.model.sharedModel.getSource();
    const offset = editor.getOffsetAt(editor.getCursorPosition());
    const [prefix, suffix] = [source.slice(0, offset), source.slice(offset)];
    const cell = this._options.targetKey(editor, source);
    const isLineEnd = suffix.split('\n', 1)[0].trim() === '';
    return cell !== null && isLineEnd && isAtLineStart(prefix) ? { cell, prefix, suffix } : null;
  }

  private _request(): void {
    this._options.provider.invokeAutomatically(() => this._options.invoke());
  }
}

export namespace NewlineTrigger {
  export interface IOptions {
    provider: Provider;

    /** When to complete a new line, in the document in front. */
    policy(): AfterEnter;

    /** After which lines a new line is completed, in this cell of the document in front. */
    rules(source: string): IAfterEnter | undefined;

    /** The key of the completion target in this editor; null if it is not completed automatically. */
    targetKey(editor: CodeEditor.IEditor, source: string): string | null;

    /** Makes JupyterLab request ghost text at the cursor. */
    invoke(): void;
  }
}
