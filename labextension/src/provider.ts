/**
 * The inline completion provider: when to ask, what of the answer to show, and when not to ask at all.
 */
import type {
  CompletionHandler,
  IInlineCompletionContext,
  IInlineCompletionItem,
  IInlineCompletionList,
  IInlineCompletionProvider
} from '@jupyterlab/completer';
import type { Widget } from '@lumino/widgets';

import type { KernelClient } from './client';
import { GhostCache, remainder, unitsOf, type IGhost, type IPlace } from './ghost';
import type { ICell, Trigger } from './protocol';

/** The cell that is being typed in, and who completes it. */
export interface ISpot {
  client: Pick<KernelClient, 'complete' | 'accepted'>;

  /**
   * Tells the cells of all open notebooks apart, which `cellId` alone does not where a notebook was copied, and
   * the models, as a ghost of one is not what another would say.
   */
  key: string;
  cellId: string;
  language: string;

  /** The notebook's cells as they are now. */
  cells(): ICell[];

  /** The cell's text as it is now. */
  source(): string;
}

export class Provider implements IInlineCompletionProvider {
  constructor(options: Provider.IOptions) {
    this._locate = options.locate;
    this._settled = options.settled;
  }

  readonly identifier = 'jupyter_sc2';
  readonly name = 'jupyter-sc2';

  /**
   * JupyterLab's defaults for us. It must not debounce: then we would hear of a key only after the delay, and
   * could neither cancel nor answer from memory at once. Without autoFillInMiddle it asks at line ends only.
   */
  readonly schema = {
    default: { autoFillInMiddle: true, debouncerDelay: 0, timeout: 30000 }
  };

  enabled = true;

  /** Milliseconds of silence before an automatic request is sent. */
  debounce = 100;

  /** Answers with the first text there is and streams the rest; a newer fetch empties an older one at once. */
  fetch(
    request: CompletionHandler.IRequest,
    context: IInlineCompletionContext
  ): Promise<IInlineCompletionList> {
    const fetched = ++this._fetched;
    this._supersede();
    return new Promise(resolve => {
      this._supersede = () => resolve({ items: [] });
      this._answer(request, context, () => fetched !== this._fetched).then(
        item => resolve({ items: item ? [item] : [] }),
        () => resolve({ items: [] })
      );
    });
  }

  async *stream(token: string): AsyncGenerator<{ response: IInlineCompletionItem }> {
    const shown = this._shown;
    if (!shown || shown.token !== token) {
      return;
    }
    const { ghost, item, place } = shown;
    let typed = 0;
    while (!ghost.done) {
      await ghost.grown();
      if (this._shown !== shown) {
        return; // A newer fetch goes on with this ghost, or shows another.
      }
      // JupyterLab shortens the item as its text is typed, not always with a fetch.
      typed += shown.text.length - item.insertText.length;
      shown.text = (remainder(ghost, place) ?? '').slice(typed);
      if (ghost.error !== null || shown.text !== item.insertText) {
        const error = ghost.error === null ? undefined : { message: ghost.error };
        yield {
          response: { insertText: shown.text, isIncomplete: !ghost.done, error }
        };
      }
    }
  }

  /** Stops a completion that nobody waits for any more. */
  cancel(): void {
    this._fetched++;
    this._supersede();
    this._running?.cancel();
  }

  /** Forgets what is known, since the kernel would now answer something else. */
  forget(): void {
    this._cache.clear();
  }

  /** Tells the kernel, if the text that JupyterLab has just accepted is ours. */
  noticeAccepted(): void {
    const shown = this._shown;
    if (shown && shown.spot.source() === shown.place.prefix + shown.text + shown.place.suffix) {
      shown.spot.client.accepted({
        id: shown.ghost.id,
        index: 0,
        text: shown.text
      });
      this._shown = null;
    }
  }

  private async _answer(
    request: CompletionHandler.IRequest,
    context: IInlineCompletionContext,
    superseded: () => boolean
  ): Promise<IInlineCompletionItem | null> {
    const trigger: Trigger = context.triggerKind === INVOKE ? 'invoke' : 'automatic';
    const asked = this.enabled || trigger === 'invoke';
    let spot = asked ? this._locate(context.widget, request.text) : null;
    if (typeof spot === 'string' && trigger === 'automatic') {
      // Typed before the kernel was there, or its answer to our hello: a moment later there may be a client.
      await this._settled(context.widget);
      if (superseded()) {
        return null;
      }
      spot = this._locate(context.widget, request.text);
    }
    if (spot === null || typeof spot === 'string') {
      this._running?.cancel();
      return spot !== null && trigger === 'invoke'
        ? { insertText: '', error: { message: spot } }
        : null;
    }
    const cursor = unitsOf(request.text, request.offset);
    const place: IPlace = {
      cell: spot.key,
      prefix: request.text.slice(0, cursor),
      suffix: request.text.slice(cursor)
    };
    let ghost = this._cache.find(place);
    if (ghost !== this._running) {
      this._running?.cancel();
    }
    if (!ghost) {
      if (trigger === 'automatic' && this.debounce > 0) {
        await new Promise(resolve => setTimeout(resolve, this.debounce));
      }
      if (superseded()) {
        return null;
      }
      ghost = this._ask(spot, place, request, trigger);
    }
    while (!ghost.done && !remainder(ghost, place)) {
      await ghost.grown();
    }
    if (superseded()) {
      return null;
    }
    if (ghost.error !== null) {
      return this._report(ghost.error, trigger);
    }
    this._reported = null;
    return this._show(spot, place, ghost, trigger);
  }

  private _ask(
    spot: ISpot,
    place: IPlace,
    request: CompletionHandler.IRequest,
    trigger: Trigger
  ): GrowingGhost {
    const ghost = new GrowingGhost(place);
    this._running = ghost;
    this._cache.add(ghost);
    const query = {
      cell_id: spot.cellId,
      text: request.text,
      offset: request.offset,
      trigger,
      candidates: 1,
      language: spot.language
    };
    const updates = spot.client.complete(query, spot.cells(), ghost.signal);
    void ghost.grow(updates).then(whole => whole || this._cache.remove(ghost));
    return ghost;
  }

  private _show(
    spot: ISpot,
    place: IPlace,
    ghost: GrowingGhost,
    trigger: Trigger
  ): IInlineCompletionItem | null {
    const text = remainder(ghost, place);
    if (!text) {
      this._shown = null;
      return trigger === 'invoke' && ghost.reason
        ? { insertText: '', error: { message: ghost.reason } }
        : null;
    }
    const token = `${ghost.id}-${this._fetched}`;
    // A fresh object each time: JupyterLab keeps and changes it.
    const item: IInlineCompletionItem = ghost.done
      ? { insertText: text }
      : { insertText: text, isIncomplete: true, token };
    this._shown = { spot, place, ghost, item, text, token };
    return item;
  }

  /** An error is shown once, not at every key, unless it is asked for. */
  private _report(message: string, trigger: Trigger): IInlineCompletionItem | null {
    if (message === this._reported && trigger === 'automatic') {
      return null;
    }
    this._reported = message;
    return { insertText: '', error: { message } };
  }

  private _cache = new GhostCache<GrowingGhost>();
  private _fetched = 0;
  private _locate: Provider.IOptions['locate'];
  private _reported: string | null = null;
  private _running: GrowingGhost | null = null;
  private _settled: Provider.IOptions['settled'];
  private _shown: IShown | null = null;
  private _supersede: () => void = () => undefined;
}

export namespace Provider {
  export interface IOptions {
    /** The spot to complete in this widget; null if there is none, or in words why there is none now. */
    locate(widget: Widget, text: string): ISpot | string | null;

    /** Resolves when it is clear whether the kernel of this widget can complete code. */
    settled(widget: Widget): Promise<void>;
  }
}

/** InlineCompletionTriggerKind.Invoke; the enum itself would pull in the whole of JupyterLab. */
const INVOKE = 0;

/** Why there is no text, for one who asked for it. */
const REASONS: Record<string, string | undefined> = {
  disabled: 'Completion is switched off in this kernel.',
  low_confidence: 'The model is not sure enough of any continuation.',
  not_ready: 'The model is not ready yet.',
  nothing_to_add: 'The model has nothing to add here.',
  refuted: 'What the model proposed does not fit the variables in the kernel.'
};

/** What the last answered fetch put on the screen. */
interface IShown {
  spot: ISpot;
  place: IPlace;
  ghost: GrowingGhost;
  item: IInlineCompletionItem;
  text: string;
  token: string;
}

/** A completion while the kernel makes it, and afterwards. */
class GrowingGhost implements IGhost {
  constructor(place: IPlace) {
    ({ cell: this.cell, prefix: this.prefix, suffix: this.suffix } = place);
  }

  readonly cell: string;
  readonly prefix: string;
  readonly suffix: string;
  id = '';
  text = '';
  done = false;
  error: string | null = null;

  /** Why the text is empty. */
  reason: string | null = null;

  get signal(): AbortSignal {
    return this._abort.signal;
  }

  /** Resolves at the next update. */
  grown(): Promise<void> {
    return new Promise(resolve => this._waiting.push(resolve));
  }

  cancel(): void {
    if (!this.done) {
      this._abort.abort();
    }
  }

  /** Takes in the updates; false if they ended before the text was whole. */
  async grow(updates: ReturnType<KernelClient['complete']>): Promise<boolean> {
    let whole = false;
    try {
      for await (const update of updates) {
        if (update.finish_reason === 'cancelled') {
          break;
        }
        if (update.index === 0) {
          this.id = update.id;
          this.text = update.text;
          this.reason = update.reason ? (REASONS[update.reason] ?? update.reason) : null;
        }
        whole = update.finish_reason !== null;
        this.done = whole;
        this._notify();
      }
    } catch (reason) {
      this.error = reason instanceof Error ? reason.message : String(reason);
    }
    this.done = true;
    this._notify();
    return whole;
  }

  private _notify(): void {
    this._waiting.splice(0).forEach(resolve => resolve());
  }

  private _abort = new AbortController();
  private _waiting: (() => void)[] = [];
}
