/**
 * Announces ghost text to screen readers, if the setting `announce` is on.
 */

import type { TranslationBundle } from '@jupyterlab/translation';

/** Ghost text changes with every key; it is announced once it has been the same for this long. */
const IDLE_MS = 500;

export class Announcer {
  constructor(private _trans: TranslationBundle) {}

  enabled = false;

  /** Ghost text has appeared, changed or gone; `read` returns the present text. */
  onChanged(read: () => string): void {
    clearTimeout(this._timer);
    if (this.enabled) {
      this._wait(read, read());
    } else {
      this._region?.remove();
      this._region = null;
    }
  }

  private _wait(read: () => string, before: string): void {
    this._timer = setTimeout(() => {
      const text = read();
      if (text !== before) {
        this._wait(read, text); // It is still streaming.
      } else if (text || this._region) {
        this._live().textContent = text && `${this._trans.__('Suggestion:')} ${text}`;
      }
    }, IDLE_MS);
  }

  private _live(): HTMLElement {
    if (!this._region) {
      this._region = document.createElement('div');
      this._region.className = 'jp-sc2-Announcer';
      this._region.setAttribute('role', 'status');
      this._region.setAttribute('aria-live', 'polite');
      document.body.appendChild(this._region);
    }
    return this._region;
  }

  private _region: HTMLElement | null = null;
  private _timer: ReturnType<typeof setTimeout> | undefined;
}
