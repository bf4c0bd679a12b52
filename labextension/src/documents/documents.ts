/**
 * The documents in which code is completed: notebooks, consoles and file editors, each with its kernel, its cells and
 * the mode that is allowed there.
 */
import type { ISessionContext } from '@jupyterlab/apputils';
import type { CodeEditor } from '@jupyterlab/codeeditor';
import type { ICellModel, ICodeCellModel } from '@jupyterlab/cells';
import type { ConsolePanel, IConsoleTracker } from '@jupyterlab/console';
import type { IEditorTracker } from '@jupyterlab/fileeditor';
import type { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import { Signal, type ISignal } from '@lumino/signaling';
import type { Widget } from '@lumino/widgets';

import {
  AFTER_ENTER,
  METADATA_KEY,
  modeOf,
  MODES,
  OFF_TAG,
  mostRestrictive,
  type AfterEnter,
  type Mode
} from '../completion/policy';
import { Connection } from '../kernel/connection';
import { codePointCount } from '../completion/suggestion';
import { outputTexts } from './cell-outputs';
import type { ICompletionTarget } from '../completion/types';
import type { ICell, Settings } from '../kernel/protocol';
import { CellCache, type IObservableCells } from './cells';

export interface ITrackers {
  notebooks: INotebookTracker;
  consoles: IConsoleTracker | null;
  editors: IEditorTracker | null;
}

/** What the user edits in one document: the cell with the cursor, and the others. */
interface IEditedDocument {
  editor: CodeEditor.IEditor | null;
  cellId: string;
  language: string;
  mode: Mode;
  /** All cells; the source of the one whose id is `current` may be old. */
  cells(current?: string): ICell[];
}

export class Documents {
  constructor(private _options: Documents.IOptions) {}

  /** What JupyterLab's settings say, which holds unless a kernel's settings say otherwise. */
  mode: Mode = 'automatic';

  /** Whether suggestions while typing are paused, in all documents. */
  isSnoozed = (): boolean => false;
  afterEnter: AfterEnter = 'smart';

  /** Whether no kernel may allow more than the settings do. */
  isLocked = false;

  /** The languages in which the user wants no ghost text. The kernel knows which one is at the cursor. */
  disabledLanguages: readonly string[] = [];

  /** Whether the extension may be loaded into kernels. */
  autoLoad = true;

  /** What JupyterLab's settings say for every kernel. */
  labSettings: Settings = {};

  /** Emitted when the status bar may have to show something else. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** Follows the documents that are open, and those that will be opened. */
  start(): void {
    const { notebooks, consoles } = this._options.trackers;
    for (const tracker of [notebooks, consoles]) {
      tracker?.forEach(panel => this.connection(panel));
      tracker?.widgetAdded.connect((_, panel) => void this.connection(panel));
    }
    this._changed.emit();
  }

  /** Connects again with every kernel with which there is no connection. */
  reconnect(): void {
    this._all.forEach(connection => connection.reconnect());
  }

  /** Sends every kernel what JupyterLab's settings say for all of them. */
  sendLabSettings(): void {
    this._all.forEach(connection => connection.client?.sendLabSettings());
  }

  /** The mode that is set for this widget: in its kernel, or in JupyterLab while it has none. */
  requestedMode(widget: Widget | null): Mode {
    const set = this.connection(widget)?.client?.settings.mode;
    const mode = MODES.find(known => known === set) ?? this.mode;
    return this.isLocked ? mostRestrictive(this.mode, mode) : mode;
  }

  /** When a new line is completed in this widget: its kernel's setting, or JupyterLab's while it has no kernel. */
  requestedAfterEnter(widget: Widget | null): AfterEnter {
    const set = this.connection(widget)?.client?.settings.after_enter;
    return AFTER_ENTER.find(known => known === set) ?? this.afterEnter;
  }

  /** The connection with the kernel of this widget; null if it has none, or is none of ours. */
  connection(widget: Widget | null): Connection | null {
    const context = widget && this._contextOf(widget);
    if (!context) {
      return null;
    }
    let connection = this._connections.get(context);
    if (!connection) {
      connection = this._connect(context, widget);
    }
    return connection;
  }

  isFile(widget: Widget | null): boolean {
    return widget !== null && this._kindOf(widget) === 'file';
  }

  /** The path of the file in this widget; null if it has none. */
  pathOf(widget: Widget | null): string | null {
    const file = this._options.trackers.editors?.find(panel => panel === widget);
    return file?.context.path ?? null;
  }

  /** Whether code can be completed in this widget, once it has a kernel. */
  canComplete(widget: Widget | null): boolean {
    const kind = widget && this._kindOf(widget);
    return kind === 'file' ? this._editedIn(widget!) !== null : !!kind;
  }

  /** What to complete in this widget; null if it is none of ours, or a text that says why nothing can be now. */
  resolveTarget(widget: Widget, text: string): ICompletionTarget | string | null {
    const edited = this._editedIn(widget);
    if (!edited?.editor || edited.editor.model.sharedModel.getSource() !== text) {
      return null;
    }
    const connection = this.connection(widget);
    const client = connection?.client;
    if (!client) {
      return connection && this._options.stateText(connection);
    }
    return {
      client,
      key: `${widget.id}/${edited.cellId}/${client.status?.model}`,
      cellId: edited.cellId,
      language: edited.language,
      disabledLanguages: this.disabledLanguages,
      mode: mostRestrictive(this.requestedMode(widget), edited.mode, this._snoozedMode()),
      cells: () => edited.cells(edited.cellId),
      isAt: offset => {
        const { editor } = edited;
        return !editor!.isDisposed && editor!.getOffsetAt(editor!.getCursorPosition()) === offset;
      },
      source: () => (edited.editor!.isDisposed ? '' : edited.editor!.model.sharedModel.getSource())
    };
  }

  /** The mode that the settings, the notebook and the cell allow in this widget. */
  allowedMode(widget: Widget | null): Mode {
    return mostRestrictive(
      this.requestedMode(widget),
      (widget && this._editedIn(widget)?.mode) || undefined,
      this._snoozedMode()
    );
  }

  /** While suggestions are paused, Alt+\ still brings one. */
  private _snoozedMode(): Mode | undefined {
    return this.isSnoozed() ? 'manual' : undefined;
  }

  /** The notebook or console whose kernel completes code in this widget, and which renders that kernel's widgets. */
  sessionOwner(widget: Widget | null): NotebookPanel | ConsolePanel | null {
    const context = widget && this._contextOf(widget);
    const { notebooks, consoles } = this._options.trackers;
    return (
      notebooks.find(panel => panel.sessionContext === context) ??
      consoles?.find(panel => panel.sessionContext === context) ??
      null
    );
  }

  /** Tells the kernel where the cursor is idle in this widget's active cell, so that it can read the prompt ahead. */
  notifyCursorIdle(widget: Widget | null): void {
    const edited = widget && this._editedIn(widget);
    const { editor } = edited || {};
    if (edited && editor && !editor.isDisposed && this.allowedMode(widget) === 'automatic') {
      const source = editor.model.sharedModel.getSource();
      const before = source.slice(0, editor.getOffsetAt(editor.getCursorPosition()));
      this.connection(widget)?.client?.cursorIdle(
        edited.cells(),
        edited.cellId,
        codePointCount(before)
      );
    }
  }

  /** Resolves when it is known whether the kernel of this widget can complete code. */
  async settled(widget: Widget): Promise<void> {
    await this.connection(widget)?.settled();
  }

  /** A cell of this panel was run. If it mentions us, it may have installed or loaded the kernel's part. */
  onCellExecuted(panel: Widget | null, source: string): void {
    if (/sc2/i.test(source)) {
      const notebook = this._options.trackers.notebooks.find(
        other => other === panel || other.content === panel
      );
      this.connection(notebook ?? null)?.reconnect();
    }
  }

  /** Gives a file the kernel that the user has chosen for it. */
  assignKernel(widget: Widget, context: ISessionContext): void {
    this._assigned.set(widget, context);
    widget.disposed.connect(() => context.dispose());
    this.connection(widget);
    this._changed.emit();
  }

  private _kindOf(widget: Widget): 'notebook' | 'console' | 'file' | null {
    const { notebooks, consoles, editors } = this._options.trackers;
    if (notebooks.find(panel => panel === widget)) {
      return 'notebook';
    }
    if (consoles?.find(panel => panel === widget)) {
      return 'console';
    }
    return editors?.find(panel => panel === widget) ? 'file' : null;
  }

  private _contextOf(widget: Widget): ISessionContext | null {
    const { notebooks, consoles, editors } = this._options.trackers;
    const panel =
      notebooks.find(panel => panel === widget) ?? consoles?.find(panel => panel === widget);
    if (panel) {
      return panel.sessionContext;
    }
    const path = editors?.find(panel => panel === widget)?.context.path;
    if (path === undefined) {
      return null;
    }
    const assigned = this._assigned.get(widget);
    const console = consoles?.find(panel => panel.sessionContext.session?.path === path);
    return assigned ?? console?.sessionContext ?? null;
  }

  private _connect(context: ISessionContext, widget: Widget): Connection {
    const notebook = this._options.trackers.notebooks.find(panel => panel === widget);
    const connection = new Connection(context, {
      isRunningCells: () =>
        notebook ? isRunningCells(notebook) : context.session?.kernel?.status === 'busy',
      mayLoad: () => this.autoLoad && this.mode !== 'off',
      labSettings: () => this.labSettings,
      onSaved: this._options.onSaved,
      onStale: this._options.onStale,
      onError: this._options.onError
    });
    this._connections.set(context, connection);
    this._all.add(connection);
    connection.changed.connect(() => this._changed.emit());
    context.disposed.connect(() => {
      this._all.delete(connection);
      connection.dispose();
    });
    return connection;
  }

  private _editedIn(widget: Widget): IEditedDocument | null {
    const { notebooks, consoles, editors } = this._options.trackers;
    const notebook = notebooks.find(panel => panel === widget);
    if (notebook) {
      const cell = notebook.content?.activeCell;
      return cell?.model.type === 'code'
        ? {
            editor: cell.editor,
            cellId: cell.model.id,
            language: notebook.model?.defaultKernelLanguage || 'python',
            mode: mostRestrictive(
              modeOf(notebook.model?.getMetadata(METADATA_KEY)),
              isTaggedOff(cell.model) ? 'off' : undefined
            ),
            cells: current => {
              const models = notebook.content.model?.cells;
              return models ? this._cellsOf(models, models).read(current) : [];
            }
          }
        : null;
    }
    const panel = consoles?.find(panel => panel === widget);
    if (panel) {
      const prompt = panel.console.promptCell;
      return (
        prompt && {
          editor: prompt.editor,
          cellId: prompt.model.id,
          language: 'python',
          mode: 'automatic',
          cells: () => {
            const { cells } = panel.console;
            const models = {
              changed: cells.changed,
              *[Symbol.iterator]() {
                for (const { model } of Array.from(cells)) {
                  yield model;
                }
              }
            };
            return [...this._cellsOf(cells, models).read(), readCell(prompt.model)];
          }
        }
      );
    }
    const file = editors?.find(panel => panel === widget);
    if (file && file.content.editor.model.mimeType === 'text/x-python') {
      return {
        editor: file.content.editor,
        cellId: file.context.path,
        language: 'python',
        mode: 'automatic',
        cells: () => []
      };
    }
    return null;
  }

  private _cellsOf(list: object, models: IObservableCells<ICellModel>): CellCache<ICellModel> {
    let cells = this._cells.get(list);
    if (!cells) {
      cells = new CellCache(models, readCell);
      this._cells.set(list, cells);
    }
    return cells;
  }

  private _all = new Set<Connection>();
  private _cells = new WeakMap<object, CellCache<ICellModel>>();
  private _changed = new Signal<this, void>(this);
  private _connections = new WeakMap<ISessionContext, Connection>();
  private _assigned = new WeakMap<Widget, ISessionContext>();
}

export namespace Documents {
  export interface IOptions {
    trackers: ITrackers;

    /** Called with the kernel's message for an error that belongs to no request. */
    onError(message: string): void;

    /** Called when a kernel's settings were saved as defaults for new kernels, or these defaults were deleted. */
    onSaved(saved: boolean, settings: Settings): void;

    /** Called when a kernel might answer differently from now on. */
    onStale(): void;

    /** Says in a few words why the kernel of this connection cannot complete code now. */
    stateText(connection: Connection): string;
  }
}

function readCell(model: ICellModel): ICell {
  const code = model.type === 'code' ? (model as ICodeCellModel) : null;
  const outputs = code ? outputTexts(code) : [];
  return {
    id: model.id,
    cell_type: model.type as ICell['cell_type'],
    source: model.sharedModel.getSource(),
    execution_count: code?.executionCount ?? null,
    ...(outputs.length > 0 && { outputs })
  };
}

function isTaggedOff(model: ICellModel): boolean {
  const tags = model.getMetadata('tags') as unknown;
  return Array.isArray(tags) && tags.includes(OFF_TAG);
}

function isRunningCells(panel: NotebookPanel): boolean {
  const cells = Array.from(panel.content?.model?.cells ?? []);
  return cells.some(
    model => model.type === 'code' && (model as ICodeCellModel).executionState === 'running'
  );
}
