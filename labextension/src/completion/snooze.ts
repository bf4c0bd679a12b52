/**
 * A pause of the suggestions while typing: for some minutes, or until the page is reloaded.
 */

const MINUTE_MS = 60_000;

/** How often the time that is left is told anew. */
const TICK_MS = 10_000;

export class Snooze {
  constructor(private _onChanged: () => void) {}

  get isActive(): boolean {
    return Date.now() < this._until;
  }

  /** Whole minutes that are left, rounded up; Infinity until the page is reloaded, 0 when there is no pause. */
  get minutesLeft(): number {
    return Math.max(0, Math.ceil((this._until - Date.now()) / MINUTE_MS));
  }

  /** Begins a pause of so many minutes; of Infinity until the page is reloaded. */
  start(minutes: number): void {
    this._until = Date.now() + minutes * MINUTE_MS;
    clearInterval(this._timer);
    if (Number.isFinite(minutes)) {
      this._timer = setInterval(() => this._tick(), TICK_MS);
    }
    this._onChanged();
  }

  end(): void {
    this._until = 0;
    clearInterval(this._timer);
    this._onChanged();
  }

  private _tick(): void {
    if (this.isActive) {
      this._onChanged();
    } else {
      this.end();
    }
  }

  private _timer: ReturnType<typeof setInterval> | undefined;
  private _until = 0;
}
