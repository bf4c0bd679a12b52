/**
 * The commands, and the menu behind the status item.
 */
import type { JupyterFrontEnd } from '@jupyterlab/application';
import {
  Clipboard,
  InputDialog,
  Notification,
  SessionContext,
  SessionContextDialogs,
  type ICommandPalette
} from '@jupyterlab/apputils';
import type { ITranslator, TranslationBundle } from '@jupyterlab/translation';
import { MenuSvg } from '@jupyterlab/ui-components';
import type { Menu, Widget } from '@lumino/widgets';

import type { InlineCompleters } from '../completion/inline-completer';
import { METADATA_KEY, modeOf, type Mode } from '../completion/policy';
import type { Snooze } from '../completion/snooze';
import type { AcceptedPart } from '../completion/types';
import type { Documents } from '../documents/documents';
import { isRecording, withMetadataValue } from '../usage/record';
import { installCommand } from './install-command';
import { START, type IStatusText } from './status-text';

export const COMMANDS = {
  acceptWord: 'jupyter_sc2:accept-word',
  acceptLine: 'jupyter_sc2:accept-line',
  dismiss: 'jupyter_sc2:dismiss',
  toggle: 'jupyter_sc2:toggle',
  snooze: 'jupyter_sc2:snooze',
  endSnooze: 'jupyter_sc2:end-snooze',
  toggleNotebook: 'jupyter_sc2:toggle-notebook',
  toggleRecord: 'jupyter_sc2:toggle-record',
  load: 'jupyter_sc2:load',
  chooseModel: 'jupyter_sc2:choose-model',
  chooseKernel: 'jupyter_sc2:choose-kernel',
  openPanel: 'jupyter_sc2:open-panel',
  openSettings: 'jupyter_sc2:open-settings',
  showPrompt: 'jupyter_sc2:show-context',
  copyCommand: 'jupyter_sc2:copy-command',
  status: 'jupyter_sc2:say'
};

/** The menu begins with the lines of the status, each an entry that cannot be clicked. */
const MAX_STATUS_LINES = 8;

/** The selector of our key bindings in the schema. */
const OWN_GHOST_TEXT = '.jp-mod-sc2-ghost.jp-mod-inline-completer-active';

/** What a snooze can be; 0 until the page is reloaded. */
const SNOOZE_MINUTES = [5, 30, 60, 0];

/** JupyterLab's settings editor, and the title under which it has ours. */
const SETTINGS_EDITOR = 'settingeditor:open';
const SETTINGS_TITLE = 'Code Completion (SC2)';

/** A command with a long path is not written out in the menu. */
const MAX_COMMAND_LENGTH = 50;

export interface ICommandOptions {
  app: JupyterFrontEnd;
  documents: Documents;
  completers: InlineCompleters;
  translator: ITranslator;
  trans: TranslationBundle;
  statusText: () => IStatusText | null;

  /** Sets the mode in JupyterLab's settings. */
  setMode(mode: Mode): Promise<void>;

  /** Whether only an administrator may set the mode. */
  isLocked(): boolean;

  /** The pause of suggestions while typing. */
  snooze: Snooze;

  /** Opens the sidebar. */
  openPanel(): void;

  /** Shows the prompt of the last request. */
  showPrompt(): void;
}

export function addCommands(options: ICommandOptions): void {
  addSuggestionCommands(options);
  preferWordKeys(options);
  addModeCommands(options);
  addSnoozeCommands(options);
  addModelCommands(options);
  addKernelCommand(options);
  addPanelCommands(options);
}

function addSuggestionCommands({ app, completers, trans }: ICommandOptions): void {
  const { commands } = app;
  const accept = (id: string, label: string, part: AcceptedPart) =>
    commands.addCommand(id, { label, execute: () => completers.accept(part) });
  accept(COMMANDS.acceptWord, trans.__('Accept Next Word of Ghost Text'), 'word');
  accept(COMMANDS.acceptLine, trans.__('Accept Next Line of Ghost Text'), 'line');
  commands.addCommand(COMMANDS.dismiss, {
    label: trans.__('Dismiss Ghost Text'),
    execute: () => completers.dismiss()
  });
}

/**
 * Lets our keys with the right arrow come before CodeMirror's, which moves by words with them, while there is ghost text.
 *
 * JupyterLab looks at its key bindings after the editor has had the event.
 */
function preferWordKeys({ app }: ICommandOptions): void {
  document.addEventListener(
    'keydown',
    event => {
      const isOurs = event.key === 'ArrowRight' && (event.ctrlKey || event.altKey);
      if (isOurs && event.target instanceof Element && event.target.closest(OWN_GHOST_TEXT)) {
        app.commands.processKeydownEvent(event);
      }
    },
    true
  );
}

/** What is completed, and what is recorded of it, in all notebooks or in the one in front. */
function addModeCommands(options: ICommandOptions): void {
  const { app, documents, completers, trans } = options;
  const { commands } = app;
  const widget = () => app.shell.currentWidget;
  const connection = () => documents.connection(widget());
  commands.addCommand(COMMANDS.toggle, {
    label: trans.__('Show Ghost Text While Typing'),
    isToggleable: true,
    isToggled: () => documents.requestedMode(widget()) === 'automatic',
    isEnabled: () => !options.isLocked(),
    execute: async () => {
      const mode = documents.requestedMode(widget()) === 'automatic' ? 'manual' : 'automatic';
      await options.setMode(mode);
      connection()?.client?.configure({ mode }); // where it was set in the kernel
    }
  });
  commands.addCommand(COMMANDS.toggleNotebook, {
    label: trans.__('Complete Code in This Notebook'),
    isToggleable: true,
    isVisible: () => metadataOf(widget()) !== null,
    isEnabled: () => documents.requestedMode(widget()) !== 'off',
    isToggled: () => modeOf(metadataOf(widget())?.getMetadata(METADATA_KEY)) !== 'off',
    execute: () => {
      const model = metadataOf(widget());
      const isOff = modeOf(model?.getMetadata(METADATA_KEY)) === 'off';
      setMetadataValue(model, 'mode', isOff ? undefined : 'off');
      completers.dismiss();
    }
  });
  commands.addCommand(COMMANDS.toggleRecord, {
    label: trans.__('Record Accepted Suggestions in This Notebook'),
    isToggleable: true,
    isVisible: () => metadataOf(widget()) !== null,
    isToggled: () => isRecording(metadataOf(widget())?.getMetadata(METADATA_KEY)),
    execute: () => {
      const model = metadataOf(widget());
      const isOn = isRecording(model?.getMetadata(METADATA_KEY));
      setMetadataValue(model, 'record', isOn ? undefined : true);
    }
  });
}

function addSnoozeCommands({ app, completers, snooze, trans }: ICommandOptions): void {
  const { commands } = app;
  commands.addCommand(COMMANDS.snooze, {
    label: ({ minutes }) =>
      Number(minutes) > 0
        ? trans._n('Snooze for %1 Minute', 'Snooze for %1 Minutes', Number(minutes))
        : trans.__('Snooze Until the Page Reloads'),
    isVisible: () => !snooze.isActive,
    execute: ({ minutes }) => {
      completers.dismiss();
      snooze.start(Number(minutes) > 0 ? Number(minutes) : Infinity);
    }
  });
  commands.addCommand(COMMANDS.endSnooze, {
    label: trans.__('End Snooze'),
    isVisible: () => snooze.isActive,
    execute: () => snooze.end()
  });
}

function addModelCommands({ app, documents, trans }: ICommandOptions): void {
  const { commands } = app;
  const connection = () => documents.connection(app.shell.currentWidget);
  const state = () => connection()?.client?.status?.state;
  const isLoaded = () => state() !== undefined && state() !== 'unloaded' && state() !== 'error';
  commands.addCommand(COMMANDS.load, {
    label: () => (isLoaded() ? trans.__('Unload Model') : trans.__('Load Model')),
    isEnabled: () => state() !== undefined,
    execute: () => connection()?.client?.load(!isLoaded())
  });
  commands.addCommand(COMMANDS.chooseModel, {
    label: trans.__('Choose Model…'),
    isEnabled: () => state() !== undefined,
    execute: async () => {
      const client = connection()?.client;
      const current = client?.status?.model ?? '';
      const result = await InputDialog.getItem({
        title: trans.__('Choose Model'),
        label: trans.__('A name, a Hub id (owner/name), or a folder (./folder)'),
        // Empty at first: a browser lists only the items that begin with what is in the field.
        items: ['', ...(client?.hello?.models ?? [])],
        placeholder: current,
        editable: true,
        okLabel: trans.__('Load')
      });
      if (result.button.accept && result.value) {
        client?.configure({ model: result.value.trim() });
      }
    }
  });
}

/** Lets the user choose a kernel for a file that has no console. */
function addKernelCommand({ app, documents, trans, translator }: ICommandOptions): void {
  const { commands } = app;
  const widget = () => app.shell.currentWidget;
  commands.addCommand(COMMANDS.chooseKernel, {
    label: trans.__('Choose Kernel for Completion…'),
    isVisible: () => documents.isFile(widget()),
    execute: async () => {
      const file = widget();
      const path = documents.pathOf(file);
      if (!file || path === null) {
        return;
      }
      const { sessions, kernelspecs } = app.serviceManager;
      const context = new SessionContext({
        kernelManager: app.serviceManager.kernels,
        sessionManager: sessions,
        specsManager: kernelspecs,
        path,
        name: path.split('/').pop(),
        type: 'file',
        kernelPreference: { language: 'python', shouldStart: false }
      });
      await context.initialize();
      const dialogs = new SessionContextDialogs({ translator });
      await dialogs.selectKernel(context);
      if (context.session) {
        documents.assignKernel(file, context);
      } else {
        context.dispose();
      }
    }
  });
}

function addPanelCommands(options: ICommandOptions): void {
  const { app, documents, trans } = options;
  const { commands } = app;
  const connection = () => documents.connection(app.shell.currentWidget);
  const stage = () => documents.ownConnection(app.shell.currentWidget)?.state.stage;
  const command = () => (stage() === 'not loaded' ? START : installCommand());
  commands.addCommand(COMMANDS.openPanel, {
    label: trans.__('Open Panel'),
    execute: () => options.openPanel()
  });
  commands.addCommand(COMMANDS.openSettings, {
    label: trans.__('Open Settings for All Kernels'),
    isVisible: () => commands.hasCommand(SETTINGS_EDITOR),
    execute: () => commands.execute(SETTINGS_EDITOR, { query: SETTINGS_TITLE })
  });
  commands.addCommand(COMMANDS.showPrompt, {
    label: trans.__('Show Prompt'),
    isEnabled: () => connection()?.client?.status?.state !== undefined,
    execute: () => options.showPrompt()
  });
  commands.addCommand(COMMANDS.copyCommand, {
    label: () =>
      command().length <= MAX_COMMAND_LENGTH
        ? trans.__('Copy %1', command())
        : trans.__('Copy the Command That Installs It'),
    isVisible: () => stage() === 'not loaded' || stage() === 'not installed',
    execute: () => {
      Clipboard.copyToSystem(command());
      Notification.info(trans.__('Copied; run %1 in a cell.', command()), { autoClose: 4000 });
    }
  });
  const statusLine = ({ line }: { line?: unknown }) =>
    options.statusText()?.tooltip.split('\n')[Number(line ?? 0)] ?? '';
  commands.addCommand(COMMANDS.status, {
    label: args => statusLine(args),
    isVisible: args => statusLine(args) !== '',
    isEnabled: () => false,
    execute: () => undefined
  });
}

/** The menu that a click on the status item opens. */
export function makeMenu(app: JupyterFrontEnd): Menu {
  const menu = new MenuSvg({ commands: app.commands });
  menu.addClass('jp-sc2-Menu');
  for (let line = 0; line < MAX_STATUS_LINES; line++) {
    menu.addItem({ command: COMMANDS.status, args: { line } });
  }
  // Lines between them are drawn by the stylesheet: Lumino's separators and submenus are no valid children of a menu.
  for (const command of [
    COMMANDS.copyCommand,
    COMMANDS.toggle,
    COMMANDS.toggleNotebook,
    COMMANDS.toggleRecord,
    COMMANDS.load,
    COMMANDS.chooseModel,
    COMMANDS.chooseKernel,
    COMMANDS.openPanel,
    COMMANDS.openSettings,
    COMMANDS.showPrompt
  ]) {
    menu.addItem({ command });
    if (command === COMMANDS.toggle) {
      SNOOZE_MINUTES.forEach(minutes =>
        menu.addItem({ command: COMMANDS.snooze, args: { minutes } })
      );
      menu.addItem({ command: COMMANDS.endSnooze });
    }
  }
  return menu;
}

export function addToPalette(palette: ICommandPalette, trans: TranslationBundle): void {
  const { status, copyCommand, snooze, ...rest } = COMMANDS;
  const category = trans.__('Code Completion (SC2)');
  Object.values(rest).forEach(command => palette.addItem({ command, category }));
  SNOOZE_MINUTES.forEach(minutes =>
    palette.addItem({ command: snooze, category, args: { minutes } })
  );
}

interface IMetadata {
  getMetadata(key: string): unknown;
  setMetadata(key: string, value: unknown): void;
  deleteMetadata(key: string): void;
}

/** Sets one value in our metadata of a notebook, or removes it; the others stay. */
function setMetadataValue(model: IMetadata | null, name: string, value: unknown): void {
  const values = withMetadataValue(model?.getMetadata(METADATA_KEY), name, value);
  if (values) {
    model?.setMetadata(METADATA_KEY, values);
  } else {
    model?.deleteMetadata(METADATA_KEY);
  }
}

/** The model of a notebook, which holds its metadata; null for anything else. */
function metadataOf(widget: Widget | null): IMetadata | null {
  const { content, model } = (widget ?? {}) as unknown as {
    content?: { activeCell?: unknown };
    model?: IMetadata;
  };
  return content && 'activeCell' in content && model ? model : null;
}
