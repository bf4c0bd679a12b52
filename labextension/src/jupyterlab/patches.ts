/**
 * What this extension changes in JupyterLab's inline completers, and what it uses of them that no interface promises.
 *
 * Everything here is written for JupyterLab 4.4 to 4.6. Each part says what JupyterLab does, why that is not enough, and
 * what JupyterLab would have to offer to make the part unnecessary; then it can be deleted. All types are JupyterLab's
 * public ones, so the compiler notices a member that is renamed.
 *
 * Outside of this file only kernel/kernel-comm.ts rests on such members: it chooses a comm's channel
 * (`commsOverSubshells`, `subshellStarted`) and sends comm messages on the control channel.
 */
import type {
  IInlineCompleterFactory,
  IInlineCompletionItem,
  IInlineCompletionProvider
} from '@jupyterlab/completer';
import type { EditorView } from '@codemirror/view';
import { Signal } from '@lumino/signaling';

/** The widget that shows ghost text in one panel, and moves from cell to cell with the cursor. */
export type Completer = ReturnType<IInlineCompleterFactory['factory']>;
export type Editor = NonNullable<Completer['editor']>;
type Model = NonNullable<Completer['model']>;
type Item = NonNullable<Completer['current']>;
type Range = Parameters<Model['handleSelectionChange']>[0];

/** A provider whose items may come in parts. */
type StreamingProvider = IInlineCompletionProvider &
  Required<Pick<IInlineCompletionProvider, 'stream'>>;

export interface IHooks {
  /** Called for each new inline completer. */
  onCreated(completer: Completer): void;

  /** Accepts the current item; false if JupyterLab is to do it. */
  accept(completer: Completer): boolean;

  /** Called when another item, other text or none is shown. */
  onChanged(completer: Completer): void;

  /** Called after the text has changed, before JupyterLab makes a request for the change. */
  onTextChanged(completer: Completer, delta: readonly IDelta[]): void;

  /** Called after the cursor has moved or a selection has changed, by typing, too. */
  onSelectionChanged(completer: Completer, range: Range): void;
}

export interface IDelta {
  insert?: unknown;
}

/**
 * Patch 1 of 6: hear of each new inline completer.
 *
 * JupyterLab makes one for each panel and tells nobody. There is `ICompletionProviderManager.setInlineCompleterFactory`,
 * but it is not usable yet: JupyterLab's own plugin `completer-extension:inline-completer` calls it, too, the later call
 * wins, and that plugin provides no token that would let us wait for it. Replacing the token `IInlineCompleterFactory`
 * would mean to copy the toolbar that JupyterLab's factory builds, and exclude other extensions that do so. Wrapping the
 * factory that both share works in either order.
 *
 * Unnecessary with: a signal of the manager for new inline completers, or a token of that plugin.
 */
export function patchFactory(factory: IInlineCompleterFactory, hooks: IHooks): void {
  const make = factory.factory.bind(factory);
  factory.factory = options => {
    const completer = make(options);
    hooks.onCreated(completer);
    patchAccept(completer, hooks);
    patchCycle(completer, hooks);
    const { model } = completer;
    if (model) {
      patchAppend(model);
      patchTextChange(completer, model, hooks);
      patchSelectionChange(completer, model, hooks);
      model.suggestionsChanged.connect(() => hooks.onChanged(completer));
      model.filterTextChanged.connect(() => {
        hooks.onChanged(completer);
        // JupyterLab renders, and takes the keys again, after CodeMirror's update.
        setTimeout(() => hooks.onChanged(completer), 0);
      });
    }
    return completer;
  };
}

/**
 * Patch 2 of 6: accept our items ourselves.
 *
 * JupyterLab replaces everything from where the completion was requested to the cursor, also what was typed meanwhile
 * and is not part of the suggestion. It does not tell the provider, and can accept neither a word nor a line.
 *
 * Unnecessary with: a provider's method that is called with the accepted item, as in LSP, and `inline.accept` for a part.
 */
function patchAccept(completer: Completer, hooks: IHooks): void {
  const accept = completer.accept.bind(completer);
  completer.accept = () => {
    if (!hooks.accept(completer)) {
      accept();
    }
  };
}

/**
 * Patch 3 of 6: hear that the user looks at another candidate.
 *
 * JupyterLab emits nothing for that; our key bindings and marks depend on whether the item is ours.
 *
 * Unnecessary with: a signal of the inline completer for its current item.
 */
function patchCycle(completer: Completer, hooks: IHooks): void {
  const cycle = completer.cycle.bind(completer);
  completer.cycle = direction => {
    cycle(direction);
    hooks.onChanged(completer);
  };
}

/**
 * Patch 4 of 6: keep the reply of a provider that answers after one without items.
 *
 * If the first provider to answer had no items or an error, JupyterLab has no list to append to, and drops what comes
 * later with a warning in the console.
 *
 * Unnecessary with: a model whose `appendCompletions` starts a list where there is none.
 */
function patchAppend(model: Model): void {
  const append = model.appendCompletions.bind(model);
  model.appendCompletions = reply =>
    model.completions?.items ? append(reply) : model.setCompletions(reply);
}

/**
 * Patch 5 of 6: hear of changes of the text for which JupyterLab makes no request, such as Enter.
 *
 * The shared model of an editor has a signal for changes, but an inline completer moves from one editor to the next
 * without a signal, and JupyterLab's own slot, which makes the request, may come first.
 *
 * Unnecessary with: requests after each change, for a provider that wants them.
 */
function patchTextChange(completer: Completer, model: Model, hooks: IHooks): void {
  const change = model.handleTextChange.bind(model);
  model.handleTextChange = source => {
    change(source);
    hooks.onTextChanged(completer, source.sourceChange ?? []);
  };
}

/**
 * Patch 6 of 6: dismiss ghost text when the cursor moves away on the same line.
 *
 * JupyterLab does so only when the cursor leaves the line or moves to the left; to the right the ghost text moves along,
 * and would be inserted in the wrong place.
 *
 * Unnecessary with: a model that compares the cursor with where the text belongs.
 */
function patchSelectionChange(completer: Completer, model: Model, hooks: IHooks): void {
  const select = model.handleSelectionChange.bind(model);
  model.handleSelectionChange = range => {
    select(range);
    hooks.onSelectionChanged(completer, range);
  };
}

// Not patched, but not promised by an interface either.

/** JupyterLab's class for an editor with ghost text of any provider: its key bindings depend on it. */
const ACTIVE_CLASS = 'jp-mod-inline-completer-active';

/** Visible ghost text. JupyterLab's spacers only keep the cell from changing its height. */
const GHOST_TEXT = '.jp-GhostText:not(.jp-GhostText-lineSpacer):not(.jp-GhostText-letterSpacer)';

/**
 * Gives the keys back to the editor where nothing is left to accept.
 *
 * JupyterLab leaves its class on the editor when all text of an item has been typed, and then the Tab key does nothing.
 *
 * Unnecessary with: an inline completer that is active only while there is text.
 */
export function releaseKeys(completer: Completer): void {
  const host = completer.editor?.host;
  host?.classList.remove(ACTIVE_CLASS);
  if (completer.model?.completions?.items?.length === 0 && host?.querySelector(GHOST_TEXT)) {
    completer.model.reset();
  }
}

/**
 * Adds an item to the list that `first` is in, and streams it.
 *
 * JupyterLab takes all items of a provider at once, and gives each the members that it needs itself.
 *
 * Unnecessary with: replies to which a provider can append items later.
 */
export function appendItem(
  completers: Iterable<Completer>,
  provider: StreamingProvider,
  item: IInlineCompletionItem,
  first: IInlineCompletionItem
): void {
  const model = modelOf(completers, first);
  if (model) {
    const added = item as Item;
    added.provider = provider;
    added.stream = new Signal(added) as Item['stream'];
    model.appendCompletions({ items: [added] });
    void streamItem(provider, added);
  }
}

/** Removes an item from the list that `first` is in, unless the user looks at it. Unnecessary with: as above. */
export function removeItem(
  completers: Iterable<Completer>,
  item: IInlineCompletionItem,
  first: IInlineCompletionItem
): void {
  const model = modelOf(completers, first);
  const items = model?.completions?.items as IInlineCompletionItem[] | undefined;
  const index = items?.indexOf(item) ?? -1;
  const isShown = [...completers].some(completer => completer.current === item);
  if (items && index > 0 && !isShown) {
    items.splice(index, 1);
    model!.appendCompletions({ items: [] }); // updates the number of candidates that is shown
  }
}

function modelOf(completers: Iterable<Completer>, item: IInlineCompletionItem): Model | null {
  const found = [...completers].find(completer =>
    (completer.model?.completions?.items as IInlineCompletionItem[] | undefined)?.includes(item)
  );
  return found?.model ?? null;
}

/** Streams an item as JupyterLab does with those of a reply. */
async function streamItem(provider: StreamingProvider, item: Item): Promise<void> {
  const token = item.token;
  if (!item.isIncomplete || !token) {
    return;
  }
  const stream = item.stream as unknown as Signal<Item, number>;
  item.token = undefined;
  item.streaming = true;
  for await (const { response } of provider.stream(token)) {
    item.lastStreamed = response.insertText.substring(item.insertText.length);
    item.insertText = response.insertText;
    stream.emit(STREAM_UPDATED);
  }
  item.isIncomplete = false;
  item.lastStreamed = undefined;
  item.streaming = false;
  stream.emit(STREAM_CLOSED);
}

/** CompletionHandler.StraemEvent; the enum itself would pull in the whole of JupyterLab. */
const STREAM_UPDATED = 1;
const STREAM_CLOSED = 2;

/** CodeMirror's view of an editor; JupyterLab's class has it, its interface does not. */
export function viewOf(editor: Editor | null | undefined): EditorView | undefined {
  return (editor as unknown as { editor?: EditorView } | null)?.editor;
}

/** The text of a cell or file that all its editors share. */
export type ISharedText = Editor['model']['sharedModel'];

/**
 * Makes an own step of undo of what `change` does to each of these texts, however quickly the user typed before and
 * after. Texts of a notebook whose cells have one history have one step together.
 *
 * JupyterLab's shared models have the undo manager, their interface does not.
 */
export function inOneUndoStep(texts: readonly ISharedText[], change: () => void): void {
  const managers = new Set(texts.map(text => (text as unknown as IUndoable).undoManager));
  managers.forEach(manager => manager?.stopCapturing());
  change();
  managers.forEach(manager => manager?.stopCapturing());
}

interface IUndoable {
  undoManager?: { stopCapturing(): void };
}
