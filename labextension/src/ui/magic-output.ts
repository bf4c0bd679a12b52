/**
 * What a magic of ours displays, shown outside a notebook: drawn by the notebook's own renderer, which knows the
 * kernel's widgets.
 */
import { Dialog } from '@jupyterlab/apputils';
import { OutputAreaModel, SimplifiedOutputArea } from '@jupyterlab/outputarea';
import type { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import { PanelLayout, Widget } from '@lumino/widgets';

import type { Connection } from '../kernel/connection';

/** Which kernel is asked, and who draws what it displays. */
export interface ISubject {
  connection: Connection | null;
  rendermime: IRenderMimeRegistry | null;
}

/** Runs `%sc2 COMMAND` in the kernel, which there has to be; `done` resolves when it has ended. */
export function outputOf(
  { connection, rendermime }: ISubject,
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

/** A dialog with all that the model reads for what was typed last. */
export function showContext(subject: ISubject): void {
  const body = new Widget();
  body.addClass('jp-sc2-Context');
  const layout = (body.layout = new PanelLayout());
  if (subject.connection?.client && subject.rendermime) {
    const { output, done } = outputOf(subject, 'context');
    const note = new Widget();
    note.node.textContent = subject.connection.busy
      ? 'Waiting for the running cell.'
      : 'The kernel is asked.';
    layout.addWidget(note);
    layout.addWidget(output);
    void done.then(() => note.dispose());
  }
  void new Dialog({
    title: 'What the model reads for what you typed last',
    body,
    buttons: [Dialog.okButton({ label: 'Close' })]
  }).launch();
}
