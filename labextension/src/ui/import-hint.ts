/**
 * Shows beside ghost text the imports that are added with it, such as "+ import numpy as np"; a click leaves them out.
 */
import type { TranslationBundle } from '@jupyterlab/translation';

import { endOfGhostText, FOLLOW_MS } from './ghost-text';

/** Other marks beside the ghost text, behind which the hint stands. */
const OTHERS = '.jp-sc2-Attribution, .jp-sc2-CandidateCount';

export class ImportHint {
  constructor(private _trans: TranslationBundle) {
    // JupyterLab dismisses ghost text at each press of a button outside it, for which it listens at the document.
    window.addEventListener(
      'pointerdown',
      event => {
        if (event.target === this._node) {
          event.stopPropagation();
        }
      },
      true
    );
  }

  /** Ghost text of ours is shown in this editor, or none any more; `leaveOut` is called on a click. */
  update(
    isShown: boolean,
    host: HTMLElement,
    read: () => readonly string[],
    leaveOut: () => void
  ): void {
    clearInterval(this._timer);
    this._leaveOut = leaveOut;
    if (!isShown) {
      this._remove();
      return;
    }
    this._draw(host, read());
    this._timer = setInterval(() => this._draw(host, read()), FOLLOW_MS);
  }

  private _draw(host: HTMLElement, lines: readonly string[]): void {
    const last = endOfGhostText(host);
    if (!last || lines.length === 0) {
      this._node?.remove();
      this._node = null;
      return;
    }
    const node = (this._node ??= document.body.appendChild(this._make()));
    node.textContent = `+ ${lines.join(', ')}`;
    const marks = Array.from(document.querySelectorAll(OTHERS), mark =>
      mark.getBoundingClientRect()
    );
    const inRow = marks.filter(({ top }) => Math.abs(top - last.top) < last.height);
    const left = Math.max(last.right, ...inRow.map(({ right }) => right)) + 8;
    const room = window.innerWidth - node.offsetWidth - 4;
    node.style.left = `${Math.max(0, Math.min(left, room))}px`;
    node.style.top = `${left > room ? last.bottom : last.top}px`;
  }

  private _make(): HTMLElement {
    const node = document.createElement('button');
    node.className = 'jp-sc2-ImportHint';
    node.tabIndex = -1; // Tab accepts.
    node.title = this._trans.__('Added when you accept. Click to leave it out.');
    // The focus would move, and the ghost text vanish.
    node.addEventListener('mousedown', event => event.preventDefault());
    node.addEventListener('click', () => {
      this._leaveOut();
      this._remove();
    });
    return node;
  }

  private _remove(): void {
    clearInterval(this._timer);
    this._node?.remove();
    this._node = null;
  }

  private _leaveOut: () => void = () => undefined;
  private _node: HTMLElement | null = null;
  private _timer: ReturnType<typeof setInterval> | undefined;
}
