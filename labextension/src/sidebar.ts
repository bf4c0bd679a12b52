/**
 * The sidebar with the panel that `%sc2 panel` shows: the same ipywidgets, drawn by the notebook's own renderer.
 */
import { OutputAreaModel, SimplifiedOutputArea } from '@jupyterlab/outputarea';
import type { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import { LabIcon } from '@jupyterlab/ui-components';
import type { Message } from '@lumino/messaging';
import { PanelLayout, Widget } from '@lumino/widgets';

import type { Connection } from './connection';

const SHOW = "__import__('IPython').get_ipython().run_line_magic('sc2', 'panel')";

const ICON = new LabIcon({
  name: 'jupyter_sc2:panel',
  svgstr:
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" width="16">' +
    '<path class="jp-icon3" fill="#616161" d="M3 5h9v2H3zm0 6h6v2H3zm0 6h9v2H3zM14 5h3v14h-3z"/>' +
    '<path class="jp-icon3" fill="#616161" opacity=".45" d="M11 11h2v2h-2zm7 0h3v2h-3z"/></svg>'
});

/** What the panel is about: a kernel, and who draws its widgets. */
export interface ISubject {
  connection: Connection | null;
  rendermime: IRenderMimeRegistry | null;
}

export class Sidebar extends Widget {
  constructor(private _subject: () => ISubject) {
    super();
    this.id = 'jupyter_sc2-panel';
    this.title.icon = ICON;
    this.title.caption = 'Code Completion (SC2)';
    this.addClass('jp-sc2-Sidebar');
    this.layout = new PanelLayout();
  }

  /** Shows the panel of the document in front, unless it does already. */
  refresh(): void {
    if (!this.isVisible) {
      return;
    }
    const { connection, rendermime } = this._subject();
    const kernel = connection?.client ? connection.context.session?.kernel : null;
    if (!kernel || !rendermime) {
      this._say('Open a notebook with a Python kernel in which jupyter-sc2 is loaded.');
      return;
    }
    if (this._kernel === kernel.id && this._rendermime === rendermime) {
      return;
    }
    this._kernel = kernel.id;
    this._rendermime = rendermime;
    const output = new SimplifiedOutputArea({
      model: new OutputAreaModel({ trusted: true }),
      rendermime
    });
    const note = text(connection!.busy ? 'Waiting for the running cell.' : 'Opening.');
    this._fill(note, output);
    const future = kernel.requestExecute({
      code: SHOW,
      store_history: false,
      allow_stdin: false,
      stop_on_error: false
    });
    output.future = future;
    void future.done.catch(() => undefined).then(() => note.dispose());
  }

  /** The kernel is another one now, although its id may be the same. */
  forget(): void {
    this._kernel = null;
    this.refresh();
  }

  protected onAfterShow(message: Message): void {
    super.onAfterShow(message);
    this.refresh();
  }

  private _say(words: string): void {
    this._kernel = this._rendermime = null;
    this._fill(text(words));
  }

  private _fill(...widgets: Widget[]): void {
    const layout = this.layout as PanelLayout;
    [...layout.widgets].forEach(widget => widget.dispose());
    widgets.forEach(widget => layout.addWidget(widget));
  }

  private _kernel: string | null = null;
  private _rendermime: IRenderMimeRegistry | null = null;
}

function text(words: string): Widget {
  const widget = new Widget();
  widget.addClass('jp-sc2-Sidebar-note');
  widget.node.textContent = words;
  return widget;
}
