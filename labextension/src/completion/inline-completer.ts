/**
 * Accepting ghost text, whole or in parts, and dismissing it; and JupyterLab's inline completers, mended.
 *
 * JupyterLab tells nobody that something was accepted, knows no parts, and in some corners takes the Tab key
 * with nothing to insert, or inserts over what was typed. So each inline completer is followed from its making.
 */
import type { IInlineCompleterFactory, IInlineCompletionItem } from '@jupyterlab/completer';
import { EditorSelection } from '@codemirror/state';
import type { EditorView } from '@codemirror/view';
import { Signal } from '@lumino/signaling';

import { matchesCursor, stillApplies } from './inline-items';
import type { Provider } from './provider';
import { nextLine, nextWord, type ICursorContext } from './suggestion';
import type { AcceptedPart, IInlineItem } from './types';

type Completer = ReturnType<IInlineCompleterFactory['factory']>;
type Model = NonNullable<Completer['model']>;
type Item = NonNullable<Completer['current']>;

/** The class that JupyterLab gives an editor with ghost text of anybody's, and ours, for the key bindings. */
const ACTIVE = 'jp-mod-inline-completer-active';
const OURS = 'jp-mod-sc2-ghost';

/** Where Escape is for us; with vim's keys it has more to do, and the ghost text goes by itself. */
const ESCAPE = 'jp-mod-sc2-escape';

/** Ghost text that is there, spacers excluded, which only keep the cell from jumping. */
const VISIBLE = '.jp-GhostText:not(.jp-GhostText-lineSpacer):not(.jp-GhostText-letterSpacer)';

export class InlineCompleters {
  constructor(private _options: InlineCompleters.IOptions) {}

  /** Follows all inline completers that this factory will make. */
  mend(factory: IInlineCompleterFactory): void {
    const make = factory.factory.bind(factory);
    factory.factory = options => this._follow(make(options));
  }

  /** Accepts a part of what is shown; false if nothing of ours is. */
  accept(part: AcceptedPart): boolean {
    const completer = this._active();
    return completer !== null && this._accept(completer, part);
  }

  /** Takes the ghost text away; the cursor stays. */
  dismiss(): void {
    this._active()?.model?.reset();
    this._options.provider.cancel();
  }

  /** Adds a candidate to the list in which `first` stands. */
  add(item: IInlineCompletionItem, first: IInlineCompletionItem): void {
    const model = this._modelOf(first);
    if (model) {
      const added = item as Item;
      added.provider = this._options.provider;
      added.stream = new Signal(added) as Item['stream'];
      model.appendCompletions({ items: [added] });
      void this._stream(added);
    }
  }

  /** Takes a candidate out of the list in which `first` stands, unless it is the one that is looked at. */
  remove(item: IInlineCompletionItem, first: IInlineCompletionItem): void {
    const model = this._modelOf(first);
    const items = model?.completions?.items as IInlineCompletionItem[] | undefined;
    const index = items?.indexOf(item) ?? -1;
    const isShown = [...this._completers].some(completer => completer.current === item);
    if (items && index > 0 && !isShown) {
      items.splice(index, 1);
      model!.appendCompletions({ items: [] }); // draws the counter anew
    }
  }

  private _follow(completer: Completer): Completer {
    this._completers.add(completer);
    completer.disposed.connect(() => this._completers.delete(completer));
    const accept = completer.accept.bind(completer);
    completer.accept = () => {
      if (!this._accept(completer, 'all')) {
        accept();
      }
    };
    const cycle = completer.cycle.bind(completer);
    completer.cycle = direction => {
      cycle(direction);
      this._refresh(completer);
    };
    if (completer.model) {
      this._followModel(completer, completer.model);
    }
    return completer;
  }

  private _followModel(completer: Completer, model: Model): void {
    const append = model.appendCompletions.bind(model);
    // The first provider to answer may have had nothing or an error, and then JupyterLab drops what comes later.
    model.appendCompletions = reply =>
      model.completions?.items ? append(reply) : model.setCompletions(reply);
    const change = model.handleTextChange.bind(model);
    model.handleTextChange = source => {
      change(source);
      this._options.onTextChanged(completer.editor ?? null, source.sourceChange ?? []);
    };
    const select = model.handleSelectionChange.bind(model);
    model.handleSelectionChange = range => {
      select(range);
      if (range.start.line === range.end.line && range.start.column === range.end.column) {
        this._options.onCursorMoved(completer.editor ?? null);
      }
      const own = this._options.provider.inlineItem(completer.current);
      if (own && !stillApplies(own, cursorContext(completer.editor!, own))) {
        model.reset(); // The cursor has gone elsewhere, and JupyterLab would take the text along.
      }
    };
    model.suggestionsChanged.connect(() => this._refresh(completer));
    model.filterTextChanged.connect(() => {
      this._refresh(completer);
      // JupyterLab draws, and takes the keys again, when CodeMirror's update is over.
      setTimeout(() => this._refresh(completer), 0);
    });
  }

  /** Leaves the keys to the editor where there is nothing to accept, and knows whether it is ours. */
  private _refresh(completer: Completer): void {
    const host = completer.editor?.host;
    if (!host) {
      return;
    }
    const item = completer.current;
    const text = item?.insertText ?? '';
    if (!text) {
      host.classList.remove(ACTIVE);
      const items = completer.model?.completions?.items;
      if (items?.length === 0 && host.querySelector(VISIBLE)) {
        completer.model!.reset();
      }
    }
    const own = text ? this._options.provider.inlineItem(item as Item) : undefined;
    host.classList.toggle(OURS, own !== undefined);
    host.classList.toggle(ESCAPE, own !== undefined && !host.querySelector('.cm-vimMode'));
    this._options.onShown(() => (own ? (completer.current?.insertText ?? '') : ''));
    this._options.onItemChanged(own, host);
  }

  private _accept(completer: Completer, part: AcceptedPart): boolean {
    const { provider } = this._options;
    const own = provider.inlineItem(completer.current);
    const { model, editor } = completer;
    const view = (editor as unknown as { editor?: EditorView } | null)?.editor;
    if (!own || !model || !editor || !view) {
      return false;
    }
    const shown = own.item.insertText;
    const { state } = view;
    const context = cursorContext(editor, own);
    // What is shown is inserted, and only where it belongs: never over or beside what was typed meanwhile.
    if (!shown || !matchesCursor(own, context)) {
      model.reset();
      return true;
    }
    const text = part === 'word' ? nextWord(shown) : part === 'line' ? nextLine(shown) : shown;
    const transaction = state.update({
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
    });
    const rest = shown.slice(text.length);
    const changed = transaction.newDoc.toString();
    const cut = transaction.newSelection.main.head;
    provider.keepRemainder(
      own,
      { cell: context.cell, prefix: changed.slice(0, cut), suffix: changed.slice(cut) },
      rest
    );
    // One step of undo, however quickly one typed before and after.
    const undo = (editor.model.sharedModel as unknown as IUndoable).undoManager;
    undo?.stopCapturing();
    view.dispatch(transaction);
    undo?.stopCapturing();
    if (!rest) {
      model.reset();
    }
    this._options.onAccepted(own, part, text);
    return true;
  }

  /** What JupyterLab does with the items that a fetch answered, for one that came later. */
  private async _stream(item: Item): Promise<void> {
    const token = item.token;
    if (!item.isIncomplete || !token) {
      return;
    }
    const stream = item.stream as unknown as Signal<Item, number>;
    item.token = undefined;
    item.streaming = true;
    for await (const { response } of this._options.provider.stream(token)) {
      item.lastStreamed = response.insertText.substring(item.insertText.length);
      item.insertText = response.insertText;
      stream.emit(STREAMED);
    }
    item.isIncomplete = false;
    item.lastStreamed = undefined;
    item.streaming = false;
    stream.emit(STREAMED_ALL);
  }

  /** The completer whose editor the user is in. */
  private _active(): Completer | null {
    return [...this._completers].find(completer => completer.editor?.hasFocus()) ?? null;
  }

  private _modelOf(item: IInlineCompletionItem): Model | null {
    const found = [...this._completers].find(completer =>
      (completer.model?.completions?.items as IInlineCompletionItem[] | undefined)?.includes(item)
    );
    return found?.model ?? null;
  }

  private _completers = new Set<Completer>();
}

export namespace InlineCompleters {
  export interface IOptions {
    provider: Provider;

    /** Called after each change of the text in a followed editor, before JupyterLab asks. */
    onTextChanged(editor: Completer['editor'] | null, delta: readonly IDelta[]): void;

    /** Called when the cursor has moved in a followed editor, by typing, too. */
    onCursorMoved(editor: Completer['editor'] | null): void;

    /** Called when our ghost text comes, changes or goes; `read` tells what there is, "" for none. */
    onShown(read: () => string): void;

    /** Called as well, with what stands behind the ghost text, and the element of its editor. */
    onItemChanged(item: IInlineItem | undefined, host: HTMLElement): void;

    onAccepted(item: IInlineItem, part: AcceptedPart, text: string): void;
  }

  export interface IDelta {
    insert?: unknown;
  }
}

/** Where the cursor is now, in the cell of an offer. */
function cursorContext(
  editor: NonNullable<Completer['editor']>,
  { context }: IInlineItem
): ICursorContext {
  const source = editor.model.sharedModel.getSource();
  const head = editor.getOffsetAt(editor.getCursorPosition());
  return { cell: context.cell, prefix: source.slice(0, head), suffix: source.slice(head) };
}

/** What JupyterLab's shared models have and their interface leaves out. */
interface IUndoable {
  undoManager?: { stopCapturing(): void };
}

/** CompletionHandler.StraemEvent; the enum itself would pull in the whole of JupyterLab. */
const STREAMED = 1;
const STREAMED_ALL = 2;
