/**
 * The documents that the companion completes: which of them need it, and the connection of each.
 */
import type { Widget } from '@lumino/widgets';

import type { Companion } from '../kernel/companion';
import type { Connection } from '../kernel/connection';
import { knowsLanguage } from '../kernel/languages';

export class CompanionDocuments {
  constructor(
    private _companion: Companion,
    private _options: CompanionDocuments.IOptions
  ) {
    _companion.kernelChanged.connect(() => this.reviewAll());
  }

  /** The companion's connection for this document; null if the companion does not complete it. */
  connection(widget: Widget): Connection | null {
    return this._connections.get(widget) ?? null;
  }

  /** The user has come to this widget, and left the one before. */
  enter(widget: Widget | null): void {
    const left = this._front;
    this._front = widget;
    if (widget) {
      this._entered.add(widget);
      this.review(widget);
    }
    if (left && left !== widget) {
      this.review(left);
    }
  }

  /** The user types here: a companion that was shut down is started again. */
  wake(widget: Widget): void {
    if (this._connections.has(widget)) {
      this._companion.require(widget);
    }
  }

  /** Connects this document with the companion if it needs it now, or ends the connection if it does not. */
  review(widget: Widget): void {
    const connection = this._connections.get(widget);
    const needed = this._isNeeded(widget);
    if (needed && !connection) {
      this._connect(widget);
    } else if (!needed && connection) {
      this._disconnect(widget);
    }
  }

  reviewAll(): void {
    [...new Set([...this._connections.keys(), ...(this._front ? [this._front] : [])])].forEach(
      widget => this.review(widget)
    );
  }

  private _isNeeded(widget: Widget): boolean {
    if (widget.isDisposed || this._companion.stage === 'unavailable') {
      return false;
    }
    if (!this._entered.has(widget) || !this._options.needsCompanion(widget)) {
      return false;
    }
    // In front it stays even for a language that the model does not know: the user may choose another model.
    return widget === this._front || this._knowsLanguage(widget) !== false;
  }

  /** Whether the companion's model knows the document's language; undefined while that is not known. */
  private _knowsLanguage(widget: Widget): boolean | undefined {
    const client = this._connections.get(widget)?.client;
    const language = this._options.languageOf(widget);
    return client && language !== null ? knowsLanguage(client, language) : undefined;
  }

  private _connect(widget: Widget): void {
    const connection = this._options.connect(this._companion, widget);
    this._connections.set(widget, connection);
    connection.changed.connect(() => {
      const kernel = this._companion.session?.kernel;
      if (kernel && connection.state.stage === 'not installed') {
        this._companion.reject(kernel);
      }
    });
    if (!this._followed.has(widget)) {
      this._followed.add(widget);
      widget.disposed.connect(() => this._disconnect(widget));
    }
    this._companion.require(widget);
  }

  private _disconnect(widget: Widget): void {
    const connection = this._connections.get(widget);
    this._connections.delete(widget);
    if (this._front === widget && widget.isDisposed) {
      this._front = null;
    }
    connection?.dispose();
    this._companion.release(widget);
  }

  private _connections = new Map<Widget, Connection>();
  private _entered = new WeakSet<Widget>();
  private _followed = new WeakSet<Widget>();
  private _front: Widget | null = null;
}

export namespace CompanionDocuments {
  export interface IOptions {
    /** Whether code in this document is to be completed, and its own kernel, if it has one, cannot do it. */
    needsCompanion(widget: Widget): boolean;

    /** The document's language; null where it is not known. */
    languageOf(widget: Widget): string | null;

    /** Makes the connection of a document with the companion. */
    connect(companion: Companion, widget: Widget): Connection;
  }
}
