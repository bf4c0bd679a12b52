/**
 * JupyterLab's inline completion provider: when to send a request, and which part of the answer to show.
 */
import type {
  CompletionHandler,
  IInlineCompletionContext,
  IInlineCompletionItem,
  IInlineCompletionList,
  IInlineCompletionProvider
} from '@jupyterlab/completer';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { Widget } from '@lumino/widgets';

import type { Trigger } from '../kernel/protocol';
import { sleep, within } from '../kernel/timing';
import { remainingImports } from './imports';
import { InlineItems } from './inline-items';
import type { Mode } from './policy';
import { StreamingSuggestion } from './streaming-suggestion';
import {
  remainingText,
  remainingTexts,
  requestText,
  SuggestionCache,
  toUtf16Offset,
  type ICursorContext
} from './suggestion';
import type { ICompletionTarget, IInlineItem, IOutcome } from './types';

export class Provider implements IInlineCompletionProvider {
  constructor(private _options: Provider.IOptions) {
    this._trans = _options.trans;
    this._items = new InlineItems({
      add: _options.add,
      remove: _options.remove,
      onError: message => this._reportError(message, false)
    });
  }

  readonly identifier = 'jupyter_sc2';
  readonly name = 'jupyter-sc2';

  /**
   * JupyterLab's default settings for this provider. JupyterLab must not debounce: we would hear of a key only after
   * the delay, and could neither cancel nor answer from the cache at once. Without autoFillInMiddle it makes requests
   * at line ends only.
   */
  readonly schema = {
    default: { autoFillInMiddle: true, debouncerDelay: 0, timeout: 30000 }
  };

  /** How long to wait after a key before an automatic request is sent. */
  debounceMs = 100;

  /** How many candidates an explicit request asks for. */
  candidates = 3;

  /** How long to wait for the first text; shorter than JupyterLab's own limit, which says nothing to the user. */
  timeoutMs = 29000;

  /** How many requests JupyterLab has made. */
  get fetchCount(): number {
    return this._fetchCount;
  }

  get outcome(): IOutcome {
    return this._outcome;
  }

  /** Called by JupyterLab with the user's settings for this provider. */
  configure(settings: { timeout?: number }): void {
    this.timeoutMs = Math.max(1000, (settings?.timeout ?? 30000) - 1000);
  }

  /** Answers with the first text and streams the rest; a newer fetch ends an older one at once, without items. */
  fetch(
    request: CompletionHandler.IRequest,
    { widget, triggerKind }: IInlineCompletionContext
  ): Promise<IInlineCompletionList> {
    const count = ++this._fetchCount;
    const invoked = triggerKind === INVOKE && !this._invokingAutomatically;
    this._supersede();
    return new Promise(resolve => {
      this._supersede = () => resolve({ items: [] });
      this._complete(request, widget, invoked, () => count !== this._fetchCount).then(
        items => resolve({ items }),
        () => resolve({ items: [] })
      );
    });
  }

  /** Lets JupyterLab make a request that counts as automatic: one candidate, after the usual delay. */
  invokeAutomatically(invoke: () => void): void {
    this._invokingAutomatically = true;
    try {
      invoke();
    } finally {
      this._invokingAutomatically = false;
    }
  }

  stream(token: string): AsyncGenerator<{ response: IInlineCompletionItem }> {
    return this._items.stream(token);
  }

  /** Our record of an item of JupyterLab's; undefined if it is another provider's, or no longer shown. */
  inlineItem(item: IInlineCompletionItem | null): IInlineItem | undefined {
    return this._items.find(item);
  }

  /** Whether a suggestion for this place is in the cache, so that a request costs nothing. */
  hasSuggestion(context: ICursorContext): boolean {
    return this._cache.find(context) !== undefined;
  }

  /**
   * Remembers the text that remains after a part was accepted. To be called before the text changes, since JupyterLab
   * makes a request at once then; adds to the cache only what it would not find anyway.
   */
  keepRemainder(accepted: IInlineItem, context: ICursorContext, text: string): void {
    const { suggestion, index } = accepted;
    this._accepted = context;
    if (text && !remainingText(suggestion, context, index)) {
      const imports = remainingImports(suggestion, index, text);
      this._cache.add(StreamingSuggestion.remainder(suggestion, context, text, index, imports));
    }
  }

  /**
   * Whether the cursor is where one types on after accepting a suggestion: behind its text, or on the next line. The
   * kernel has computed what follows there, so there is nothing to wait for.
   */
  followsAccepted({ cell, prefix }: ICursorContext): boolean {
    const accepted = this._accepted;
    return (
      accepted?.cell === cell &&
      prefix.startsWith(accepted.prefix) &&
      FOLLOWING.test(prefix.slice(accepted.prefix.length))
    );
  }

  /** Cancels the request that is running, and forgets what is shown. */
  cancel(): void {
    this._fetchCount++;
    this._supersede();
    this._running?.cancel();
    this._items.clear();
    this._setOutcome({ kind: 'idle' });
  }

  /** Empties the cache, since the kernel would now answer something else. */
  clearCache(): void {
    this._cache.clear();
  }

  private async _complete(
    request: CompletionHandler.IRequest,
    widget: Widget,
    invoked: boolean,
    superseded: () => boolean
  ): Promise<IInlineCompletionItem[]> {
    const startedAt = Date.now();
    let target = this._options.resolveTarget(widget, request.text);
    if (typeof target === 'string' && !invoked) {
      // The user typed before the kernel had started or answered our hello: a moment later it may have.
      await this._options.settled(widget);
      if (superseded()) {
        return [];
      }
      target = this._options.resolveTarget(widget, request.text);
    }
    if (target === null || typeof target === 'string' || !allows(target.mode, invoked)) {
      this._running?.cancel();
      this._items.clear();
      if (invoked && target !== null) {
        const off = this._trans.__('Code completion is off here.');
        this._options.notify(typeof target === 'string' ? target : off, 'info');
      }
      return [];
    }
    return this._answer(target, request, invoked, startedAt, superseded);
  }

  /** Answers from the cache or with a new request, which an explicit request sends at once. */
  private async _answer(
    target: ICompletionTarget,
    request: CompletionHandler.IRequest,
    invoked: boolean,
    startedAt: number,
    superseded: () => boolean
  ): Promise<IInlineCompletionItem[]> {
    const cursor = cursorOffset(request, target);
    const context: ICursorContext = {
      cell: target.key,
      prefix: request.text.slice(0, cursor),
      suffix: request.text.slice(cursor)
    };
    const requested = invoked ? this.candidates : 1;
    let suggestion = this._cache.find(context);
    if (suggestion && suggestion.requested < requested) {
      suggestion = undefined;
    }
    if (suggestion !== this._running) {
      this._running?.cancel();
    }
    if (!suggestion) {
      if (!invoked && this.debounceMs > 0 && !this.followsAccepted(context)) {
        await sleep(this.debounceMs);
      }
      if (superseded()) {
        return [];
      }
      const trigger = invoked ? 'invoke' : 'automatic';
      suggestion = this._request(target, context, trigger, requested, Date.now() - startedAt);
    }
    const inTime = await this._waitForFirstText(suggestion, context);
    if (superseded()) {
      return [];
    }
    if (!inTime) {
      suggestion.cancel();
      this._setOutcome({ kind: 'timed out' });
      if (invoked) {
        this._options.notify(this._trans.__('The model took too long to answer.'), 'info');
      }
      return [];
    }
    if (suggestion.error !== null) {
      this._reportError(suggestion.error, invoked);
      return [];
    }
    this._reportedError = null;
    if (!target.isAt(cursor)) {
      // JupyterLab would show it where the cursor has gone meanwhile.
      suggestion.cancel();
      this._setOutcome({ kind: 'idle' });
      return [];
    }
    return this._show(target, context, suggestion, invoked);
  }

  private _request(
    target: ICompletionTarget,
    context: ICursorContext,
    trigger: Trigger,
    candidates: number,
    waitedMs: number
  ): StreamingSuggestion {
    const suggestion = new StreamingSuggestion(context, candidates);
    this._running = suggestion;
    this._cache.add(suggestion);
    this._setOutcome({ kind: 'generating' });
    const query = {
      cell_id: target.cellId,
      ...requestText(context),
      trigger,
      candidates,
      language: target.language,
      languages_off: [...target.disabledLanguages],
      ...(target.path === undefined ? {} : { path: target.path }),
      ...(target.fileExtension === undefined ? {} : { file_extension: target.fileExtension }),
      waited: waitedMs
    };
    const updates = target.client.complete(query, target.cells(), suggestion.signal);
    void suggestion.consume(updates).then(complete => {
      if (!complete) {
        this._cache.remove(suggestion);
      }
      const isGenerating = this._running === suggestion && this._outcome.kind === 'generating';
      if (isGenerating && suggestion.error === null) {
        this._setOutcome({ kind: 'idle' });
      }
    });
    return suggestion;
  }

  /** Waits for text that can be shown, or the end; false if that takes too long. */
  private async _waitForFirstText(
    suggestion: StreamingSuggestion,
    context: ICursorContext
  ): Promise<boolean> {
    const deadline = Date.now() + this.timeoutMs;
    while (!suggestion.done && remainingTexts(suggestion, context).length === 0) {
      const leftMs = deadline - Date.now();
      if (leftMs <= 0) {
        return false;
      }
      await within(suggestion.nextUpdate(), leftMs);
    }
    return true;
  }

  private _show(
    target: ICompletionTarget,
    context: ICursorContext,
    suggestion: StreamingSuggestion,
    invoked: boolean
  ): IInlineCompletionItem[] {
    const remainders = remainingTexts(suggestion, context);
    if (remainders.length === 0) {
      this._items.clear();
      const reason = suggestion.reason ?? 'nothing_to_add';
      this._setOutcome({ kind: 'nothing', reason });
      if (invoked) {
        this._options.notify(this._options.reasonText(reason), 'info');
      }
      return [];
    }
    this._setOutcome({ kind: 'shown' });
    return this._items.replace(target, context, suggestion, remainders).map(({ item }) => item);
  }

  /** Shows an error once, not after every key, except for explicit requests. */
  private _reportError(message: string, invoked: boolean): void {
    this._setOutcome({ kind: 'error', reason: message });
    if (message !== this._reportedError || invoked) {
      this._options.notify(message, 'error');
    }
    this._reportedError = message;
  }

  private _setOutcome(outcome: IOutcome): void {
    this._outcome = outcome;
    this._options.onOutcome?.(outcome);
  }

  private _accepted: ICursorContext | null = null;
  private _cache = new SuggestionCache<StreamingSuggestion>();
  private _fetchCount = 0;
  private _invokingAutomatically = false;
  private _items: InlineItems;
  private _outcome: IOutcome = { kind: 'idle' };
  private _reportedError: string | null = null;
  private _running: StreamingSuggestion | null = null;
  private _supersede: () => void = () => undefined;
  private _trans: TranslationBundle;
}

export namespace Provider {
  export interface IOptions extends Pick<InlineItems.IOptions, 'add' | 'remove'> {
    /** What to complete in this widget; null if it is none of ours, or a text that says why nothing can be now. */
    resolveTarget(widget: Widget, text: string): ICompletionTarget | string | null;

    /** Resolves when it is known whether the kernel of this widget can complete code. */
    settled(widget: Widget): Promise<void>;

    trans: TranslationBundle;

    /** A sentence for the kernel's code of why there is no text. */
    reasonText(reason: string): string;

    /** Shows a message to the user. */
    notify(message: string, kind: 'info' | 'error'): void;

    onOutcome?(outcome: IOutcome): void;
  }
}

/** The cursor's offset in UTF-16 units: JupyterLab counts code points, but 4.4.0 counts UTF-16 units as well. */
function cursorOffset(
  { text, offset }: CompletionHandler.IRequest,
  target: ICompletionTarget
): number {
  const units = toUtf16Offset(text, offset);
  return units !== offset && !target.isAt(units) && target.isAt(offset) ? offset : units;
}

/** What may be typed after accepting a suggestion to get to the next line. */
const FOLLOWING = /^[)\]}"'`]*[ \t]*(?:\n[ \t]*)?$/;

/** InlineCompletionTriggerKind.Invoke; the enum itself would pull in the whole of JupyterLab. */
const INVOKE = 0;

function allows(mode: Mode, invoked: boolean): boolean {
  return mode === 'automatic' || (mode === 'manual' && invoked);
}
