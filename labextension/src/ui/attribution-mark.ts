/**
 * Marks ghost text that matches indexed code: a label beside it, with the details when the pointer is over it.
 */
import { matchesOf } from '../completion/inline-items';
import type { IInlineItem } from '../completion/types';
import type { IAttribution } from '../kernel/protocol';

const CLASS = 'jp-sc2-Attribution';

/** Ghost text moves while it streams, is scrolled or wraps; the mark follows in these intervals. */
const FOLLOW_MS = 100;

const GHOST_TEXT =
  '.jp-GhostText:not(.jp-GhostText-lineSpacer):not(.jp-GhostText-letterSpacer):not(:empty)';

export class AttributionMark {
  /** Our ghost text in this editor has appeared, changed or gone. */
  update(item: IInlineItem | undefined, host: HTMLElement): void {
    if (item === this._offer && host === this._host) {
      return;
    }
    this._offer = item;
    this._host = host;
    this._draw();
    if (item && !item.suggestion.done) {
      void this._follow(item); // The kernel sends the matches with the last update.
    }
  }

  private async _follow(item: IInlineItem): Promise<void> {
    while (!item.suggestion.done) {
      await item.suggestion.nextUpdate();
      if (this._offer !== item) {
        return;
      }
      this._draw();
    }
  }

  private _draw(): void {
    clearInterval(this._timer);
    const matches = this._offer ? matchesOf(this._offer) : [];
    const policy = this._offer?.suggestion.policy ?? '';
    // The mark stays if the next text has the same matches: the pointer may be over it.
    const drawn = matches.length > 0 ? JSON.stringify([policy, matches]) : '';
    if (drawn !== this._drawn) {
      this._drawn = drawn;
      this._mark?.remove();
      this._mark = drawn ? document.body.appendChild(makeMark(matches, policy)) : null;
    }
    if (this._mark) {
      this._place();
      this._timer = setInterval(() => this._place(), FOLLOW_MS);
    }
  }

  /** Puts the mark behind the last piece of visible ghost text; without one it is hidden. */
  private _place(): void {
    const mark = this._mark!;
    const suggestions = Array.from(this._host?.querySelectorAll<HTMLElement>(GHOST_TEXT) ?? []);
    const box = suggestions.filter(suggestion => suggestion.offsetParent).pop();
    const rects = box?.getClientRects();
    const last = rects?.[rects.length - 1];
    mark.style.visibility = last ? 'visible' : 'hidden';
    if (last) {
      const room = window.innerWidth - mark.offsetWidth - 8;
      mark.style.left = `${Math.max(0, Math.min(last.right + 12, room))}px`;
      mark.style.top = `${last.right + 12 > room ? last.bottom : last.top}px`;
    }
  }

  private _host: HTMLElement | null = null;
  private _mark: HTMLElement | null = null;
  private _offer: IInlineItem | undefined;
  private _drawn = '';
  private _timer: ReturnType<typeof setInterval> | undefined;
}

/** A match in short: `pandas, BSD-3-Clause`. */
export function shortMatch({ source, licence }: IAttribution): string {
  return `${source}, ${licence && licence !== 'NOASSERTION' ? licence : 'licence not stated'}`;
}

/** A match in full: `pandas 3.1.1, pandas/core/frame.py, lines 10 to 20: 80 lexemes; BSD-3-Clause`. */
export function fullMatch(match: IAttribution): string {
  const { source, version, path, lines, lexemes, verified } = match;
  const name = [source, version].filter(Boolean).join(' ');
  const where = lines ? `${path}, lines ${lines[0]} to ${lines[1]}` : path;
  const unverified = verified === false ? ', by the index alone' : '';
  return `${name}, ${where}: ${lexemes} lexemes${unverified}; ${shortMatch(match).split(', ').pop()}`;
}

function makeMark(matches: IAttribution[], policy: string): HTMLElement {
  const mark = document.createElement('div');
  mark.className = policy === 'warn' ? `${CLASS} jp-mod-warn` : CLASS;
  mark.setAttribute('role', 'note');
  const more = matches.length > 1 ? ` and ${matches.length - 1} more` : '';
  const label = document.createElement('span');
  label.className = `${CLASS}-label`;
  label.textContent = `≈ ${shortMatch(matches[0])}${more}`;
  const details = document.createElement('div');
  details.className = `${CLASS}-details`;
  const heading = document.createElement('div');
  heading.textContent = 'This text, with the code around it, is also in';
  const list = document.createElement('ul');
  for (const match of matches) {
    const item = document.createElement('li');
    item.textContent = fullMatch(match);
    list.appendChild(item);
  }
  details.append(heading, list);
  mark.append(label, details);
  // A click would move the focus, and the ghost text would vanish.
  mark.addEventListener('mousedown', event => event.preventDefault());
  return mark;
}
