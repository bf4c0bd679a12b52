/**
 * The sidebar with the panel that `%sc2 panel` shows: the same ipywidgets, rendered by the notebook.
 */
import type { TranslationBundle } from '@jupyterlab/translation';
import { LabIcon } from '@jupyterlab/ui-components';
import type { Message } from '@lumino/messaging';
import { PanelLayout, Widget } from '@lumino/widgets';

import type { KernelClient } from '../kernel/client';
import { pendingText, runMagic, type IMagicTarget } from './magic-output';

const ICON = new LabIcon({
  name: 'jupyter_sc2:panel',
  svgstr:
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" width="16">' +
    '<path class="jp-icon3" fill="#616161" d="M3 5h9v2H3zm0 6h6v2H3zm0 6h9v2H3zM14 5h3v14h-3z"/>' +
    '<path class="jp-icon3" fill="#616161" opacity=".45" d="M11 11h2v2h-2zm7 0h3v2h-3z"/></svg>'
});

export class Sidebar extends Widget {
  constructor(
    private _magicTarget: () => IMagicTarget,
    private _openSettings: () => void,
    private _trans: TranslationBundle
  ) {
    super();
    this.id = 'jupyter_sc2-panel';
    this.title.icon = ICON;
    this.title.caption = this._trans.__('Code Completion (SC2)');
    this.addClass('jp-sc2-Sidebar');
    this.layout = new PanelLayout();
  }

  /** Shows the panel of the document in front, unless it is shown already. */
  refresh(): void {
    if (!this.isVisible) {
      return;
    }
    const target = this._magicTarget();
    const { connection } = target;
    const client = connection?.client;
    if (connection?.isCompanion) {
      this._shown = null;
      this._fill(
        textWidget(
          this._trans.__(
            'The companion kernel completes code here. It has the settings for all kernels.'
          )
        ),
        this._settingsButton()
      );
      return;
    }
    if (!client || !target.rendermime) {
      this._shown = null;
      this._fill(
        textWidget(
          this._trans.__('Open a notebook with a Python kernel in which jupyter-sc2 is loaded.')
        )
      );
      return;
    }
    if (this._shown === client && this._rendermime === target.rendermime) {
      return;
    }
    this._shown = client; // a new one after each restart of the kernel
    this._rendermime = target.rendermime;
    const { output, done } = runMagic(target, 'panel');
    const note = textWidget(pendingText(connection, this._trans));
    this._fill(note, output);
    void done.then(() => note.dispose());
  }

  protected onAfterShow(message: Message): void {
    super.onAfterShow(message);
    this.refresh();
  }

  private _settingsButton(): Widget {
    const node = document.createElement('button');
    node.className = 'jp-sc2-Sidebar-button jp-mod-styled jp-mod-accept';
    node.textContent = this._trans.__('Open Settings');
    node.addEventListener('click', this._openSettings);
    return new Widget({ node });
  }

  private _fill(...widgets: Widget[]): void {
    const layout = this.layout as PanelLayout;
    [...layout.widgets].forEach(widget => widget.dispose());
    widgets.forEach(widget => layout.addWidget(widget));
  }

  private _rendermime: IMagicTarget['rendermime'] = null;
  private _shown: KernelClient | null = null;
}

function textWidget(text: string): Widget {
  const widget = new Widget();
  widget.addClass('jp-sc2-Sidebar-note');
  widget.node.textContent = text;
  return widget;
}
