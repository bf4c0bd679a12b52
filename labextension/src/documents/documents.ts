/**
 * Where code is typed: notebooks, consoles and file editors; each with its kernel, its cells and what is allowed.
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
  METADATA,
  modeOf,
  MODES,
  OFF_TAG,
  strictest,
  type AfterEnter,
  type Mode
} from '../completion/policy';
import { Cells, type ICellSources } from './cells';
import { Connection } from '../kernel/connection';
import { pointsOf } from '../completion/suggestion';
import { outputTexts } from './cell-outputs';
import type { ICell, Settings } from '../kernel/protocol';
import type { ISpot } from '../completion/provider';
import { describe } from '../ui/status-text';

export interface ITrackers {
  notebooks: INotebookTracker;
  consoles: IConsoleTracker | null;
  editors: IEditorTracker | null;
}

/** What is typed in one document: the cell with the cursor, and the others. */
interface ITyped {
  editor: CodeEditor.IEditor | null;
  cellId: string;
  language: string;
  mode: Mode;
  /** All cells; of the one that is called `current` the source may be old. */
  cells(current?: string): ICell[];
}

export class Places {
  constructor(private _options: Places.IOptions) {}

  /** What JupyterLab's settings ask for, which counts where no kernel says otherwise. */
  mode: Mode = 'automatic';
  afterEnter: AfterEnter = 'smart';

  /** Whether no kernel may say otherwise. */
  isLocked = false;

  /** Languages that are left alone. The kernel knows which one the cursor stands in. */
  languagesOff: readonly string[] = [];

  /** Whether kernels may be told to load the extension. */
  autoLoad = true;

  /** What every kernel is told of JupyterLab's settings. */
  everywhere: Settings = {};

  /** Something that the status bar shows is different. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** Follows the documents that are open and those that will be. */
  start(): void {
    const { notebooks, consoles } = this._options.trackers;
    for (const tracker of [notebooks, consoles]) {
      tracker?.forEach(panel => this.connection(panel));
      tracker?.widgetAdded.connect((_, panel) => void this.connection(panel));
    }
    this._changed.emit();
  }

  /** Tries again wherever nothing has answered. */
  retry(): void {
    this._all.forEach(connection => connection.retry());
  }

  /** Tells every kernel what the settings say for all of them. */
  configure(): void {
    this._all.forEach(connection => connection.client?.configureEverywhere());
  }

  /** What is asked for in this widget: its kernel's setting, or JupyterLab's while there is none. */
  askedIn(widget: Widget | null): { mode: Mode; afterEnter: AfterEnter } {
    const { mode, after_enter } = this.connection(widget)?.client?.settings ?? {};
    const asked = MODES.find(known => known === mode) ?? this.mode;
    return {
      mode: this.isLocked ? strictest(this.mode, asked) : asked,
      afterEnter: AFTER_ENTER.find(known => known === after_enter) ?? this.afterEnter
    };
  }

  /** The kernel of this widget; null if it has none, or is none of ours. */
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

  /** Whether code of ours can be in this widget, be it that it has no kernel yet. */
  isPlace(widget: Widget | null): boolean {
    const kind = widget && this._kindOf(widget);
    return kind === 'file' ? this._typedIn(widget!) !== null : !!kind;
  }

  /** The code cell in this widget; in words why it cannot be completed now; null if it is none of ours. */
  locate(widget: Widget, text: string): ISpot | string | null {
    const typed = this._typedIn(widget);
    if (!typed?.editor || typed.editor.model.sharedModel.getSource() !== text) {
      return null;
    }
    const connection = this.connection(widget);
    const client = connection?.client;
    if (!client) {
      return connection ? describe(connection.standing, { busy: connection.busy }).text : null;
    }
    return {
      client,
      key: `${widget.id}/${typed.cellId}/${client.status?.model}`,
      cellId: typed.cellId,
      language: typed.language,
      languagesOff: this.languagesOff,
      mode: strictest(this.askedIn(widget).mode, typed.mode),
      cells: () => typed.cells(typed.cellId),
      isAt: offset => {
        const { editor } = typed;
        return !editor!.isDisposed && editor!.getOffsetAt(editor!.getCursorPosition()) === offset;
      },
      source: () => (typed.editor!.isDisposed ? '' : typed.editor!.model.sharedModel.getSource())
    };
  }

  /** What is allowed in this widget. */
  modeIn(widget: Widget | null): Mode {
    return strictest(
      this.askedIn(widget).mode,
      (widget && this._typedIn(widget)?.mode) || undefined
    );
  }

  /** The notebook or console whose kernel completes code in this widget, and which draws that kernel's widgets. */
  ownerOf(widget: Widget | null): NotebookPanel | ConsolePanel | null {
    const context = widget && this._contextOf(widget);
    const { notebooks, consoles } = this._options.trackers;
    return (
      notebooks.find(panel => panel.sessionContext === context) ??
      consoles?.find(panel => panel.sessionContext === context) ??
      null
    );
  }

  /** Tells the kernel where the cursor rests in this widget's active cell, so that it can read ahead. */
  rests(widget: Widget | null): void {
    const typed = widget && this._typedIn(widget);
    const { editor } = typed || {};
    if (typed && editor && !editor.isDisposed && this.modeIn(widget) === 'automatic') {
      const source = editor.model.sharedModel.getSource();
      const before = source.slice(0, editor.getOffsetAt(editor.getCursorPosition()));
      this.connection(widget)?.client?.rests(typed.cells(), typed.cellId, pointsOf(before));
    }
  }

  /** Resolves when it is clear whether this widget's kernel can complete code. */
  async settled(widget: Widget): Promise<void> {
    await this.connection(widget)?.settled();
  }

  /** A cell of this panel was run. If it speaks of us, it may have installed or loaded the kernel's side. */
  executed(panel: Widget | null, source: string): void {
    if (/sc2/i.test(source)) {
      const notebook = this._options.trackers.notebooks.find(
        other => other === panel || other.content === panel
      );
      this.connection(notebook ?? null)?.retry();
    }
  }

  /** Gives a file the kernel that the user has chosen for it. */
  pick(widget: Widget, context: ISessionContext): void {
    this._picked.set(widget, context);
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
    const picked = this._picked.get(widget);
    const ofConsole = consoles?.find(panel => panel.sessionContext.session?.path === path);
    return picked ?? ofConsole?.sessionContext ?? null;
  }

  private _connect(context: ISessionContext, widget: Widget): Connection {
    const notebook = this._options.trackers.notebooks.find(panel => panel === widget);
    const connection = new Connection(context, {
      runsCells: () =>
        notebook ? runsCells(notebook) : context.session?.kernel?.status === 'busy',
      mayLoad: () => this.autoLoad && this.mode !== 'off',
      everywhere: () => this.everywhere,
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

  private _typedIn(widget: Widget): ITyped | null {
    const { notebooks, consoles, editors } = this._options.trackers;
    const notebook = notebooks.find(panel => panel === widget);
    if (notebook) {
      const cell = notebook.content?.activeCell;
      return cell?.model.type === 'code'
        ? {
            editor: cell.editor,
            cellId: cell.model.id,
            language: notebook.model?.defaultKernelLanguage || 'python',
            mode: strictest(
              modeOf(notebook.model?.getMetadata(METADATA)),
              isTaggedOff(cell.model) ? 'off' : undefined
            ),
            cells: current => {
              const models = notebook.content.model?.cells;
              return models ? this._cellsOf(models, models).now(current) : [];
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
            return [...this._cellsOf(cells, models).now(), cellOf(prompt.model)];
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

  private _cellsOf(list: object, models: ICellSources<ICellModel>): Cells<ICellModel> {
    let cells = this._cells.get(list);
    if (!cells) {
      cells = new Cells(models, cellOf);
      this._cells.set(list, cells);
    }
    return cells;
  }

  private _all = new Set<Connection>();
  private _cells = new WeakMap<object, Cells<ICellModel>>();
  private _changed = new Signal<this, void>(this);
  private _connections = new WeakMap<ISessionContext, Connection>();
  private _picked = new WeakMap<Widget, ISessionContext>();
}

export namespace Places {
  export interface IOptions {
    trackers: ITrackers;

    /** Called with the kernel's words for what is wrong with something other than a request. */
    onError(message: string): void;

    /** Called when a kernel's settings were kept for new kernels, or when what was kept was forgotten. */
    onSaved(saved: boolean, settings: Settings): void;

    /** Called when earlier answers may no longer be what a kernel would say. */
    onStale(): void;
  }
}

function cellOf(model: ICellModel): ICell {
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

function runsCells(panel: NotebookPanel): boolean {
  const cells = Array.from(panel.content?.model?.cells ?? []);
  return cells.some(
    model => model.type === 'code' && (model as ICodeCellModel).executionState === 'running'
  );
}
