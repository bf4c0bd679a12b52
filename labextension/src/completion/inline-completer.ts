/**
 * Accepting ghost text, as a whole or in parts, and dismissing it, in all of JupyterLab's inline completers.
 */
import type { IInlineCompleterFactory, IInlineCompletionItem } from '@jupyterlab/completer';
import { EditorSelection } from '@codemirror/state';

import {
  appendItem,
  inOneUndoStep,
  patchFactory,
  releaseKeys,
  removeItem,
  viewOf,
  type Completer,
  type Editor,
  type IDelta,
  type ISharedText
} from '../jupyterlab/patches';
import { missingImports, placeOfImports } from './imports';
import { matchesCursor, stillApplies } from './inline-items';
import type { Provider } from './provider';
import { nextLine, nextWord, type ICursorContext } from './suggestion';
import type { AcceptedPart, IInlineItem } from './types';

/** Our class for an editor with ghost text of ours, for the key bindings. */
const OWN_CLASS = 'jp-mod-sc2-ghost';

/** Where Escape dismisses the ghost text. With vim's keys it does more, and the ghost text vanishes anyway. */
const ESCAPE_CLASS = 'jp-mod-sc2-escape';

export class InlineCompleters {
  constructor(private _options: InlineCompleters.IOptions) {}

  /** Follows all inline completers that this factory will make. */
  follow(factory: IInlineCompleterFactory): void {
    patchFactory(factory, {
      onCreated: completer => {
        this._completers.add(completer);
        completer.disposed.connect(() => this._completers.delete(completer));
      },
      accept: completer => this._accept(completer, 'all'),
      onChanged: completer => this._refresh(completer),
      onTextChanged: ({ editor }, delta) => this._options.onTextChanged(editor ?? null, delta),
      onSelectionChanged: (completer, { start, end }) => {
        const { editor, model } = completer;
        if (start.line === end.line && start.column === end.column) {
          this._options.onCursorMoved(editor ?? null);
        }
        const own = this._options.provider.inlineItem(completer.current);
        if (own && !stillApplies(own, cursorContext(editor!, own))) {
          model!.reset();
        }
      }
    });
  }

  /** Accepts a part of the ghost text; false if there is none of ours. */
  accept(part: AcceptedPart): boolean {
    const completer = this._focused();
    return completer !== null && this._accept(completer, part);
  }

  /** Removes the ghost text; the cursor stays. */
  dismiss(): void {
    this._options.onDismissed();
    this._focused()?.model?.reset();
    this._options.provider.cancel();
  }

  /** Adds a candidate to the list that `first` is in. */
  add(item: IInlineCompletionItem, first: IInlineCompletionItem): void {
    appendItem(this._completers, this._options.provider, item, first);
  }

  /** Removes a candidate from the list that `first` is in, unless the user looks at it. */
  remove(item: IInlineCompletionItem, first: IInlineCompletionItem): void {
    removeItem(this._completers, item, first);
  }

  /** Gives the keys to whom they belong: us, another provider, or the editor where there is nothing to accept. */
  private _refresh(completer: Completer): void {
    const host = completer.editor?.host;
    if (!host) {
      return;
    }
    const { current } = completer;
    if (!current?.insertText) {
      releaseKeys(completer);
    }
    const own = current?.insertText ? this._options.provider.inlineItem(current) : undefined;
    host.classList.toggle(OWN_CLASS, own !== undefined);
    host.classList.toggle(ESCAPE_CLASS, own !== undefined && !host.querySelector('.cm-vimMode'));
    this._options.onShown(() => (own ? (completer.current?.insertText ?? '') : ''));
    this._options.onItemChanged(own, host, () => this._position(completer));
    this._options.onImportsChanged(own, host, () =>
      own && completer.editor && !completer.editor.isDisposed
        ? missingImports(own, cursorContext(completer.editor, own), own.item.insertText)
        : []
    );
  }

  /** Which of how many candidates of ours is shown, counted from 1; null where none is. */
  private _position({ current, model }: Completer): [number, number] | null {
    const { provider } = this._options;
    const items = (model?.completions?.items ?? []) as IInlineCompletionItem[];
    const own = items.filter(item => provider.inlineItem(item) !== undefined);
    const index = own.findIndex(item => item === current);
    return index < 0 ? null : [index + 1, own.length];
  }

  private _accept(completer: Completer, part: AcceptedPart): boolean {
    const { provider } = this._options;
    const own = provider.inlineItem(completer.current);
    const { model, editor } = completer;
    const view = viewOf(editor);
    if (!own || !model || !editor || !view) {
      return false;
    }
    const shown = own.item.insertText;
    const { state } = view;
    const context = cursorContext(editor, own);
    // Only text that is shown is inserted, and only where it belongs: never over or beside what was typed meanwhile.
    if (!shown || !matchesCursor(own, context)) {
      model.reset();
      return true;
    }
    const text = part === 'word' ? nextWord(shown) : part === 'line' ? nextLine(shown) : shown;
    const imports = missingImports(own, context, text);
    const cell = imports.length > 0 ? own.target.importCell() : null;
    const top = placeOfImports(linesBefore(context.prefix));
    const transaction = state.update(
      // First, so that it comes before text that is inserted at the same place.
      imports.length > 0 && !cell ? { changes: { from: top, insert: linesOf(imports) } } : {},
      {
        ...state.changeByRange(range =>
          range.empty
            ? {
                changes: { from: range.head, insert: text },
                range: EditorSelection.cursor(range.head + text.length)
              }
            : { range }
        ),
        userEvent: 'input.complete',
        scrollIntoView: true
      }
    );
    const remaining = shown.slice(text.length);
    const changed = transaction.newDoc.toString();
    const cut = transaction.newSelection.main.head;
    provider.keepRemainder(
      own,
      { cell: context.cell, prefix: changed.slice(0, cut), suffix: changed.slice(cut) },
      remaining
    );
    const source = editor.model.sharedModel;
    inOneUndoStep(cell ? [cell.model, source] : [source], () => {
      if (cell) {
        addImports(cell.model, imports);
      }
      view.dispatch(transaction);
    });
    if (!remaining) {
      model.reset();
    }
    this._options.onAccepted(own, part, text);
    if (cell?.wasRun) {
      this._options.onImportedAbove(imports);
    }
    return true;
  }

  /** The completer whose editor has the focus. */
  private _focused(): Completer | null {
    return [...this._completers].find(completer => completer.editor?.hasFocus()) ?? null;
  }

  private _completers = new Set<Completer>();
}

export namespace InlineCompleters {
  export interface IOptions {
    provider: Provider;

    /** Called after each change of the text in an editor, before JupyterLab makes a request for it. */
    onTextChanged(editor: Editor | null, delta: readonly IDelta[]): void;

    /** Called when the cursor has moved in an editor, by typing, too. */
    onCursorMoved(editor: Editor | null): void;

    /** Called when our ghost text appears, changes or goes; `read` returns the present text, "" for none. */
    onShown(read: () => string): void;

    /** Called then, too, with our record of the item that is shown, and the element of its editor. */
    onItemChanged(
      item: IInlineItem | undefined,
      host: HTMLElement,
      position: () => [number, number] | null
    ): void;

    /** Called then, too; `read` returns the imports that are added with all of the text. */
    onImportsChanged(
      item: IInlineItem | undefined,
      host: HTMLElement,
      read: () => readonly string[]
    ): void;

    onAccepted(item: IInlineItem, part: AcceptedPart, text: string): void;

    /** These imports were added to a cell above that has run before. */
    onImportedAbove(imports: readonly string[]): void;

    /** The user has dismissed the ghost text. */
    onDismissed(): void;
  }
}

/** The part of a text before the line that it ends in. */
function linesBefore(prefix: string): string {
  return prefix.slice(0, prefix.lastIndexOf('\n') + 1);
}

function linesOf(imports: readonly string[]): string {
  return imports.map(code => `${code}\n`).join('');
}

function addImports(cell: ISharedText, imports: readonly string[]): void {
  const source = cell.getSource();
  const place = placeOfImports(source);
  const isLast = place === source.length && !source.endsWith('\n');
  cell.updateSource(place, place, isLast ? `\n${imports.join('\n')}` : linesOf(imports));
}

/** The cursor and the text around it now, in the cell of an item. */
function cursorContext(editor: Editor, { context }: IInlineItem): ICursorContext {
  const source = editor.model.sharedModel.getSource();
  const head = editor.getOffsetAt(editor.getCursorPosition());
  return { cell: context.cell, prefix: source.slice(0, head), suffix: source.slice(head) };
}
