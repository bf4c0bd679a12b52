/**
 * Joins the parts: the provider, the documents, the settings, the commands and the status item.
 */
import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, Notification } from '@jupyterlab/apputils';
import { ICompletionProviderManager, IInlineCompleterFactory } from '@jupyterlab/completer';
import { IConsoleTracker, type ConsolePanel } from '@jupyterlab/console';
import { IEditorTracker } from '@jupyterlab/fileeditor';
import { INotebookTracker, NotebookActions, type NotebookPanel } from '@jupyterlab/notebook';
import type { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStatusBar } from '@jupyterlab/statusbar';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import { Signal } from '@lumino/signaling';

import { InlineCompleters } from './completion/inline-completer';
import { matchesOf } from './completion/inline-items';
import { Announcer } from './ui/announcer';
import { AttributionMark, fullMatch } from './ui/attribution-mark';
import { addCommands, addToPalette, makeMenu } from './ui/commands';
import { NewlineTrigger } from './completion/newline-trigger';
import { RetentionTracker } from './usage/retention';
import { showPrompt } from './ui/magic-output';
import { Documents } from './documents/documents';
import { Provider } from './completion/provider';
import { AcceptanceRecorder } from './usage/record';
import { FrontEndSettings } from './settings';
import { Sidebar } from './ui/sidebar';
import { reasonText, statusText } from './ui/status-text';
import { StatusItem } from './ui/status';

/** How long a cursor stays in one place until its kernel is told. */
const IDLE_MS = 300;

const PLUGIN = 'jupyter-sc2:plugin';

const plugin: JupyterFrontEndPlugin<void> = {
  id: PLUGIN,
  description: 'Ghost text from a model in the kernel.',
  autoStart: true,
  requires: [ICompletionProviderManager, IInlineCompleterFactory, INotebookTracker],
  optional: [
    IConsoleTracker,
    IEditorTracker,
    ISettingRegistry,
    IStatusBar,
    ICommandPalette,
    ITranslator
  ],
  activate: (
    app: JupyterFrontEnd,
    completion: ICompletionProviderManager,
    factory: IInlineCompleterFactory,
    notebooks: INotebookTracker,
    consoles: IConsoleTracker | null,
    editors: IEditorTracker | null,
    registry: ISettingRegistry | null,
    statusBar: IStatusBar | null,
    palette: ICommandPalette | null,
    userTranslator: ITranslator | null
  ) => {
    const translator = userTranslator ?? nullTranslator;
    const trans = translator.load('jupyter_sc2');
    const changed = new Signal<object, void>({});
    const current = () => app.shell.currentWidget;
    const notify = (message: string, kind: 'info' | 'error') =>
      void Notification.emit(message, kind, { autoClose: kind === 'error' ? 8000 : 4000 });

    const documents = new Documents({
      trackers: { notebooks, consoles, editors },
      onError: message => notify(message, 'error'),
      onStale: () => provider.clearCache(),
      stateText: ({ state, busy }) => statusText(state, { busy }, trans).text,
      onSaved: (saved, values) =>
        void settings.adoptKernelDefaults(saved, values).then(changed => {
          if (changed) {
            notify(
              trans.__("JupyterLab's settings for all kernels were updated to match."),
              'info'
            );
          }
        })
    });
    const provider = new Provider({
      resolveTarget: (widget, text) => documents.resolveTarget(widget, text),
      settled: widget => documents.settled(widget),
      trans,
      reasonText: reason => reasonText(reason, trans),
      notify,
      add: (item, first) => completers.add(item, first),
      remove: (item, first) => completers.remove(item, first),
      onOutcome: ({ kind }) => {
        if (kind === 'shown') {
          documents.connection(current())?.suggestionShown();
        }
        changed.emit();
      }
    });
    // At once: JupyterLab never uses a provider that is registered after its layout was restored.
    completion.registerInlineProvider(provider);

    const announcer = new Announcer(trans);
    const retention = new RetentionTracker();
    const mark = new AttributionMark(trans);
    const recorder = new AcceptanceRecorder();
    const newlineTrigger = new NewlineTrigger({
      provider,
      policy: () => documents.requestedAfterEnter(current()),
      targetKey: (editor, source) => {
        const widget = current();
        const target = widget?.node.contains(editor.host)
          ? documents.resolveTarget(widget, source)
          : null;
        return target && typeof target !== 'string' && target.mode === 'automatic'
          ? target.key
          : null;
      },
      invoke: () => completion.inline?.invoke(current()!.id)
    });
    // Delayed: a user who runs cells one after another, or moves through one, is in each place for a moment only.
    let timer: ReturnType<typeof setTimeout> | undefined;
    let typing = false;
    const notifyCursorIdleSoon = () => {
      clearTimeout(timer);
      timer = setTimeout(() => documents.notifyCursorIdle(notebooks.currentWidget), IDLE_MS);
    };
    const completers = new InlineCompleters({
      provider,
      onTextChanged: (editor, delta) => {
        // Typing moves the cursor, before or after this call; its request makes the kernel read the prompt anyway.
        clearTimeout(timer);
        typing = true;
        setTimeout(() => (typing = false), 0);
        if (editor) {
          newlineTrigger.onTextChanged(editor, delta);
        }
      },
      onCursorMoved: editor => {
        if (!typing && editor && editor === notebooks.activeCell?.editor) {
          notifyCursorIdleSoon();
        }
      },
      onShown: read => announcer.onChanged(read),
      onItemChanged: (item, host) => mark.update(item, host),
      onAccepted: (item, part, text) => {
        retention.onAccepted(item, part, text);
        const panel = notebooks.currentWidget;
        recorder.onAccepted(item, text, panel, documents.connection(panel)?.client?.hello?.version);
        const [match] = matchesOf(item);
        if (match && item.suggestion.policy === 'warn') {
          notify(trans.__('The accepted text matches %1.', fullMatch(match, trans)), 'info');
        }
      }
    });
    completers.follow(factory);

    const settings = new FrontEndSettings(registry, PLUGIN, values => {
      const reconnects = values.autoLoad !== documents.autoLoad || values.mode !== documents.mode;
      documents.mode = values.mode;
      documents.afterEnter = values.afterEnter;
      documents.isLocked = values.isLocked;
      documents.autoLoad = values.autoLoad;
      if (
        JSON.stringify(values.disabledLanguages) !== JSON.stringify(documents.disabledLanguages)
      ) {
        documents.disabledLanguages = values.disabledLanguages;
        provider.clearCache();
      }
      provider.debounceMs = values.debounceMs;
      provider.candidates = values.candidates;
      announcer.enabled = values.announce;
      if (JSON.stringify(values.labSettings) !== JSON.stringify(documents.labSettings)) {
        documents.labSettings = values.labSettings;
        documents.sendLabSettings();
      }
      if (reconnects) {
        documents.reconnect();
      }
      changed.emit();
    });
    // Only then: nothing may be loaded into a kernel if the settings forbid it.
    void settings.load().then(() => documents.start());

    const currentStatus = () => {
      const widget = current();
      const connection = documents.connection(widget);
      if (!connection) {
        return documents.canComplete(widget)
          ? statusText({ stage: 'no kernel' }, { busy: false }, trans)
          : null;
      }
      return statusText(
        connection.state,
        {
          busy: connection.busy,
          mode: documents.allowedMode(widget),
          outcome: provider.outcome
        },
        trans
      );
    };
    const magicTarget = () => {
      const owner = documents.sessionOwner(current()) ?? notebooks.currentWidget;
      return { connection: documents.connection(owner), rendermime: rendermimeOf(owner) };
    };
    const sidebar = new Sidebar(magicTarget, trans);
    app.shell.add(sidebar, 'right', { rank: 900 });
    addCommands({
      app,
      documents,
      completers,
      translator,
      trans,
      statusText: currentStatus,
      setMode: async mode => {
        provider.cancel();
        await settings.set('mode', mode);
      },
      isLocked: () => settings.isLocked,
      openPanel: () => app.shell.activateById(sidebar.id),
      showPrompt: () => showPrompt(magicTarget(), trans)
    });
    if (palette) {
      addToPalette(palette, trans);
    }

    const status = new StatusItem({ statusText: currentStatus, changed, menu: makeMenu(app) });
    const isActive = () => documents.canComplete(current());
    if (statusBar) {
      statusBar.registerStatusItem(PLUGIN, {
        item: status,
        align: 'right',
        rank: 10,
        isActive,
        activeStateChanged: changed as never
      });
    } else {
      // Notebook 7 has no status bar; it shows the kernel's state at the top, too.
      status.id = 'jupyter_sc2-status';
      app.shell.add(status, 'menu', { rank: 10020 });
    }

    documents.changed.connect(() => {
      changed.emit();
      sidebar.refresh();
    });
    app.shell.currentChanged?.connect(() => {
      provider.cancel();
      changed.emit();
      sidebar.refresh();
    });
    notebooks.activeCellChanged.connect((_, cell) => {
      provider.cancel();
      notifyCursorIdleSoon();
      const notebook = notebooks.currentWidget?.content;
      if (notebook && cell?.model.type === 'code' && cell.editor) {
        const above = notebook.widgets.slice(0, notebook.activeCellIndex);
        const isBelowCode = above.some(
          ({ model }) => model.type === 'code' && model.sharedModel.getSource().trim() !== ''
        );
        newlineTrigger.onCellEntered(cell.editor, isBelowCode);
      }
    });
    NotebookActions.executed.connect((_, { notebook, cell }) => {
      retention.onCellExecuted(cell.model.id);
      notifyCursorIdleSoon();
      documents.onCellExecuted(notebook, cell.model.sharedModel.getSource());
    });
  }
};

/** What renders the outputs of a notebook or a console, its kernel's widgets among them. */
function rendermimeOf(owner: NotebookPanel | ConsolePanel | null): IRenderMimeRegistry | null {
  return owner && ('console' in owner ? owner.console.rendermime : owner.content.rendermime);
}

export default plugin;
