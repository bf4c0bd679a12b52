/**
 * Reads ghost text out to those who use a screen reader and want it: off unless the setting `announce` is on.
 */

/** Text that changes with every key is read when it rests. */
const REST_MS = 700;

export class Announcer {
  enabled = false;

  shown(text: string): void {
    clearTimeout(this._timer);
    if (!this.enabled) {
      this._region?.remove();
      this._region = null;
      return;
    }
    this._timer = setTimeout(() => {
      this._live().textContent = text && `Suggestion: ${text}`;
    }, REST_MS);
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
