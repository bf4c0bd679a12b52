/**
 * Tells the keys below the first ghost text that a user sees, once.
 */
import type { TranslationBundle } from '@jupyterlab/translation';

import { FOLLOW_MS, ghostTextIn } from './ghost-text';

/** Who has had it before the eyes for so long has seen it. */
const READ_MS = 4000;

export class FirstHint {
  constructor(private _options: FirstHint.IOptions) {}

  /** From JupyterLab's settings; false once the user has seen the hint. */
  enabled = false;

  /** Ghost text of ours is shown in this editor, or none any more. */
  update(isShown: boolean, host: HTMLElement): void {
    clearInterval(this._timer);
    if (!this.enabled || !isShown) {
      this._remove();
      return;
    }
    this._host = host;
    this._place();
    this._timer = setInterval(() => this._place(), FOLLOW_MS);
  }

  /** The user has pressed one of the keys: the hint is not needed any more. */
  putAway(): void {
    if (this._node) {
      this._seen();
    }
  }

  private _place(): void {
    const last = ghostTextIn(this._host).pop();
    if (!last) {
      this._remove();
      return;
    }
    if (!this._node) {
      this._node = document.body.appendChild(this._make());
      this._shownAt = Date.now();
    }
    const node = this._node;
    const box = last.getBoundingClientRect();
    const left = Math.min(box.left, window.innerWidth - node.offsetWidth - 8);
    const below = box.bottom + 6;
    const fits = below + node.offsetHeight < window.innerHeight;
    node.style.left = `${Math.max(8, left)}px`;
    node.style.top = `${fits ? below : box.top - node.offsetHeight - 6}px`;
    if (Date.now() - this._shownAt >= READ_MS && !this._isSaved) {
      this._isSaved = true; // It stays until the ghost text goes.
      this._options.onSeen();
    }
  }

  private _make(): HTMLElement {
    const { trans, isMac } = this._options;
    const node = document.createElement('div');
    node.className = 'jp-sc2-FirstHint';
    node.setAttribute('role', 'note');
    const keys: [string, string][] = [
      [trans.__('Tab'), trans.__('accepts')],
      [trans.__('Esc'), trans.__('dismisses')],
      [isMac ? trans.__('Option+\\') : trans.__('Alt+\\'), trans.__('more')]
    ];
    keys.forEach(([key, effect], index) => {
      const name = document.createElement('kbd');
      name.textContent = key;
      node.append(...(index > 0 ? [' · '] : []), name, ` ${effect}`);
    });
    return node;
  }

  private _seen(): void {
    const isSaved = this._isSaved;
    this.enabled = false;
    this._remove();
    if (!isSaved) {
      this._isSaved = true;
      this._options.onSeen();
    }
  }

  private _remove(): void {
    clearInterval(this._timer);
    this._node?.remove();
    this._node = null;
    if (this._isSaved) {
      this.enabled = false;
    }
  }

  private _host: HTMLElement | null = null;
  private _isSaved = false;
  private _node: HTMLElement | null = null;
  private _shownAt = 0;
  private _timer: ReturnType<typeof setInterval> | undefined;
}

export namespace FirstHint {
  export interface IOptions {
    trans: TranslationBundle;

    isMac: boolean;

    /** The user has seen the hint: it is not shown again. */
    onSeen(): void;
  }
}
