/**
 * Wiring only: the provider, the connections, the settings, the toggle and the status item.
 */
import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette } from '@jupyterlab/apputils';
import { ICompletionProviderManager } from '@jupyterlab/completer';
import { INotebookTracker, NotebookActions } from '@jupyterlab/notebook';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStatusBar } from '@jupyterlab/statusbar';

import { Connections } from './connection';
import { Provider } from './provider';
import { StatusItem } from './status';

const PLUGIN = 'jupyter-sc2:plugin';
const TOGGLE = 'jupyter_sc2:toggle';

const plugin: JupyterFrontEndPlugin<void> = {
  id: PLUGIN,
  description: 'Ghost text from a model in the kernel.',
  autoStart: true,
  requires: [ICompletionProviderManager, INotebookTracker],
  optional: [ISettingRegistry, IStatusBar, ICommandPalette],
  activate: (
    app: JupyterFrontEnd,
    completion: ICompletionProviderManager,
    tracker: INotebookTracker,
    registry: ISettingRegistry | null,
    statusBar: IStatusBar | null,
    palette: ICommandPalette | null
  ) => {
    const connections = new Connections(tracker);
    const provider = new Provider({
      locate: (widget, text) => connections.locate(widget, text),
      settled: widget => connections.settled(widget)
    });
    // At once: JupyterLab never asks a provider that is registered after it was restored.
    completion.registerInlineProvider(provider);

    const status = new StatusItem({
      connections,
      isEnabled: () => provider.enabled,
      toggle: () => void app.commands.execute(TOGGLE)
    });
    statusBar?.registerStatusItem(PLUGIN, {
      item: status,
      align: 'right',
      rank: 10,
      isActive: () =>
        connections.current !== null && app.shell.currentWidget === tracker.currentWidget,
      activeStateChanged: connections.changed
    });

    let settings: ISettingRegistry.ISettings | null = null;
    const apply = () => {
      const { enabled, autoLoad, debounce } = (settings?.composite ?? {}) as Record<
        string,
        unknown
      >;
      provider.enabled = enabled !== false;
      provider.debounce = typeof debounce === 'number' ? debounce : provider.debounce;
      const mayLoad = autoLoad !== false;
      if (mayLoad !== connections.autoLoad) {
        connections.autoLoad = mayLoad;
        connections.retry();
      }
      status.update();
    };
    const load = async () => {
      settings = (await registry?.load(PLUGIN)) ?? null;
      settings?.changed.connect(apply);
    };
    // Only then, since nothing may be loaded into a kernel where the settings forbid it.
    void load()
      .catch(() => undefined)
      .then(apply)
      .then(() => connections.start());

    app.commands.addCommand(TOGGLE, {
      label: 'Show Code Completion as Ghost Text',
      isToggleable: true,
      isToggled: () => provider.enabled,
      execute: async () => {
        provider.enabled = !provider.enabled;
        provider.cancel();
        status.update();
        await settings?.set('enabled', provider.enabled);
      }
    });
    palette?.addItem({ command: TOGGLE, category: 'Notebook Operations' });

    app.commands.commandExecuted.connect((_, { id }) => {
      if (id === 'inline-completer:accept') {
        provider.noticeAccepted();
      }
    });
    tracker.activeCellChanged.connect(() => provider.cancel());
    NotebookActions.executed.connect((_, { notebook, cell }) => {
      provider.forget();
      connections.executed(notebook, cell.model.sharedModel.getSource());
    });
  }
};

export default plugin;
