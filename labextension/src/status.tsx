/**
 * The status-bar item: whether code is completed in the notebook in front, by which model, and if not, why.
 */
import { ReactWidget } from '@jupyterlab/ui-components';
import React from 'react';

import type { Connections } from './connection';
import { describe } from './standing';

export class StatusItem extends ReactWidget {
  constructor(private _options: StatusItem.IOptions) {
    super();
    this.addClass('jp-sc2-StatusItem');
    this.addClass('jp-mod-highlighted');
    _options.connections.changed.connect(() => this.update());
  }

  protected render(): JSX.Element | null {
    const { connections, isEnabled, toggle } = this._options;
    const connection = connections.current;
    if (!connection) {
      return null;
    }
    const { text, title } = describe(connection.standing, isEnabled(), connection.busy);
    return (
      <button
        className="jp-sc2-StatusItem-button"
        title={title}
        onClick={toggle}
        // The editor keeps the focus; else the bar says another mode, and the button slips from under the mouse.
        onMouseDown={event => event.preventDefault()}
      >
        {text}
      </button>
    );
  }
}

export namespace StatusItem {
  export interface IOptions {
    connections: Connections;
    isEnabled: () => boolean;
    toggle: () => void;
  }
}
