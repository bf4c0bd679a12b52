/**
 * Shows the output of one of our magics outside a notebook, rendered by the notebook, which knows the kernel's widgets.
 */
import { Dialog } from '@jupyterlab/apputils';
import type { ConsolePanel } from '@jupyterlab/console';
import type { NotebookPanel } from '@jupyterlab/notebook';
import { OutputAreaModel, SimplifiedOutputArea } from '@jupyterlab/outputarea';
import type { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import type { TranslationBundle } from '@jupyterlab/translation';
import { PanelLayout, Widget } from '@lumino/widgets';

import type { Connection } from '../kernel/connection';

/** The kernel that runs a magic, and the renderer for its output. */
export interface IMagicTarget {
  connection: Connection | null;
  rendermime: IRenderMimeRegistry | null;
}

/** Runs `%sc2 COMMAND` in the kernel, which must be connected; `done` resolves when the magic has ended. */
export function runMagic(
  { connection, rendermime }: IMagicTarget,
  command: 'panel' | 'context'
): { output: Widget; done: Promise<void> } {
  const output = new SimplifiedOutputArea({
    model: new OutputAreaModel({ trusted: true }),
    rendermime: rendermime!
  });
  const future = connection!.context.session!.kernel!.requestExecute({
    code: `__import__('IPython').get_ipython().run_line_magic('sc2', '${command}')`,
    store_history: false,
    allow_stdin: false,
    stop_on_error: false
  });
  output.future = future;
  const done = future.done.then(
    () => undefined,
    () => undefined // the kernel is gone
  );
  return { output, done };
}

/** What to show until a magic displays something. */
export function pendingText({ busy }: Connection, trans: TranslationBundle): string {
  return busy ? trans.__('Waiting for the running cell.') : trans.__('Loading…');
}

/** Opens a dialog with the prompt of the last request. */
export function showPrompt(target: IMagicTarget, trans: TranslationBundle): void {
  const body = new Widget();
  body.addClass('jp-sc2-Context');
  const layout = (body.layout = new PanelLayout());
  if (target.connection?.client && target.rendermime) {
    const { output, done } = runMagic(target, 'context');
    const note = new Widget();
    note.node.textContent = pendingText(target.connection, trans);
    layout.addWidget(note);
    layout.addWidget(output);
    void done.then(() => note.dispose());
  }
  void new Dialog({
    title: trans.__('Prompt of the Last Request'),
    body,
    buttons: [Dialog.okButton({ label: trans.__('Close') })]
  }).launch();
}

/** What renders the outputs of a notebook or a console, its kernel's widgets among them. */
export function rendermimeOf(
  owner: NotebookPanel | ConsolePanel | null
): IRenderMimeRegistry | null {
  return owner && ('console' in owner ? owner.console.rendermime : owner.content.rendermime);
}
