/**
 * The item in the status bar: which model completes code in the document in front, or why none does. A click opens a
 * menu.
 */
import { ReactWidget } from '@jupyterlab/ui-components';
import type { ISignal } from '@lumino/signaling';
import type { Menu } from '@lumino/widgets';
import React from 'react';

import type { IStatusText } from './status-text';

export class StatusItem extends ReactWidget {
  constructor(private _options: StatusItem.IOptions) {
    super();
    this.addClass('jp-sc2-StatusItem');
    this.addClass('jp-mod-highlighted');
    _options.changed.connect(() => this.update());
  }

  protected render(): JSX.Element | null {
    const status = this._options.statusText();
    if (!status) {
      return null;
    }
    const { text, tooltip } = status;
    return (
      <button
        className="jp-sc2-StatusItem-button"
        title={tooltip}
        aria-haspopup="menu"
        onClick={event => this._open(event.currentTarget)}
        // The editor keeps the focus: otherwise the bar shows another mode, and the button moves away from the mouse.
        onMouseDown={event => event.preventDefault()}
      >
        {text}
      </button>
    );
  }

  private _open(button: HTMLElement): void {
    const { left, top, bottom } = button.getBoundingClientRect();
    // A menu that does not fit below its point goes above it.
    this._options.menu.open(left, top > window.innerHeight / 2 ? top : bottom);
  }
}

export namespace StatusItem {
  export interface IOptions {
    /** What to show; null where there is nothing to show. */
    statusText: () => IStatusText | null;

    changed: ISignal<unknown, void>;
    menu: Menu;
  }
}
