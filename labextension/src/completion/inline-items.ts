/**
 * The candidates that JupyterLab shows now: it keeps the items, shortens them while their text is typed, and streams
 * them.
 */
import type { IInlineCompletionItem } from '@jupyterlab/completer';

import type { IAttribution } from '../kernel/protocol';
import type { StreamingSuggestion } from './streaming-suggestion';
import { remainingText, remainingTexts, type ICursorContext, type IRemainder } from './suggestion';
import type { ICompletionTarget, IInlineItem } from './types';

export class InlineItems {
  constructor(private _options: InlineItems.IOptions) {}

  /** Forgets all items: nothing is shown any more, and what still streams is not followed. */
  clear(): void {
    this._items = new Map();
  }

  /** Makes items of these candidates in place of all earlier ones, and of later candidates as they come. */
  replace(
    target: ICompletionTarget,
    context: ICursorContext,
    suggestion: StreamingSuggestion,
    remainders: IRemainder[]
  ): IInlineItem[] {
    this.clear();
    const items = remainders.map(each => this._make(target, context, suggestion, each));
    if (suggestion.requested > 1 && !suggestion.done) {
      void this._addLaterCandidates(items[0]);
    }
    return items;
  }

  /** Our record of an item of JupyterLab's; undefined if it is another provider's, or no longer shown. */
  find(item: IInlineCompletionItem | null): IInlineItem | undefined {
    return [...this._items.values()].find(own => own.item === item);
  }

  /** The longer and longer texts of the item with this token, as JupyterLab asks for them. */
  async *stream(token: string): AsyncGenerator<{ response: IInlineCompletionItem }> {
    const own = this._items.get(token);
    if (!own) {
      return;
    }
    const { suggestion, item, context, index } = own;
    let typedUnits = 0;
    while (!suggestion.isComplete(index)) {
      await suggestion.nextUpdate();
      if (this._items.get(token) !== own) {
        return; // A newer fetch continues this suggestion, or shows another one.
      }
      // JupyterLab shortens the item while its text is typed, not always with a fetch.
      typedUnits += own.text.length - item.insertText.length;
      own.text = (remainingText(suggestion, context, index) ?? '').slice(typedUnits);
      if (suggestion.error !== null) {
        this._options.onError(suggestion.error);
      }
      if (own.text !== item.insertText) {
        yield { response: { insertText: own.text, isIncomplete: !suggestion.isComplete(index) } };
      }
    }
  }

  private _make(
    target: ICompletionTarget,
    context: ICursorContext,
    suggestion: StreamingSuggestion,
    { index, text }: IRemainder
  ): IInlineItem {
    const token = `${suggestion.id}-${index}-${++this._count}`;
    // A new object each time: JupyterLab keeps and changes it.
    const item: IInlineCompletionItem = suggestion.isComplete(index)
      ? { insertText: text }
      : { insertText: text, isIncomplete: true, token };
    const own = { target, context, suggestion, index, item, text };
    this._items.set(token, own);
    return own;
  }

  /** Adds later candidates as they come, and removes one that turned out to be the same as another. */
  private async _addLaterCandidates(first: IInlineItem): Promise<void> {
    const { target, context, suggestion, item, text } = first;
    const items = this._items;
    while (!suggestion.done) {
      await suggestion.nextUpdate();
      if (this._items !== items) {
        return;
      }
      const typed = text.slice(0, Math.max(0, text.length - item.insertText.length));
      suggestion.texts.forEach((_, index) => {
        const known = [...items.values()];
        const remaining = remainingText(suggestion, context, index);
        if (known.some(own => own.index === index) || !remaining?.startsWith(typed)) {
          return;
        }
        const left = remaining.slice(typed.length);
        // While it begins as another candidate does, it may turn out to be the same.
        if (left && !known.some(own => own.item.insertText.startsWith(left))) {
          const own = this._make(target, context, suggestion, { index, text: left });
          this._options.add(own.item, item);
        }
      });
    }
    const distinct = remainingTexts(suggestion, context).map(({ index }) => index);
    for (const [token, own] of items) {
      if (own.index > 0 && !distinct.includes(own.index)) {
        items.delete(token);
        this._options.remove(own.item, item);
      }
    }
  }

  private _count = 0;
  private _items = new Map<string, IInlineItem>();
}

export namespace InlineItems {
  export interface IOptions {
    /** Adds a candidate to the list that `first` is in, or removes one from it. */
    add(item: IInlineCompletionItem, first: IInlineCompletionItem): void;
    remove(item: IInlineCompletionItem, first: IInlineCompletionItem): void;

    /** Called with the kernel's message when a text that is shown will not be finished. */
    onError(message: string): void;
  }
}

/** Whether the text that is shown of an item may be inserted at the cursor. */
export function matchesCursor(
  { suggestion, index, item }: IInlineItem,
  context: ICursorContext
): boolean {
  const remaining = remainingText(suggestion, context, index);
  return remaining !== null && remaining.startsWith(item.insertText);
}

/** Whether it may be inserted, or will be as soon as JupyterLab has removed what was just typed of it. */
export function stillApplies(
  { suggestion, index, item }: IInlineItem,
  context: ICursorContext
): boolean {
  const remaining = remainingText(suggestion, context, index);
  const shown = item.insertText;
  return remaining !== null && (remaining.startsWith(shown) || shown.endsWith(remaining));
}

/** The indexed code that the text of an item matches. */
export function matchesOf({ suggestion, index }: IInlineItem): IAttribution[] {
  return suggestion.attributions[index] ?? [];
}
