/**
 * The documents in which code is completed: notebooks, consoles and file editors, each with its kernel, its cells and
 * the mode that is allowed there.
 */
import type { ISessionContext } from '@jupyterlab/apputils';
import type { ICodeCellModel } from '@jupyterlab/cells';
import type { ConsolePanel } from '@jupyterlab/console';
import type { NotebookPanel } from '@jupyterlab/notebook';
import type { Contents } from '@jupyterlab/services';
import { Signal, type ISignal } from '@lumino/signaling';
import type { Widget } from '@lumino/widgets';

import {
  AFTER_ENTER,
  MODES,
  mostRestrictive,
  type AfterEnter,
  type Mode
} from '../completion/policy';
import type { Companion } from '../kernel/companion';
import { Connection, type IKernelSource } from '../kernel/connection';
import {
  afterEnterRules,
  knowsLanguage,
  languageOfCell,
  languageOfFile,
  type IAfterEnter
} from '../kernel/languages';
import { codePointCount } from '../completion/suggestion';
import type { ICompletionTarget } from '../completion/types';
import type { Settings } from '../kernel/protocol';
import { CompanionDocuments } from './companion-documents';
import { Neighbours } from './neighbours';
import { EditedDocuments, languageOfNotebook, type ITrackers } from './edited';

export class Documents {
  constructor(private _options: Documents.IOptions) {
    const { companion } = _options;
    const { trackers, contents } = _options;
    const neighbours = new Neighbours(trackers.editors, contents);
    this._edited = new EditedDocuments(trackers, neighbours);
    this._served = new CompanionDocuments(companion, {
      needsCompanion: widget => this._needsCompanion(widget),
      languageOf: widget => this._languageOf(widget),
      connect: (companion, widget) => this._connect(companion, widget)
    });
    companion.kernelChanged.connect(() => this._changed.emit());
  }

  /** What JupyterLab's settings say, which holds unless a kernel's settings say otherwise. */
  mode: Mode = 'automatic';

  /** Whether suggestions while typing are paused, in all documents. */
  isSnoozed = (): boolean => false;
  afterEnter: AfterEnter = 'always';

  /** Whether no kernel may allow more than the settings do. */
  isLocked = false;

  /** The languages in which the user wants no ghost text. The kernel knows which one is at the cursor. */
  disabledLanguages: readonly string[] = [];

  /** Whether the extension may be loaded into kernels. */
  autoLoad = true;

  /** Whether the companion completes code where a document's own kernel cannot. */
  usesCompanion = true;

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
    this._options.companion.endIfUnused(); // It may be left over from a page that was closed.
    this._hasStarted = true;
    this.enter(this._front);
    this._changed.emit();
  }

  /** The user has come to this widget. */
  enter(widget: Widget | null): void {
    this._front = widget;
    if (this._hasStarted) {
      this._served.enter(widget);
    }
  }

  /** Settings have changed: another document may need the companion, or none. */
  reviewCompanion(): void {
    this._options.companion.reset();
    this._served.reviewAll();
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

  /**
   * The connection with the kernel that completes code in this widget: its own, or the companion; null if it has none,
   * or is none of ours.
   */
  connection(widget: Widget | null): Connection | null {
    return (widget && this._served.connection(widget)) ?? this.ownConnection(widget);
  }

  /** The connection with this widget's own kernel, whether or not that can complete code. */
  ownConnection(widget: Widget | null): Connection | null {
    const context = widget && this._contextOf(widget);
    if (!context) {
      return null;
    }
    let connection = this._connections.get(context);
    if (!connection) {
      const made = this._connect(context, widget);
      this._connections.set(context, made);
      made.changed.connect(() => this._reviewShown(context));
      context.disposed.connect(() => made.dispose());
      connection = made;
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
    if (kind !== 'file') {
      return !!kind;
    }
    const edited = this._edited.in(widget!);
    return edited !== null && (this.usesCompanion || edited.language === 'python');
  }

  /** Whether the model that completes code in this widget knows its language; undefined if that is not known. */
  knowsLanguage(widget: Widget | null): boolean | undefined {
    const client = this.connection(widget)?.client;
    const language = widget && this._languageOf(widget);
    return client && language ? knowsLanguage(client, language) : undefined;
  }

  /** The rules for a new line in this cell's language; undefined where the kernel has none. */
  afterEnterRules(widget: Widget | null, source: string): IAfterEnter | undefined {
    const languages = this.connection(widget)?.client?.hello?.languages;
    const own = widget && this._languageOf(widget);
    return own ? afterEnterRules(languageOfCell(source, own, languages), languages) : undefined;
  }

  /** What to complete in this widget; null if it is none of ours, or a text that says why nothing can be now. */
  resolveTarget(widget: Widget, text: string): ICompletionTarget | string | null {
    const edited = this.canComplete(widget) ? this._edited.in(widget) : null;
    if (!edited?.editor || edited.editor.model.sharedModel.getSource() !== text) {
      return null;
    }
    const connection = this.connection(widget);
    const client = connection?.client;
    if (!client) {
      this._served.wake(widget);
      return connection && this._options.stateText(connection);
    }
    return {
      client,
      key: `${widget.id}/${edited.cellId}/${client.status?.model}`,
      cellId: edited.cellId,
      language: edited.language,
      path: edited.path,
      fileExtension: edited.fileExtension,
      disabledLanguages: this.disabledLanguages,
      mode: mostRestrictive(this.requestedMode(widget), edited.mode, this._snoozedMode()),
      cells: () => edited.cells(edited.cellId),
      isAt: offset => {
        const { editor } = edited;
        return !editor!.isDisposed && editor!.getOffsetAt(editor!.getCursorPosition()) === offset;
      },
      showsImports: client.settings.imports !== 'on',
      importCell: () => edited.importCell(),
      source: () => (edited.editor!.isDisposed ? '' : edited.editor!.model.sharedModel.getSource())
    };
  }

  /** The mode that the settings, the notebook and the cell allow in this widget. */
  allowedMode(widget: Widget | null): Mode {
    return mostRestrictive(
      this.requestedMode(widget),
      (widget && this._edited.in(widget)?.mode) || undefined,
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
    const edited = widget && this._edited.in(widget);
    const { editor } = edited || {};
    if (edited && editor && !editor.isDisposed && this.allowedMode(widget) === 'automatic') {
      const source = editor.model.sharedModel.getSource();
      const before = source.slice(0, editor.getOffsetAt(editor.getCursorPosition()));
      this.connection(widget)?.client?.cursorIdle(
        edited.cells(),
        edited.cellId,
        codePointCount(before),
        edited.language
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

  /** The documents of this kernel that are in front or use the companion may need it now, or no longer. */
  private _reviewShown(context: ISessionContext): void {
    const { notebooks, consoles, editors } = this._options.trackers;
    for (const tracker of [notebooks, consoles, editors]) {
      tracker?.forEach(panel => {
        if (this._contextOf(panel) === context) {
          this._served.review(panel);
        }
      });
    }
  }

  /** Whether code is to be completed in this widget, and its own kernel, if it has one, cannot do it. */
  private _needsCompanion(widget: Widget): boolean {
    if (!this.usesCompanion || !this.canComplete(widget) || this.mode === 'off') {
      return false;
    }
    const own = this.ownConnection(widget);
    const context = this._contextOf(widget);
    if (!own || !context) {
      return true;
    }
    const { stage } = own.state;
    const hasNoKernel = stage === 'no kernel' && context.isReady && !context.session?.kernel;
    return hasNoKernel || stage === 'not Python' || stage === 'not installed';
  }

  private _languageOf(widget: Widget): string | null {
    const notebook = this._options.trackers.notebooks.find(panel => panel === widget);
    if (notebook) {
      return languageOfNotebook(notebook);
    }
    const edited = this._edited.in(widget);
    const languages = this.connection(widget)?.client?.hello?.languages;
    return edited?.path === undefined
      ? (edited?.language ?? null)
      : languageOfFile(edited.path, languages, edited.language);
  }

  private _connect(source: IKernelSource, widget: Widget): Connection {
    const { companion, trackers } = this._options;
    const notebook = trackers.notebooks.find(panel => panel === widget);
    const isCompanion = source === companion;
    const connection: Connection = new Connection(source, {
      isRunningCells: () =>
        !isCompanion &&
        (notebook ? isRunningCells(notebook) : source.session?.kernel?.status === 'busy'),
      companionFor: isCompanion ? () => this._pathOf(widget) : undefined,
      mayLoad: () => (this.autoLoad || isCompanion) && this.mode !== 'off',
      labSettings: () => this.labSettings,
      onSaved: this._options.onSaved,
      onStale: this._options.onStale,
      onError: this._options.onError
    });
    this._all.add(connection);
    connection.changed.connect(() => this._changed.emit());
    connection.disposed.connect(() => this._all.delete(connection));
    return connection;
  }

  private _pathOf(widget: Widget): string {
    return this._contextOf(widget)?.path ?? this.pathOf(widget) ?? '';
  }

  private _all = new Set<Connection>();
  private _changed = new Signal<this, void>(this);
  private _connections = new WeakMap<ISessionContext, Connection>();
  private _assigned = new WeakMap<Widget, ISessionContext>();
  private _edited: EditedDocuments;
  private _front: Widget | null = null;
  private _hasStarted = false;
  private _served: CompanionDocuments;
}

export namespace Documents {
  export interface IOptions {
    trackers: ITrackers;
    companion: Companion;

    /** Where files that a text file names are read from. */
    contents: Pick<Contents.IManager, 'get'>;

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

function isRunningCells(panel: NotebookPanel): boolean {
  const cells = Array.from(panel.content?.model?.cells ?? []);
  return cells.some(
    model => model.type === 'code' && (model as ICodeCellModel).executionState === 'running'
  );
}
