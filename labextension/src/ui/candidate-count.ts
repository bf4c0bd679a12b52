/**
 * Tells beside the ghost text which of how many candidates it is, such as 2/3.
 */
import type { TranslationBundle } from '@jupyterlab/translation';

import { endOfGhostText, FOLLOW_MS } from './ghost-text';

/** Which of how many, counted from 1; null for no candidate of ours. */
export type Position = [position: number, total: number] | null;

export class CandidateCount {
  constructor(private _trans: TranslationBundle) {}

  /** Ghost text of ours is shown in this editor, or none any more. */
  update(isShown: boolean, host: HTMLElement, read: () => Position): void {
    clearInterval(this._timer);
    if (!isShown) {
      this._remove();
      return;
    }
    this._draw(host, read());
    this._timer = setInterval(() => this._draw(host, read()), FOLLOW_MS);
  }

  private _draw(host: HTMLElement, position: Position): void {
    const last = endOfGhostText(host);
    if (!last || !position || position[1] < 2) {
      this._remove();
      return;
    }
    const node = (this._node ??= document.body.appendChild(this._make()));
    node.textContent = `${position[0]}/${position[1]}`;
    node.setAttribute('aria-label', this._trans.__('Suggestion %1 of %2', ...position));
    // Behind the mark of matching code, if there is one.
    const mark = document.querySelector('.jp-sc2-Attribution')?.getBoundingClientRect();
    const right = mark && mark.top === last.top ? mark.right : last.right;
    node.style.left = `${Math.min(right + 8, window.innerWidth - node.offsetWidth - 4)}px`;
    node.style.top = `${last.top}px`;
  }

  private _make(): HTMLElement {
    const node = document.createElement('div');
    node.className = 'jp-sc2-CandidateCount';
    node.setAttribute('role', 'note');
    return node;
  }

  private _remove(): void {
    clearInterval(this._timer);
    this._node?.remove();
    this._node = null;
  }

  private _node: HTMLElement | null = null;
  private _timer: ReturnType<typeof setInterval> | undefined;
}
