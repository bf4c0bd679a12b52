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

import type { Mode } from './policy';
import type { KernelClient } from '../kernel/client';
import { GhostCache, near, remainder, remainders, unitsOf, type IPlace } from './suggestion';
import { GrowingGhost } from './streaming-suggestion';
import { Offers, type IOffer } from './inline-items';
import type { ICell, Trigger } from '../kernel/protocol';
import { sentence } from '../ui/status-text';
import { sleep, within } from '../kernel/timing';

/** The cell that is being typed in, and who completes it. */
export interface ISpot {
  client: Pick<KernelClient, 'complete' | 'accepted'>;

  /**
   * Tells the cells of all open notebooks apart, which `cellId` alone does not where a notebook was copied, and
   * the models, as a ghost of one is not what another would say.
   */
  key: string;
  cellId: string;

  /** The kernel's. */
  language: string;

  /** Languages that are left alone. */
  languagesOff: readonly string[];

  /** What is allowed here. */
  mode: Mode;

  /** The notebook's cells as they are now. */
  cells(): ICell[];

  /** The cell's text as it is now. */
  source(): string;

  /** Whether the cursor is at this offset, in UTF-16 units. */
  isAt(offset: number): boolean;
}

/** What became of the newest request. */
export interface IOutcome {
  kind: 'idle' | 'asking' | 'shown' | 'nothing' | 'timed out' | 'error';

  /** In the kernel's word why there is no text, or the error's words. */
  reason?: string;
}

export class Provider implements IInlineCompletionProvider {
  constructor(private _options: Provider.IOptions) {
    this._offers = new Offers({
      add: _options.add,
      remove: _options.remove,
      fail: message => this._report(message, false)
    });
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

  /** Milliseconds of silence before an automatic request is sent. */
  debounce = 100;

  /** How many candidates are made for one who asks. */
  candidates = 3;

  /** Milliseconds until a request without any text is given up, before JupyterLab does so silently. */
  timeout = 29000;

  /** How often JupyterLab has asked. */
  get fetched(): number {
    return this._fetched;
  }

  get outcome(): IOutcome {
    return this._outcome;
  }

  /** Called by JupyterLab with what stands in its settings for us. */
  configure(settings: { timeout?: number }): void {
    this.timeout = Math.max(1000, (settings?.timeout ?? 30000) - 1000);
  }

  /** Answers with the first text there is and streams the rest; a newer fetch empties an older one at once. */
  fetch(
    request: CompletionHandler.IRequest,
    context: IInlineCompletionContext
  ): Promise<IInlineCompletionList> {
    const fetched = ++this._fetched;
    const invoked = context.triggerKind === INVOKE && !this._pretending;
    this._supersede();
    return new Promise(resolve => {
      this._supersede = () => resolve({ items: [] });
      this._answer(request, context, invoked, () => fetched !== this._fetched).then(
        items => resolve({ items }),
        () => resolve({ items: [] })
      );
    });
  }

  /** Lets JupyterLab ask where it would not by itself, as if it had: one candidate, after the usual delay. */
  automatically(invoke: () => void): void {
    this._pretending = true;
    try {
      invoke();
    } finally {
      this._pretending = false;
    }
  }

  stream(token: string): AsyncGenerator<{ response: IInlineCompletionItem }> {
    return this._offers.stream(token);
  }

  /** What stands behind an item of JupyterLab's; undefined if it is not ours, or no longer. */
  offer(item: IInlineCompletionItem | null): IOffer | undefined {
    return this._offers.find(item);
  }

  /** Whether something is known for this place, so that asking costs nothing. */
  knows(place: IPlace): boolean {
    return this._cache.find(place) !== undefined;
  }

  /**
   * What is left after a part was accepted. To be told before the text changes, as JupyterLab asks at once then;
   * only where the cache would not find it by itself.
   */
  keep(offer: IOffer, place: IPlace, rest: string): void {
    if (rest && !remainder(offer.ghost, place, offer.index)) {
      this._cache.add(GrowingGhost.rest(offer.ghost, place, rest, offer.index));
    }
  }

  /** Stops a completion that nobody waits for any more. */
  cancel(): void {
    this._fetched++;
    this._supersede();
    this._running?.cancel();
    this._offers.clear();
    this._settle({ kind: 'idle' });
  }

  /** Forgets what is known, since the kernel would now answer something else. */
  forget(): void {
    this._cache.clear();
  }

  private async _answer(
    request: CompletionHandler.IRequest,
    context: IInlineCompletionContext,
    invoked: boolean,
    superseded: () => boolean
  ): Promise<IInlineCompletionItem[]> {
    const { widget } = context;
    const typed = Date.now();
    let spot = this._options.locate(context, request.text);
    if (typeof spot === 'string' && !invoked) {
      // Typed before the kernel was there, or its answer to our hello: a moment later there may be a client.
      await this._options.settled(widget);
      if (superseded()) {
        return [];
      }
      spot = this._options.locate(context, request.text);
    }
    if (spot === null || typeof spot === 'string' || !allows(spot.mode, invoked)) {
      this._running?.cancel();
      this._offers.clear();
      if (invoked && spot !== null) {
        this._options.tell(typeof spot === 'string' ? spot : OFF, 'info');
      }
      return [];
    }
    const cursor = cursorOf(request, spot);
    const place: IPlace = {
      cell: spot.key,
      prefix: request.text.slice(0, cursor),
      suffix: request.text.slice(cursor)
    };
    const wanted = invoked ? this.candidates : 1;
    let ghost = this._cache.find(place);
    if (ghost && ghost.wanted < wanted) {
      ghost = undefined;
    }
    if (ghost !== this._running) {
      this._running?.cancel();
    }
    if (!ghost) {
      if (!invoked && this.debounce > 0) {
        await sleep(this.debounce);
      }
      if (superseded()) {
        return [];
      }
      const trigger = invoked ? 'invoke' : 'automatic';
      ghost = this._ask(spot, place, trigger, wanted, Date.now() - typed);
    }
    const inTime = await this._firstText(ghost, place);
    if (superseded()) {
      return [];
    }
    if (!inTime) {
      ghost.cancel();
      this._settle({ kind: 'timed out' });
      if (invoked) {
        this._options.tell('The model took too long to answer.', 'info');
      }
      return [];
    }
    if (ghost.error !== null) {
      this._report(ghost.error, invoked);
      return [];
    }
    this._reported = null;
    if (!spot.isAt(cursor)) {
      // JupyterLab would show it where the cursor has gone meanwhile.
      ghost.cancel();
      this._settle({ kind: 'idle' });
      return [];
    }
    return this._show(spot, place, ghost, invoked);
  }

  private _ask(
    spot: ISpot,
    place: IPlace,
    trigger: Trigger,
    candidates: number,
    waited: number
  ): GrowingGhost {
    const ghost = new GrowingGhost(place, candidates);
    this._running = ghost;
    this._cache.add(ghost);
    this._settle({ kind: 'asking' });
    const query = {
      cell_id: spot.cellId,
      ...near(place),
      trigger,
      candidates,
      language: spot.language,
      languages_off: [...spot.languagesOff],
      waited
    };
    const updates = spot.client.complete(query, spot.cells(), ghost.signal);
    void ghost.grow(updates).then(whole => {
      if (!whole) {
        this._cache.remove(ghost);
      }
      if (this._running === ghost && this._outcome.kind === 'asking' && ghost.error === null) {
        this._settle({ kind: 'idle' });
      }
    });
    return ghost;
  }

  /** Waits for something to show, or the end; false if that takes too long. */
  private async _firstText(ghost: GrowingGhost, place: IPlace): Promise<boolean> {
    const deadline = Date.now() + this.timeout;
    while (!ghost.done && remainders(ghost, place).length === 0) {
      const left = deadline - Date.now();
      if (left <= 0) {
        return false;
      }
      await within(ghost.grown(), left);
    }
    return true;
  }

  private _show(
    spot: ISpot,
    place: IPlace,
    ghost: GrowingGhost,
    invoked: boolean
  ): IInlineCompletionItem[] {
    const rests = remainders(ghost, place);
    if (rests.length === 0) {
      this._offers.clear();
      const reason = ghost.reason ?? 'nothing_to_add';
      this._settle({ kind: 'nothing', reason });
      if (invoked) {
        this._options.tell(sentence(reason), 'info');
      }
      return [];
    }
    this._settle({ kind: 'shown' });
    return this._offers.replace(spot, place, ghost, rests).map(offer => offer.item);
  }

  /** An error is told once, not at every key, unless it is asked for. */
  private _report(message: string, invoked: boolean): void {
    this._settle({ kind: 'error', reason: message });
    if (message !== this._reported || invoked) {
      this._options.tell(message, 'error');
    }
    this._reported = message;
  }

  private _settle(outcome: IOutcome): void {
    this._outcome = outcome;
    this._options.onOutcome?.(outcome);
  }

  private _cache = new GhostCache<GrowingGhost>();
  private _fetched = 0;
  private _offers: Offers;
  private _outcome: IOutcome = { kind: 'idle' };
  private _pretending = false;
  private _reported: string | null = null;
  private _running: GrowingGhost | null = null;
  private _supersede: () => void = () => undefined;
}

export namespace Provider {
  export interface IOptions extends Pick<Offers.IOptions, 'add' | 'remove'> {
    /** The spot to complete in this widget; null if there is none, or in words why there is none now. */
    locate(context: IInlineCompletionContext, text: string): ISpot | string | null;

    /** Resolves when it is clear whether the kernel of this widget can complete code. */
    settled(widget: Widget): Promise<void>;

    /** Tells the user something in words. */
    tell(message: string, kind: 'info' | 'error'): void;

    onOutcome?(outcome: IOutcome): void;
  }
}

/** Where in the text the cursor is, in UTF-16 units: JupyterLab counts code points, but 4.4.0 counts units as well. */
function cursorOf({ text, offset }: CompletionHandler.IRequest, spot: ISpot): number {
  const units = unitsOf(text, offset);
  return units !== offset && !spot.isAt(units) && spot.isAt(offset) ? offset : units;
}

/** InlineCompletionTriggerKind.Invoke; the enum itself would pull in the whole of JupyterLab. */
const INVOKE = 0;

const OFF = 'Completion is switched off here.';

function allows(mode: Mode, invoked: boolean): boolean {
  return mode === 'automatic' || (mode === 'manual' && invoked);
}
