/**
 * Wiring only: the provider, the places where code is typed, the settings, the commands, the status item.
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
import { ITranslator } from '@jupyterlab/translation';
import { Signal } from '@lumino/signaling';

import { Completers } from './completion/inline-completer';
import { Announcer } from './ui/announcer';
import { AttributionMark, inFull, matchesOf } from './ui/attribution-mark';
import { addCommands, addToPalette, makeMenu } from './ui/commands';
import { Enter } from './completion/newline-trigger';
import { Kept } from './usage/retention';
import { showContext } from './ui/magic-output';
import { Places } from './documents/documents';
import { Provider } from './completion/provider';
import { Recorder } from './usage/record';
import { FrontEndSettings } from './settings';
import { Sidebar } from './ui/sidebar';
import { describe } from './ui/status-text';
import { StatusItem } from './ui/status';

/** Milliseconds that a cursor rests until its kernel is told. */
const REST_MS = 300;

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
    translator: ITranslator | null
  ) => {
    const changed = new Signal<object, void>({});
    const current = () => app.shell.currentWidget;
    const tell = (message: string, kind: 'info' | 'error') =>
      void Notification.emit(message, kind, { autoClose: kind === 'error' ? 8000 : 4000 });

    const places = new Places({
      trackers: { notebooks, consoles, editors },
      onError: message => tell(message, 'error'),
      onStale: () => provider.forget(),
      onSaved: (saved, values) =>
        void settings.saved(saved, values).then(changed => {
          if (changed) {
            tell("JupyterLab's settings for every kernel now say the same.", 'info');
          }
        })
    });
    const provider = new Provider({
      locate: ({ widget }, text) => places.locate(widget, text),
      settled: widget => places.settled(widget),
      tell,
      add: (item, first) => completers.add(item, first),
      remove: (item, first) => completers.remove(item, first),
      onOutcome: ({ kind }) => {
        if (kind === 'shown') {
          places.connection(current())?.shown();
        }
        changed.emit();
      }
    });
    // At once: JupyterLab never asks a provider that is registered after it was restored.
    completion.registerInlineProvider(provider);

    const announcer = new Announcer();
    const kept = new Kept();
    const mark = new AttributionMark();
    const recorder = new Recorder();
    const enter = new Enter({
      provider,
      policy: () => places.askedIn(current()).afterEnter,
      keyOf: (editor, source) => {
        const widget = current();
        const spot = widget?.node.contains(editor.host) ? places.locate(widget, source) : null;
        return spot && typeof spot !== 'string' && spot.mode === 'automatic' ? spot.key : null;
      },
      invoke: () => completion.inline?.invoke(current()!.id)
    });
    // A little later: who runs cells one after another, or goes through one, is at each place for a moment.
    let timer: ReturnType<typeof setTimeout> | undefined;
    let typing = false;
    const restsSoon = () => {
      clearTimeout(timer);
      timer = setTimeout(() => places.rests(notebooks.currentWidget), REST_MS);
    };
    const completers = new Completers({
      provider,
      onTyped: (editor, delta) => {
        // Typing moves the cursor, before or after this; what is asked is read anyway.
        clearTimeout(timer);
        typing = true;
        setTimeout(() => (typing = false), 0);
        if (editor) {
          enter.typed(editor, delta);
        }
      },
      onMoved: editor => {
        if (!typing && editor && editor === notebooks.activeCell?.editor) {
          restsSoon();
        }
      },
      onShown: read => announcer.shown(read),
      onOffer: (offer, host) => mark.shown(offer, host),
      onAccepted: (offer, part, text) => {
        kept.accepted(offer, part, text);
        const panel = notebooks.currentWidget;
        recorder.accepted(offer, text, panel, places.connection(panel)?.client?.hello?.version);
        const [match] = matchesOf(offer);
        if (match && offer.ghost.policy === 'warn') {
          tell(`The accepted text is also in ${inFull(match)}.`, 'info');
        }
      }
    });
    completers.mend(factory);

    const settings = new FrontEndSettings(registry, PLUGIN, values => {
      const restarts = values.autoLoad !== places.autoLoad || values.mode !== places.mode;
      places.mode = values.mode;
      places.afterEnter = values.afterEnter;
      places.isLocked = values.isLocked;
      places.autoLoad = values.autoLoad;
      if (JSON.stringify(values.languagesOff) !== JSON.stringify(places.languagesOff)) {
        places.languagesOff = values.languagesOff;
        provider.forget();
      }
      provider.debounce = values.debounce;
      provider.candidates = values.candidates;
      announcer.enabled = values.announce;
      if (JSON.stringify(values.everywhere) !== JSON.stringify(places.everywhere)) {
        places.everywhere = values.everywhere;
        places.configure();
      }
      if (restarts) {
        places.retry();
      }
      changed.emit();
    });
    // Only then, since nothing may be loaded into a kernel where the settings forbid it.
    void settings.load().then(() => places.start());

    const describeHere = () => {
      const widget = current();
      const connection = places.connection(widget);
      if (!connection) {
        return places.isPlace(widget) ? describe({ stage: 'no kernel' }, { busy: false }) : null;
      }
      return describe(connection.standing, {
        busy: connection.busy,
        mode: places.modeIn(widget),
        outcome: provider.outcome
      });
    };
    const subject = () => {
      const owner = places.ownerOf(current()) ?? notebooks.currentWidget;
      return { connection: places.connection(owner), rendermime: rendermimeOf(owner) };
    };
    const sidebar = new Sidebar(subject);
    app.shell.add(sidebar, 'right', { rank: 900 });
    addCommands({
      app,
      places,
      completers,
      translator,
      describe: describeHere,
      setMode: async mode => {
        provider.cancel();
        await settings.set('mode', mode);
      },
      isLocked: () => settings.isLocked,
      openPanel: () => app.shell.activateById(sidebar.id),
      showContext: () => showContext(subject())
    });
    if (palette) {
      addToPalette(palette);
    }

    const status = new StatusItem({ describe: describeHere, changed, menu: makeMenu(app) });
    const isActive = () => places.isPlace(current());
    if (statusBar) {
      statusBar.registerStatusItem(PLUGIN, {
        item: status,
        align: 'right',
        rank: 10,
        isActive,
        activeStateChanged: changed as never
      });
    } else {
      // Notebook 7 has no status bar; the kernel's own state is shown here, too.
      status.id = 'jupyter_sc2-status';
      app.shell.add(status, 'menu', { rank: 10020 });
    }

    places.changed.connect(() => {
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
      restsSoon();
      const notebook = notebooks.currentWidget?.content;
      if (notebook && cell?.model.type === 'code' && cell.editor) {
        const above = notebook.widgets.slice(0, notebook.activeCellIndex);
        const isBelowCode = above.some(
          ({ model }) => model.type === 'code' && model.sharedModel.getSource().trim() !== ''
        );
        enter.arrived(cell.editor, isBelowCode);
      }
    });
    NotebookActions.executed.connect((_, { notebook, cell }) => {
      kept.executed(cell.model.id);
      restsSoon();
      places.executed(notebook, cell.model.sharedModel.getSource());
    });
  }
};

/** Who draws the outputs of a notebook or a console, its kernel's widgets among them. */
function rendermimeOf(owner: NotebookPanel | ConsolePanel | null): IRenderMimeRegistry | null {
  return owner && ('console' in owner ? owner.console.rendermime : owner.content.rendermime);
}

export default plugin;
