/**
 * The candidates that JupyterLab shows now: it keeps the items, shortens them as their text is typed, and streams them.
 */
import type { IInlineCompletionItem } from '@jupyterlab/completer';

import { remainder, remainders, type IPlace, type IRest } from './suggestion';
import type { GrowingGhost } from './streaming-suggestion';
import type { ISpot } from './provider';

/** One candidate as it was handed to JupyterLab. */
export interface IOffer {
  spot: ISpot;
  place: IPlace;
  ghost: GrowingGhost;
  index: number;
  item: IInlineCompletionItem;
  text: string;
}

export class Offers {
  constructor(private _options: Offers.IOptions) {}

  /** Nothing is shown any more; what still grows is not followed. */
  clear(): void {
    this._offers = new Map();
  }

  /** Shows these candidates of a ghost in place of all before, and later ones as they come. */
  replace(spot: ISpot, place: IPlace, ghost: GrowingGhost, rests: IRest[]): IOffer[] {
    this.clear();
    const offers = rests.map(rest => this._make(spot, place, ghost, rest));
    if (ghost.wanted > 1 && !ghost.done) {
      void this._followed(offers[0]);
    }
    return offers;
  }

  /** What stands behind an item of JupyterLab's; undefined if it is not ours, or no longer. */
  find(item: IInlineCompletionItem | null): IOffer | undefined {
    return [...this._offers.values()].find(offer => offer.item === item);
  }

  async *stream(token: string): AsyncGenerator<{ response: IInlineCompletionItem }> {
    const offer = this._offers.get(token);
    if (!offer) {
      return;
    }
    const { ghost, item, place, index } = offer;
    let typed = 0;
    while (!ghost.isWhole(index)) {
      await ghost.grown();
      if (this._offers.get(token) !== offer) {
        return; // A newer fetch goes on with this ghost, or shows another.
      }
      // JupyterLab shortens the item as its text is typed, not always with a fetch.
      typed += offer.text.length - item.insertText.length;
      offer.text = (remainder(ghost, place, index) ?? '').slice(typed);
      if (ghost.error !== null) {
        this._options.fail(ghost.error);
      }
      if (offer.text !== item.insertText) {
        yield { response: { insertText: offer.text, isIncomplete: !ghost.isWhole(index) } };
      }
    }
  }

  private _make(spot: ISpot, place: IPlace, ghost: GrowingGhost, { index, text }: IRest): IOffer {
    const token = `${ghost.id}-${index}-${++this._made}`;
    // A fresh object each time: JupyterLab keeps and changes it.
    const item: IInlineCompletionItem = ghost.isWhole(index)
      ? { insertText: text }
      : { insertText: text, isIncomplete: true, token };
    const offer = { spot, place, ghost, index, item, text };
    this._offers.set(token, offer);
    return offer;
  }

  /** Hands later candidates over as they come, and takes back one that came out as another. */
  private async _followed({ spot, place, ghost, item, text }: IOffer): Promise<void> {
    const offers = this._offers;
    while (!ghost.done) {
      await ghost.grown();
      if (this._offers !== offers) {
        return;
      }
      const typed = text.slice(0, Math.max(0, text.length - item.insertText.length));
      ghost.texts.forEach((_, index) => {
        const known = [...offers.values()];
        const rest = remainder(ghost, place, index);
        if (known.some(offer => offer.index === index) || !rest?.startsWith(typed)) {
          return;
        }
        const left = rest.slice(typed.length);
        // While it says what another one says it may turn out to be the same.
        if (left && !known.some(offer => offer.item.insertText.startsWith(left))) {
          this._options.add(this._make(spot, place, ghost, { index, text: left }).item, item);
        }
      });
    }
    const distinct = remainders(ghost, place).map(({ index }) => index);
    for (const [token, offer] of offers) {
      if (offer.index > 0 && !distinct.includes(offer.index)) {
        offers.delete(token);
        this._options.remove(offer.item, item);
      }
    }
  }

  private _made = 0;
  private _offers = new Map<string, IOffer>();
}

export namespace Offers {
  export interface IOptions {
    /** Adds a candidate to the list in which `first` stands, or takes one out of it. */
    add(item: IInlineCompletionItem, first: IInlineCompletionItem): void;
    remove(item: IInlineCompletionItem, first: IInlineCompletionItem): void;

    /** Called with the kernel's words when a text that is shown will not be finished. */
    fail(message: string): void;
  }
}

/** Whether the text that is shown of an offer belongs at this place. */
export function fits(offer: IOffer, place: IPlace): boolean {
  const rest = remainder(offer.ghost, place, offer.index);
  return rest !== null && rest.startsWith(offer.item.insertText);
}

/** Whether it belongs there or will, as soon as JupyterLab has taken off what was typed of it just now. */
export function belongs(offer: IOffer, place: IPlace): boolean {
  const rest = remainder(offer.ghost, place, offer.index);
  const shown = offer.item.insertText;
  return rest !== null && (rest.startsWith(shown) || shown.endsWith(rest));
}
