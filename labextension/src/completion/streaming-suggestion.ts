/**
 * A suggestion while the kernel generates it, and afterwards.
 */
import type { KernelClient } from '../kernel/client';
import type { IAttribution, IImport, IUpdate } from '../kernel/protocol';
import type { ICursorContext, ISuggestion } from './suggestion';

export class StreamingSuggestion implements ISuggestion {
  /** `requested` is the number of candidates that the kernel was asked for. */
  constructor(
    context: ICursorContext,
    readonly requested: number
  ) {
    ({ cell: this.cell, prefix: this.prefix, suffix: this.suffix } = context);
  }

  /** A finished suggestion of the text that remains after a part of candidate `index` was accepted. */
  static remainder(
    suggestion: StreamingSuggestion,
    context: ICursorContext,
    text: string,
    index = 0,
    imports: IImport[] = []
  ): StreamingSuggestion {
    const rest = new StreamingSuggestion(context, 1);
    rest.id = suggestion.id;
    rest.texts = [text];
    rest.done = true;
    rest.attributions = [suggestion.attributions[index] ?? []];
    rest.imports = [imports];
    rest.leavesImportsOut = suggestion.leavesImportsOut;
    rest.policy = suggestion.policy;
    rest.producedBy = suggestion.producedBy;
    return rest;
  }

  readonly cell: string;
  readonly prefix: string;
  readonly suffix: string;
  id = '';
  texts: string[] = [];
  done = false;
  error: string | null = null;

  /** The kernel's code for why there is no text. */
  reason: string | null = null;

  /** For each candidate the indexed code that it matches, and what the kernel wants done about it. */
  attributions: IAttribution[][] = [];
  policy = '';

  /** For each candidate the imports that it lacks, and whether the user wants none of them. */
  imports: IImport[][] = [];
  leavesImportsOut = false;

  /** The model that generated it, as far as the kernel has reported it. */
  producedBy: Pick<IUpdate, 'model' | 'engine' | 'revision'> = {};

  get signal(): AbortSignal {
    return this._abort.signal;
  }

  /** Whether this candidate is complete: the kernel generates one after the other. */
  isComplete(index: number): boolean {
    return this.done || this.texts.length > index + 1;
  }

  /** Resolves at the next update. */
  nextUpdate(): Promise<void> {
    return new Promise(resolve => this._waiting.push(resolve));
  }

  cancel(): void {
    if (!this.done) {
      this._abort.abort();
    }
  }

  /** Reads all updates; false if they ended before the text was complete. */
  async consume(updates: ReturnType<KernelClient['complete']>): Promise<boolean> {
    let complete = false;
    try {
      for await (const update of updates) {
        if (update.finish_reason === 'cancelled') {
          break;
        }
        this.id = update.id;
        this.texts[update.index] = update.text;
        this.reason = update.reason ?? null;
        this._readMetadata(update);
        complete = update.finish_reason !== null;
        if (complete) {
          // A later candidate that turned out to be the same as an earlier one was not counted.
          this.texts.length = update.index + 1;
        }
        this.done = complete;
        this._notify();
      }
    } catch (reason) {
      this.error = reason instanceof Error ? reason.message : String(reason);
    }
    this.done = true;
    this._notify();
    return complete;
  }

  private _readMetadata(update: IUpdate): void {
    const { index, attribution, policy, imports, model, engine, revision } = update;
    this.attributions[index] = attribution ?? [];
    this.imports[index] = imports ?? [];
    this.policy = policy ?? this.policy;
    if (model) {
      this.producedBy = { model, ...(engine ? { engine } : {}), ...(revision ? { revision } : {}) };
    }
  }

  private _notify(): void {
    this._waiting.splice(0).forEach(resolve => resolve());
  }

  private _abort = new AbortController();
  private _waiting: (() => void)[] = [];
}
