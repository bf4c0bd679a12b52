/**
 * Joins the parts: the provider, the documents, the settings, the commands and the status item.
 */
import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, Notification } from '@jupyterlab/apputils';
import { ICompletionProviderManager, IInlineCompleterFactory } from '@jupyterlab/completer';
import { IConsoleTracker } from '@jupyterlab/console';
import { IEditorTracker } from '@jupyterlab/fileeditor';
import { INotebookTracker, NotebookActions } from '@jupyterlab/notebook';
import { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStatusBar } from '@jupyterlab/statusbar';
import { ITranslator, nullTranslator, type TranslationBundle } from '@jupyterlab/translation';
import { Platform } from '@lumino/domutils';
import { Signal } from '@lumino/signaling';
import type { Widget } from '@lumino/widgets';

import { InlineCompleters } from './completion/inline-completer';
import { matchesOf } from './completion/inline-items';
import { NewlineTrigger } from './completion/newline-trigger';
import { Provider } from './completion/provider';
import { Snooze } from './completion/snooze';
import type { AcceptedPart, IInlineItem } from './completion/types';
import { Documents } from './documents/documents';
import { Companion } from './kernel/companion';
import type { Connection } from './kernel/connection';
import type { Editor, IDelta } from './jupyterlab/patches';
import type { Settings } from './kernel/protocol';
import { FrontEndSettings, type IFrontEndSettings } from './settings';
import { Announcer } from './ui/announcer';
import { AttributionMark, fullMatch } from './ui/attribution-mark';
import { CandidateCount } from './ui/candidate-count';
import { addCommands, addToPalette, COMMANDS, makeMenu } from './ui/commands';
import { FirstHint } from './ui/first-hint';
import { ImportHint } from './ui/import-hint';
import { installCommand } from './ui/install-command';
import { rendermimeOf, showPrompt, type IMagicTarget } from './ui/magic-output';
import { nameControls } from './ui/panel-labels';
import { Sidebar } from './ui/sidebar';
import { StatusItem } from './ui/status';
import { reasonText, statusText, type IStatusDetails, type IStatusText } from './ui/status-text';
import { AcceptanceRecorder } from './usage/record';
import { RetentionTracker } from './usage/retention';

const PLUGIN = 'jupyter-sc2:plugin';

/** How long a cursor stays in one place until its kernel is told. */
const IDLE_MS = 300;

/** How long notifications are shown. */
const INFO_MS = 4000;
const ERROR_MS = 8000;

/** What JupyterLab provides; null where it has no such part. */
interface IServices {
  app: JupyterFrontEnd;
  completion: ICompletionProviderManager;
  factory: IInlineCompleterFactory;
  notebooks: INotebookTracker;
  consoles: IConsoleTracker | null;
  editors: IEditorTracker | null;
  registry: ISettingRegistry | null;
  statusBar: IStatusBar | null;
  palette: ICommandPalette | null;
  translator: ITranslator;
  rendermime: IRenderMimeRegistry | null;
}

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
    ITranslator,
    IRenderMimeRegistry
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
    translator: ITranslator | null,
    rendermime: IRenderMimeRegistry | null
  ) => {
    const page = new Extension({
      app,
      completion,
      factory,
      notebooks,
      consoles,
      editors,
      registry,
      statusBar,
      palette,
      translator: translator ?? nullTranslator,
      rendermime
    });
    page.start();
  }
};

class Extension {
  constructor(private _services: IServices) {
    const { notebooks, consoles, editors, registry, translator } = _services;
    const trans = (this._trans = translator.load('jupyter_sc2'));
    this._announcer = new Announcer(trans);
    this._mark = new AttributionMark(trans);
    this._count = new CandidateCount(trans);
    this._imports = new ImportHint(trans);
    this._hint = new FirstHint({
      trans,
      isMac: Platform.IS_MAC,
      onSeen: () => void this._settings.set('hint', false)
    });
    this._documents = new Documents({
      trackers: { notebooks, consoles, editors },
      contents: _services.app.serviceManager.contents,
      companion: (this._companion = new Companion(_services.app.serviceManager)),
      onError: message => this._notify(message, 'error'),
      onStale: () => this._provider.clearCache(),
      onSaved: (saved, values) => void this._adoptKernelDefaults(saved, values),
      stateText: connection => this._connectionText(connection).text
    });
    this._documents.isSnoozed = () => this._snooze.isActive;
    this._provider = new Provider({
      resolveTarget: (widget, text) => this._documents.resolveTarget(widget, text),
      settled: widget => this._documents.settled(widget),
      trans,
      reasonText: reason => reasonText(reason, trans),
      notify: (message, kind) => this._notify(message, kind),
      add: (item, first) => this._completers.add(item, first),
      remove: (item, first) => this._completers.remove(item, first),
      onOutcome: ({ kind }) => {
        if (kind === 'shown') {
          this._documents.connection(this._current)?.suggestionShown();
        }
        this._changed.emit();
      }
    });
    this._completers = new InlineCompleters({
      provider: this._provider,
      onTextChanged: (editor, delta) => this._onTextChanged(editor, delta),
      onCursorMoved: editor => this._onCursorMoved(editor),
      onShown: read => this._announcer.onChanged(read),
      onItemChanged: (item, host, position) => {
        this._count.update(item !== undefined, host, position);
        this._mark.update(item, host);
        this._hint.update(item !== undefined, host);
      },
      onImportsChanged: (item, host, read) =>
        this._imports.update(item?.target.showsImports === true, host, read, () => {
          item!.suggestion.leavesImportsOut = true;
        }),
      onImportedAbove: imports =>
        this._notify(
          trans.__('Added to the first cell of imports: %1. Run it again.', imports.join(', ')),
          'info'
        ),
      onDismissed: () => this._hint.putAway(),
      onAccepted: (item, part, text) => this._onAccepted(item, part, text)
    });
    this._newlineTrigger = new NewlineTrigger({
      provider: this._provider,
      policy: () => this._documents.requestedAfterEnter(this._current),
      rules: source => this._documents.afterEnterRules(this._current, source),
      targetKey: (editor, source) => this._targetKey(editor, source),
      invoke: () => _services.completion.inline?.invoke(this._current!.id)
    });
    this._sidebar = new Sidebar(
      () => this._magicTarget(),
      () => void _services.app.commands.execute(COMMANDS.openSettings),
      trans
    );
    this._settings = new FrontEndSettings(registry, PLUGIN, values => this._apply(values));
  }

  start(): void {
    const { app, completion, factory } = this._services;
    // At once: JupyterLab never uses a provider that is registered after its layout was restored.
    completion.registerInlineProvider(this._provider);
    this._completers.follow(factory);
    // Only then: nothing may be loaded into a kernel if the settings forbid it.
    void this._settings.load().then(() => this._documents.start());
    app.shell.add(this._sidebar, 'right', { rank: 900 });
    nameControls(document);
    this._addCommands();
    this._addStatus();
    this._followUser();
  }

  /** The widget in front. */
  private get _current(): Widget | null {
    return this._services.app.shell.currentWidget;
  }

  private _notify(message: string, kind: 'info' | 'error'): void {
    Notification.emit(message, kind, { autoClose: kind === 'error' ? ERROR_MS : INFO_MS });
  }

  private async _adoptKernelDefaults(saved: boolean, values: Settings): Promise<void> {
    if (await this._settings.adoptKernelDefaults(saved, values)) {
      const trans = this._trans;
      this._notify(
        trans.__("JupyterLab's settings for all kernels were updated to match."),
        'info'
      );
    }
  }

  private _apply(values: IFrontEndSettings): void {
    const { _documents: documents, _provider: provider } = this;
    const reconnects = values.autoLoad !== documents.autoLoad || values.mode !== documents.mode;
    documents.mode = values.mode;
    documents.afterEnter = values.afterEnter;
    documents.isLocked = values.isLocked;
    documents.autoLoad = values.autoLoad;
    documents.usesCompanion = values.companion;
    if (JSON.stringify(values.disabledLanguages) !== JSON.stringify(documents.disabledLanguages)) {
      documents.disabledLanguages = values.disabledLanguages;
      provider.clearCache();
    }
    provider.debounceMs = values.debounceMs;
    provider.candidates = values.candidates;
    this._announcer.enabled = values.announce;
    this._hint.enabled = values.hint;
    if (JSON.stringify(values.labSettings) !== JSON.stringify(documents.labSettings)) {
      documents.labSettings = values.labSettings;
      documents.sendLabSettings();
    }
    if (reconnects) {
      documents.reconnect();
    }
    documents.reviewCompanion();
    this._changed.emit();
  }

  // What the user does in an editor

  private _onTextChanged(editor: Editor | null, delta: readonly IDelta[]): void {
    // Typing moves the cursor, before or after this call; its request makes the kernel read the prompt anyway.
    clearTimeout(this._idleTimer);
    this._isTyping = true;
    setTimeout(() => (this._isTyping = false), 0);
    if (editor) {
      this._newlineTrigger.onTextChanged(editor, delta);
    }
  }

  private _onCursorMoved(editor: Editor | null): void {
    if (!this._isTyping && editor && editor === this._services.notebooks.activeCell?.editor) {
      this._notifyCursorIdleSoon();
    }
  }

  /** Delayed: a user who runs cells one after another, or moves through one, is in each place for a moment only. */
  private _notifyCursorIdleSoon(): void {
    clearTimeout(this._idleTimer);
    this._idleTimer = setTimeout(
      () => this._documents.notifyCursorIdle(this._services.notebooks.currentWidget),
      IDLE_MS
    );
  }

  private _onAccepted(item: IInlineItem, part: AcceptedPart, text: string): void {
    this._hint.putAway();
    this._retention.onAccepted(item, part, text);
    const panel = this._services.notebooks.currentWidget;
    const version = this._documents.connection(panel)?.client?.hello?.version;
    this._recorder.onAccepted(item, text, panel, version);
    const [match] = matchesOf(item);
    if (match && item.suggestion.policy === 'warn') {
      const trans = this._trans;
      this._notify(trans.__('The accepted text matches %1.', fullMatch(match, trans)), 'info');
    }
  }

  private _targetKey(editor: Editor, source: string): string | null {
    const widget = this._current;
    const target = widget?.node.contains(editor.host)
      ? this._documents.resolveTarget(widget, source)
      : null;
    return target && typeof target !== 'string' && target.mode === 'automatic' ? target.key : null;
  }

  private _followUser(): void {
    const { app, notebooks } = this._services;
    this._documents.changed.connect(() => {
      this._changed.emit();
      this._sidebar.refresh();
    });
    this._documents.enter(this._current);
    app.shell.currentChanged?.connect(() => {
      this._provider.cancel();
      this._documents.enter(this._current);
      this._changed.emit();
      this._sidebar.refresh();
    });
    notebooks.activeCellChanged.connect((_, cell) => {
      this._provider.cancel();
      this._notifyCursorIdleSoon();
      const notebook = notebooks.currentWidget?.content;
      if (notebook && cell?.model.type === 'code' && cell.editor) {
        const above = notebook.widgets.slice(0, notebook.activeCellIndex);
        const isBelowCode = above.some(
          ({ model }) => model.type === 'code' && model.sharedModel.getSource().trim() !== ''
        );
        this._newlineTrigger.onCellEntered(cell.editor, isBelowCode);
      }
    });
    NotebookActions.executed.connect((_, { notebook, cell }) => {
      this._retention.onCellExecuted(cell.model.id);
      this._notifyCursorIdleSoon();
      this._documents.onCellExecuted(notebook, cell.model.sharedModel.getSource());
    });
  }

  // What the user sees

  private _addCommands(): void {
    const { app, palette, translator } = this._services;
    const trans = this._trans;
    addCommands({
      app,
      documents: this._documents,
      completers: this._completers,
      translator,
      trans,
      statusText: () => this._statusText(),
      setMode: async mode => {
        this._provider.cancel();
        await this._settings.set('mode', mode);
      },
      isLocked: () => this._settings.isLocked,
      snooze: this._snooze,
      openPanel: () => app.shell.activateById(this._sidebar.id),
      showPrompt: () => showPrompt(this._promptTarget(), trans)
    });
    if (palette) {
      addToPalette(palette, trans);
    }
  }

  private _addStatus(): void {
    const { app, statusBar } = this._services;
    const status = new StatusItem({
      statusText: () => this._statusText(),
      changed: this._changed,
      menu: makeMenu(app)
    });
    if (statusBar) {
      statusBar.registerStatusItem(PLUGIN, {
        item: status,
        align: 'right',
        rank: 10,
        isActive: () => this._documents.canComplete(this._current),
        activeStateChanged: this._changed as never
      });
    } else {
      // Notebook 7 has no status bar; it shows the kernel's state at the top, too.
      status.id = 'jupyter_sc2-status';
      app.shell.add(status, 'menu', { rank: 10020 });
    }
  }

  /** What the status bar says about the widget in front; null if no code can be completed there. */
  private _statusText(): IStatusText | null {
    const widget = this._current;
    const connection = this._documents.connection(widget);
    if (!connection) {
      return this._documents.canComplete(widget)
        ? statusText({ stage: 'no kernel' }, { busy: false }, this._trans)
        : null;
    }
    const { outcome } = this._provider;
    const isOther = outcome.kind === 'idle' && this._documents.knowsLanguage(widget) === false;
    return this._connectionText(connection, {
      mode: this._documents.allowedMode(widget),
      outcome: isOther ? { kind: 'nothing', reason: 'other_language' } : outcome,
      isMissing: this._documents.ownConnection(widget)?.state.stage === 'not installed',
      snoozedMinutes: this._snooze.minutesLeft
    });
  }

  private _connectionText(
    connection: Connection,
    details: Partial<IStatusDetails> = {}
  ): IStatusText {
    const { busy, isCompanion, state } = connection;
    const companion = isCompanion ? this._companion.stage : undefined;
    const install = installCommand();
    return statusText(state, { busy, companion, install, ...details }, this._trans);
  }

  /** Where the panel comes from: the kernel of the widget in front, or of the current notebook. */
  private _magicTarget(): IMagicTarget {
    const current = this._documents.connection(this._current);
    if (current?.isCompanion) {
      return { connection: current, rendermime: null }; // Nothing here knows its kernel's widgets.
    }
    const owner =
      this._documents.sessionOwner(this._current) ?? this._services.notebooks.currentWidget;
    const connection = this._documents.connection(owner);
    return { connection, rendermime: connection?.isCompanion ? null : rendermimeOf(owner) };
  }

  /** Where the prompt comes from: the companion, too. */
  private _promptTarget(): IMagicTarget {
    const connection = this._documents.connection(this._current);
    return connection?.isCompanion
      ? { connection, rendermime: this._services.rendermime }
      : this._magicTarget();
  }

  private _announcer: Announcer;
  private _changed = new Signal<object, void>({});
  private _companion: Companion;
  private _completers: InlineCompleters;
  private _count: CandidateCount;
  private _documents: Documents;
  private _imports: ImportHint;
  private _hint: FirstHint;
  private _idleTimer: ReturnType<typeof setTimeout> | undefined;
  private _isTyping = false;
  private _mark: AttributionMark;
  private _newlineTrigger: NewlineTrigger;
  private _provider: Provider;
  private _recorder = new AcceptanceRecorder();
  private _retention = new RetentionTracker();
  private _settings: FrontEndSettings;
  private _sidebar: Sidebar;
  private _snooze = new Snooze(() => this._changed.emit());
  private _trans: TranslationBundle;
}

export default plugin;
