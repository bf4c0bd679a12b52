/**
 * Marks ghost text that matches indexed code: a label beside it, with the details when the pointer is over it.
 */
import type { TranslationBundle } from '@jupyterlab/translation';

import { matchesOf } from '../completion/inline-items';
import type { IInlineItem } from '../completion/types';
import type { IAttribution } from '../kernel/protocol';
import { endOfGhostText, FOLLOW_MS } from './ghost-text';

const CLASS = 'jp-sc2-Attribution';

export class AttributionMark {
  constructor(private _trans: TranslationBundle) {}

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
      this._mark = drawn ? document.body.appendChild(makeMark(matches, policy, this._trans)) : null;
    }
    if (this._mark) {
      this._place();
      this._timer = setInterval(() => this._place(), FOLLOW_MS);
    }
  }

  /** Puts the mark behind the last piece of visible ghost text; without one it is hidden. */
  private _place(): void {
    const mark = this._mark!;
    const last = endOfGhostText(this._host);
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
export function shortMatch(match: IAttribution, trans: TranslationBundle): string {
  return `${match.source}, ${licenceOf(match, trans)}`;
}

/** A match in full: `pandas 3.1.1, pandas/core/frame.py, lines 10 to 20: 80 words and symbols; BSD-3-Clause`. */
export function fullMatch(match: IAttribution, trans: TranslationBundle): string {
  const { source, version, path, lines, lexemes, verified } = match;
  const name = [source, version].filter(Boolean).join(' ');
  const place = lines ? trans.__('%1, lines %2 to %3', path, lines[0], lines[1]) : path;
  const length =
    verified === false
      ? trans._n(
          '%1 word or symbol, by the index alone',
          '%1 words and symbols, by the index alone',
          lexemes
        )
      : trans._n('%1 word or symbol', '%1 words and symbols', lexemes);
  return `${name}, ${place}: ${length}; ${licenceOf(match, trans)}`;
}

function licenceOf({ licence }: IAttribution, trans: TranslationBundle): string {
  return licence && licence !== 'NOASSERTION' ? licence : trans.__('licence not stated');
}

function makeMark(matches: IAttribution[], policy: string, trans: TranslationBundle): HTMLElement {
  const mark = document.createElement('div');
  mark.className = policy === 'warn' ? `${CLASS} jp-mod-warn` : CLASS;
  mark.setAttribute('role', 'note');
  const label = document.createElement('span');
  label.className = `${CLASS}-label`;
  const [first, ...more] = matches;
  const short = shortMatch(first, trans);
  label.textContent =
    more.length > 0
      ? trans._n('≈ %2 and %1 more', '≈ %2 and %1 more', more.length, short)
      : `≈ ${short}`;
  const details = document.createElement('div');
  details.className = `${CLASS}-details`;
  const heading = document.createElement('div');
  heading.textContent = trans.__('With the code around it, this text matches');
  const list = document.createElement('ul');
  for (const match of matches) {
    const item = document.createElement('li');
    item.textContent = fullMatch(match, trans);
    list.appendChild(item);
  }
  details.append(heading, list);
  mark.append(label, details);
  // A click would move the focus, and the ghost text would vanish.
  mark.addEventListener('mousedown', event => event.preventDefault());
  return mark;
}
