/**
 * Where suggested text may come from: a mark beside the ghost text, with the details below the pointer.
 */
import type { IOffer } from '../completion/inline-items';
import type { IAttribution } from '../kernel/protocol';

const CLASS = 'jp-sc2-Attribution';

/** Ghost text moves as it is written, scrolled or wrapped; the mark follows at this pace. */
const FOLLOW_MS = 100;

const GHOST =
  '.jp-GhostText:not(.jp-GhostText-lineSpacer):not(.jp-GhostText-letterSpacer):not(:empty)';

export class AttributionMark {
  /** Our ghost text in this editor has come, changed or gone. */
  shown(offer: IOffer | undefined, host: HTMLElement): void {
    if (offer === this._offer && host === this._host) {
      return;
    }
    this._offer = offer;
    this._host = host;
    this._draw();
    if (offer && !offer.ghost.done) {
      void this._followed(offer); // The kernel says it with the last of a text.
    }
  }

  private async _followed(offer: IOffer): Promise<void> {
    while (!offer.ghost.done) {
      await offer.ghost.grown();
      if (this._offer !== offer) {
        return;
      }
      this._draw();
    }
  }

  private _draw(): void {
    clearInterval(this._timer);
    const matches = this._offer ? matchesOf(this._offer) : [];
    const policy = this._offer?.ghost.policy ?? '';
    // Where the next text matches the same, its mark may be the one that the pointer is over.
    const said = matches.length > 0 ? JSON.stringify([policy, matches]) : '';
    if (said !== this._said) {
      this._said = said;
      this._mark?.remove();
      this._mark = said ? document.body.appendChild(makeMark(matches, policy)) : null;
    }
    if (this._mark) {
      this._place();
      this._timer = setInterval(() => this._place(), FOLLOW_MS);
    }
  }

  /** Behind the last piece of ghost text, or nowhere. */
  private _place(): void {
    const mark = this._mark!;
    const ghosts = Array.from(this._host?.querySelectorAll<HTMLElement>(GHOST) ?? []);
    const box = ghosts.filter(ghost => ghost.offsetParent).pop();
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
  private _offer: IOffer | undefined;
  private _said = '';
  private _timer: ReturnType<typeof setInterval> | undefined;
}

/** What the text of an offer matches. */
export function matchesOf({ ghost, index }: IOffer): IAttribution[] {
  return ghost.attributions[index] ?? [];
}

/** A match in few words: `pandas, BSD-3-Clause`. */
export function briefly({ source, licence }: IAttribution): string {
  return `${source}, ${licence && licence !== 'NOASSERTION' ? licence : 'licence not stated'}`;
}

/** A match in all words: `pandas 3.1.1, pandas/core/frame.py, lines 10 to 20: 80 lexemes; BSD-3-Clause`. */
export function inFull(match: IAttribution): string {
  const { source, version, path, lines, lexemes, verified } = match;
  const name = [source, version].filter(Boolean).join(' ');
  const where = lines ? `${path}, lines ${lines[0]} to ${lines[1]}` : path;
  const unsure = verified === false ? ', by the index alone' : '';
  return `${name}, ${where}: ${lexemes} lexemes${unsure}; ${briefly(match).split(', ').pop()}`;
}

function makeMark(matches: IAttribution[], policy: string): HTMLElement {
  const mark = document.createElement('div');
  mark.className = policy === 'warn' ? `${CLASS} jp-mod-warn` : CLASS;
  mark.setAttribute('role', 'note');
  const others = matches.length > 1 ? ` and ${matches.length - 1} more` : '';
  const label = document.createElement('span');
  label.className = `${CLASS}-label`;
  label.textContent = `≈ ${briefly(matches[0])}${others}`;
  const details = document.createElement('div');
  details.className = `${CLASS}-details`;
  const heading = document.createElement('div');
  heading.textContent = 'This text, with the code around it, is also in';
  const list = document.createElement('ul');
  for (const match of matches) {
    const item = document.createElement('li');
    item.textContent = inFull(match);
    list.appendChild(item);
  }
  details.append(heading, list);
  mark.append(label, details);
  // A click would take the focus, and with it the ghost text.
  mark.addEventListener('mousedown', event => event.preventDefault());
  return mark;
}
