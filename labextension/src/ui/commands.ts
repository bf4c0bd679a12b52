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
import type { ITranslator } from '@jupyterlab/translation';
import { MenuSvg } from '@jupyterlab/ui-components';
import type { Menu, Widget } from '@lumino/widgets';

import type { Completers, Part } from '../completion/inline-completer';
import { METADATA, modeOf, type Mode } from '../completion/policy';
import type { Places } from '../documents/documents';
import { isRecording, withValue } from '../usage/record';
import { INSTALL, START, type IDescription } from './status-text';

export const COMMANDS = {
  acceptWord: 'jupyter_sc2:accept-word',
  acceptLine: 'jupyter_sc2:accept-line',
  dismiss: 'jupyter_sc2:dismiss',
  toggle: 'jupyter_sc2:toggle',
  toggleNotebook: 'jupyter_sc2:toggle-notebook',
  toggleRecord: 'jupyter_sc2:toggle-record',
  load: 'jupyter_sc2:load',
  chooseModel: 'jupyter_sc2:choose-model',
  chooseKernel: 'jupyter_sc2:choose-kernel',
  openPanel: 'jupyter_sc2:open-panel',
  showContext: 'jupyter_sc2:show-context',
  copyCommand: 'jupyter_sc2:copy-command',
  say: 'jupyter_sc2:say'
};

export interface ICommandOptions {
  app: JupyterFrontEnd;
  places: Places;
  completers: Completers;
  translator: ITranslator | null;
  describe: () => IDescription | null;

  /** Sets what the settings allow everywhere. */
  setMode(mode: Mode): Promise<void>;

  /** Whether the mode is for an administrator to choose. */
  isLocked(): boolean;

  /** Opens the sidebar. */
  openPanel(): void;

  /** Shows what the model reads. */
  showContext(): void;
}

export function addCommands(options: ICommandOptions): void {
  const { app, places, completers } = options;
  const { commands } = app;
  const widget = () => app.shell.currentWidget;
  const connection = () => places.connection(widget());
  const stage = () => connection()?.standing.stage;

  const accept = (id: string, label: string, part: Part) =>
    commands.addCommand(id, { label, execute: () => completers.accept(part) });
  accept(COMMANDS.acceptWord, 'Accept the Next Word of Ghost Text', 'word');
  accept(COMMANDS.acceptLine, 'Accept the Next Line of Ghost Text', 'line');
  commands.addCommand(COMMANDS.dismiss, {
    label: 'Dismiss Ghost Text',
    execute: () => completers.dismiss()
  });

  commands.addCommand(COMMANDS.toggle, {
    label: 'Show Code Completion as Ghost Text',
    isToggleable: true,
    isToggled: () => places.askedIn(widget()).mode === 'automatic',
    isEnabled: () => !options.isLocked(),
    execute: async () => {
      const mode = places.askedIn(widget()).mode === 'automatic' ? 'manual' : 'automatic';
      await options.setMode(mode);
      connection()?.client?.configure({ mode }); // where it was set in the kernel
    }
  });
  commands.addCommand(COMMANDS.toggleNotebook, {
    label: 'Complete Code in This Notebook',
    isToggleable: true,
    isVisible: () => metadataOf(widget()) !== null,
    isEnabled: () => places.askedIn(widget()).mode !== 'off',
    isToggled: () => modeOf(metadataOf(widget())?.getMetadata(METADATA)) !== 'off',
    execute: () => {
      const model = metadataOf(widget());
      const isOff = modeOf(model?.getMetadata(METADATA)) === 'off';
      setValue(model, 'mode', isOff ? undefined : 'off');
      completers.dismiss();
    }
  });
  commands.addCommand(COMMANDS.toggleRecord, {
    label: 'Record What Is Accepted in This Notebook',
    isToggleable: true,
    isVisible: () => metadataOf(widget()) !== null,
    isToggled: () => isRecording(metadataOf(widget())?.getMetadata(METADATA)),
    execute: () => {
      const model = metadataOf(widget());
      const isOn = isRecording(model?.getMetadata(METADATA));
      setValue(model, 'record', isOn ? undefined : true);
    }
  });

  const state = () => connection()?.client?.status?.state;
  const isLoaded = () => state() !== undefined && state() !== 'unloaded' && state() !== 'error';
  commands.addCommand(COMMANDS.load, {
    label: () => (isLoaded() ? 'Unload the Model' : 'Load the Model'),
    isEnabled: () => state() !== undefined,
    execute: () => connection()?.client?.load(!isLoaded())
  });
  commands.addCommand(COMMANDS.chooseModel, {
    label: 'Choose a Model…',
    isEnabled: () => state() !== undefined,
    execute: async () => {
      const client = connection()?.client;
      const current = client?.status?.model ?? '';
      const result = await InputDialog.getItem({
        title: 'Choose a model',
        label: 'A name, a hub id (owner/name), or a folder (./folder)',
        // Empty at first: a browser offers only what goes on from what stands in the field.
        items: ['', ...(client?.hello?.models ?? [])],
        placeholder: current,
        editable: true,
        okLabel: 'Load'
      });
      if (result.button.accept && result.value) {
        client?.configure({ model: result.value.trim() });
      }
    }
  });
  commands.addCommand(COMMANDS.chooseKernel, {
    label: 'Choose a Kernel for Completion…',
    isVisible: () => places.isFile(widget()),
    execute: async () => {
      const file = widget();
      const path = places.pathOf(file);
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
      const dialogs = new SessionContextDialogs({ translator: options.translator ?? undefined });
      await dialogs.selectKernel(context);
      if (context.session) {
        places.pick(file, context);
      } else {
        context.dispose();
      }
    }
  });
  commands.addCommand(COMMANDS.openPanel, {
    label: 'Open the Panel',
    execute: () => options.openPanel()
  });
  commands.addCommand(COMMANDS.showContext, {
    label: 'Show What the Model Reads',
    isEnabled: () => state() !== undefined,
    execute: () => options.showContext()
  });
  commands.addCommand(COMMANDS.copyCommand, {
    label: () => `Copy ${stage() === 'not loaded' ? START : INSTALL}`,
    isVisible: () => stage() === 'not loaded' || stage() === 'not installed',
    execute: () => {
      const command = stage() === 'not loaded' ? START : INSTALL;
      Clipboard.copyToSystem(command);
      Notification.info(`Copied. Run ${command} in a cell.`, { autoClose: 4000 });
    }
  });
  commands.addCommand(COMMANDS.say, {
    label: () => options.describe()?.title.split('\n').join(' · ') ?? '',
    isEnabled: () => false,
    execute: () => undefined
  });
}

/** What a click on the status item opens. */
export function makeMenu(app: JupyterFrontEnd): Menu {
  const menu = new MenuSvg({ commands: app.commands });
  menu.addClass('jp-sc2-Menu');
  menu.addItem({ command: COMMANDS.say });
  menu.addItem({ type: 'separator' });
  for (const command of [
    COMMANDS.copyCommand,
    COMMANDS.toggle,
    COMMANDS.toggleNotebook,
    COMMANDS.toggleRecord,
    COMMANDS.load,
    COMMANDS.chooseModel,
    COMMANDS.chooseKernel
  ]) {
    menu.addItem({ command });
  }
  menu.addItem({ type: 'separator' });
  menu.addItem({ command: COMMANDS.openPanel });
  menu.addItem({ command: COMMANDS.showContext });
  return menu;
}

export function addToPalette(palette: ICommandPalette): void {
  const { say, copyCommand, ...rest } = COMMANDS;
  Object.values(rest).forEach(command =>
    palette.addItem({ command, category: 'Code Completion (SC2)' })
  );
}

interface IMetadata {
  getMetadata(key: string): unknown;
  setMetadata(key: string, value: unknown): void;
  deleteMetadata(key: string): void;
}

/** Sets one value of ours in a notebook's metadata, or takes it out; the others stay. */
function setValue(model: IMetadata | null, name: string, value: unknown): void {
  const values = withValue(model?.getMetadata(METADATA), name, value);
  if (values) {
    model?.setMetadata(METADATA, values);
  } else {
    model?.deleteMetadata(METADATA);
  }
}

/** The model of a notebook, which keeps its metadata; null for anything else. */
function metadataOf(widget: Widget | null): IMetadata | null {
  const { content, model } = (widget ?? {}) as unknown as {
    content?: { activeCell?: unknown };
    model?: IMetadata;
  };
  return content && 'activeCell' in content && model ? model : null;
}
