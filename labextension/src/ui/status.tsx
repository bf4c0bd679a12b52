/**
 * The status item: whether code is completed in the document in front, by which model, and if not, why. A click
 * opens a menu with what can be done about it.
 */
import { ReactWidget } from '@jupyterlab/ui-components';
import type { ISignal } from '@lumino/signaling';
import type { Menu } from '@lumino/widgets';
import React from 'react';

import type { IDescription } from './status-text';

export class StatusItem extends ReactWidget {
  constructor(private _options: StatusItem.IOptions) {
    super();
    this.addClass('jp-sc2-StatusItem');
    this.addClass('jp-mod-highlighted');
    _options.changed.connect(() => this.update());
  }

  protected render(): JSX.Element | null {
    const description = this._options.describe();
    if (!description) {
      return null;
    }
    const { text, title } = description;
    return (
      <button
        className="jp-sc2-StatusItem-button"
        title={title}
        aria-haspopup="menu"
        onClick={event => this._open(event.currentTarget)}
        // The editor keeps the focus; else the bar says another mode, and the button slips from under the mouse.
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
    /** What to say; null where there is nothing to say. */
    describe: () => IDescription | null;

    changed: ISignal<unknown, void>;
    menu: Menu;
  }
}
