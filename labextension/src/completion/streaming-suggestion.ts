/**
 * A completion while the kernel makes it, and afterwards.
 */
import type { KernelClient } from '../kernel/client';
import type { IGhost, IPlace } from './suggestion';
import type { IAttribution, IUpdate } from '../kernel/protocol';

export class GrowingGhost implements IGhost {
  /** `wanted` is how many candidates were asked for. */
  constructor(
    place: IPlace,
    readonly wanted: number
  ) {
    ({ cell: this.cell, prefix: this.prefix, suffix: this.suffix } = place);
  }

  /** What is left after a part of a ghost's candidate was accepted; nothing more will come. */
  static rest(ghost: GrowingGhost, place: IPlace, text: string, index = 0): GrowingGhost {
    const rest = new GrowingGhost(place, 1);
    rest.id = ghost.id;
    rest.texts = [text];
    rest.done = true;
    rest.attributions = [ghost.attributions[index] ?? []];
    rest.policy = ghost.policy;
    rest.by = ghost.by;
    return rest;
  }

  readonly cell: string;
  readonly prefix: string;
  readonly suffix: string;
  id = '';
  texts: string[] = [];
  done = false;
  error: string | null = null;

  /** Why there is no text, as the kernel calls it. */
  reason: string | null = null;

  /** Where each candidate may come from, and what the kernel wants done about it. */
  attributions: IAttribution[][] = [];
  policy = '';

  /** Who made it, as far as the kernel has said. */
  by: Pick<IUpdate, 'model' | 'engine' | 'revision'> = {};

  get signal(): AbortSignal {
    return this._abort.signal;
  }

  /** Whether a candidate is whole: the kernel makes one after the other. */
  isWhole(index: number): boolean {
    return this.done || this.texts.length > index + 1;
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
        this.id = update.id;
        this.texts[update.index] = update.text;
        this.reason = update.reason ?? null;
        this._note(update);
        whole = update.finish_reason !== null;
        if (whole) {
          // A candidate that came out as another one before it has begun was not counted.
          this.texts.length = update.index + 1;
        }
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

  private _note({ index, attribution, policy, model, engine, revision }: IUpdate): void {
    this.attributions[index] = attribution ?? [];
    this.policy = policy ?? this.policy;
    if (model) {
      this.by = { model, ...(engine ? { engine } : {}), ...(revision ? { revision } : {}) };
    }
  }

  private _notify(): void {
    this._waiting.splice(0).forEach(resolve => resolve());
  }

  private _abort = new AbortController();
  private _waiting: (() => void)[] = [];
}
