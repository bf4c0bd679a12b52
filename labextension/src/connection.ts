/**
 * Follows notebooks and their kernels: who can complete code, and how that stands.
 */
import type { ISessionContext } from '@jupyterlab/apputils';
import type { ICodeCellModel } from '@jupyterlab/cells';
import type { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import type { Kernel, KernelMessage } from '@jupyterlab/services';
import { Signal, type ISignal } from '@lumino/signaling';
import type { Widget } from '@lumino/widgets';

import { KernelClient } from './client';
import { TARGET, type Channel, type ICell } from './protocol';
import type { ISpot } from './provider';
import { describe, type Standing } from './standing';

/**
 * Loads the extension where it is installed, and is True then. As an expression it binds no names, and with
 * empty code IPython fires no pre_execute, keeps no history and counts no execution.
 */
const LOAD =
  "(lambda shell, found: bool(shell and found and (shell.extension_manager.load_extension('jupyter_sc2'), 1)))" +
  "(__import__('IPython').get_ipython(), __import__('importlib.util').util.find_spec('jupyter_sc2'))";

/** Whether it is loaded. */
const CHECK =
  "(lambda shell: bool(shell and 'jupyter_sc2' in shell.extension_manager.loaded))" +
  "(__import__('IPython').get_ipython())";

const ALL_ROADS: readonly Channel[] = ['control', 'subshell', 'shell'];

/** The connections of all open notebooks. Views of one notebook share one. */
export class Connections {
  constructor(private _tracker: INotebookTracker) {}

  /** Whether kernels may be told to load the extension. */
  autoLoad = true;

  /** Something that the status bar shows is different. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** How it stands in the notebook in front; null if there is none. */
  get current(): Connection | null {
    const panel = this._tracker.currentWidget;
    return (panel && this._connections.get(panel.sessionContext)) ?? null;
  }

  /** Follows the notebooks that are open and those that will be. */
  start(): void {
    this._tracker.forEach(panel => this._follow(panel));
    this._tracker.widgetAdded.connect((_, panel) => this._follow(panel));
    this._tracker.currentChanged.connect(() => this._changed.emit());
    this._changed.emit();
  }

  /** Tries again wherever nothing has answered. */
  retry(): void {
    this._tracker.forEach(panel => this._connections.get(panel.sessionContext)?.retry());
  }

  /** The code cell in this widget; in words why it cannot be completed now; null if it is none of ours. */
  locate(widget: Widget, text: string): ISpot | string | null {
    const panel = this._tracker.find(panel => panel === widget);
    const cell = panel?.content.activeCell;
    const model = cell?.model;
    if (!panel || !model || model.type !== 'code' || model.sharedModel.getSource() !== text) {
      return null;
    }
    const connection = this._connections.get(panel.sessionContext);
    const client = connection?.client;
    if (!client) {
      return connection ? describe(connection.standing, true, connection.busy).text : null;
    }
    return {
      client,
      key: `${panel.id}/${model.id}/${client.status?.model}`,
      cellId: model.id,
      language: panel.model?.defaultKernelLanguage || 'python',
      cells: () => cellsOf(panel),
      source: () => model.sharedModel.getSource()
    };
  }

  /** Resolves when it is clear whether this widget's kernel can complete code. */
  async settled(widget: Widget): Promise<void> {
    const panel = this._tracker.find(panel => panel === widget);
    await (panel && this._connections.get(panel.sessionContext))?.settled();
  }

  /** A cell of this panel was run. If it speaks of us, it may have installed or loaded the kernel's side. */
  executed(panel: Widget | null, source: string): void {
    if (/sc2/i.test(source)) {
      const found = this._tracker.find(other => other === panel || other.content === panel);
      (found && this._connections.get(found.sessionContext))?.retry();
    }
  }

  private _follow(panel: NotebookPanel): void {
    const context = panel.sessionContext;
    if (this._connections.has(context)) {
      return;
    }
    const connection = new Connection(panel, () => this.autoLoad);
    this._connections.set(context, connection);
    connection.changed.connect(() => this._changed.emit());
    context.disposed.connect(() => connection.dispose());
  }

  private _changed = new Signal<this, void>(this);
  private _connections = new WeakMap<ISessionContext, Connection>();
}

/** One notebook's kernel: its client, from the first connection over restarts to the last. */
export class Connection {
  constructor(
    private _panel: NotebookPanel,
    private _mayLoad: () => boolean
  ) {
    this._context = _panel.sessionContext;
    this._context.kernelChanged.connect(() => this._restart());
    this._context.statusChanged.connect((_, status) => this._onStatus(status));
    this._restart();
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get standing(): Standing {
    return this._standing;
  }

  /** Whether a cell of this notebook runs or waits; the kernel's status also tells of our own messages. */
  get busy(): boolean {
    return runsCells(this._panel);
  }

  /** Who completes code here, once it has answered. */
  get client(): KernelClient | null {
    return this._client?.hello ? this._client : null;
  }

  /** Resolves when the connection is made, or cannot be made as things are. */
  async settled(): Promise<void> {
    const onItsWay = ['no kernel', 'connecting', 'waiting'];
    while (!this._disposed && onItsWay.includes(this._standing.stage)) {
      await new Promise<void>(resolve => {
        const changed = () => {
          this._changed.disconnect(changed);
          resolve();
        };
        this._changed.connect(changed);
      });
    }
  }

  /** Tries again, if nothing has answered yet. */
  retry(): void {
    if (!this.client) {
      this._restart();
    }
  }

  dispose(): void {
    this._attempt++;
    this._disposed = true;
    this._drop();
    Signal.clearData(this);
  }

  private _onStatus(status: Kernel.Status): void {
    if (status === 'starting' || status === 'restarting' || status === 'autorestarting') {
      this._isNew = true;
      this._restart();
    } else if (status === 'dead' || status === 'terminating') {
      this._attempt++;
      this._drop();
      this._set({ stage: 'no kernel' });
    } else {
      this._changed.emit();
    }
  }

  private _restart(): void {
    if (this._disposed) {
      return;
    }
    this._drop();
    const attempt = ++this._attempt;
    const kernel = this._context.session?.kernel;
    if (!kernel) {
      this._set({ stage: 'no kernel' });
      return;
    }
    this._connect(kernel, () => attempt !== this._attempt || kernel.isDisposed).catch(() => {
      // The kernel went away meanwhile; its next status or the next kernel starts anew.
    });
  }

  private async _connect(kernel: Kernel.IKernelConnection, gone: () => boolean): Promise<void> {
    this._set({ stage: 'connecting' });
    const spec = await kernel.spec;
    if (gone()) {
      return;
    }
    if (spec?.language.toLowerCase() !== 'python') {
      this._set({ stage: 'not Python' });
      return;
    }
    const client = new KernelClient(kernel, {
      onStatus: () => this._set(standingOf(client)),
      onClose: () => this._set({ stage: 'not loaded' })
    });
    this._client = client;
    // After a page reload in the middle of a cell the kernel may have it loaded, and the control road answers.
    // Not at once and not to a new kernel, which would have it in its log that it cannot understand us.
    if (!this._isNew && !(await this._idle(gone, 1000)) && !gone()) {
      this._set({ stage: 'waiting' });
      if (await client.connect(['control'])) {
        return;
      }
    }
    if (!(await this._idle(gone))) {
      return;
    }
    this._isNew = false;
    const info = await kernel.requestCommInfo({ target_name: TARGET });
    const isLoaded = info.content.status === 'ok' && Object.keys(info.content.comms).length > 0;
    if (gone() || (isLoaded && (await client.connect(['control'])))) {
      return;
    }
    const mayLoad = this._mayLoad();
    const loaded = await this._ask(kernel, mayLoad ? LOAD : CHECK, gone);
    if (gone()) {
      return;
    }
    if (typeof loaded === 'string') {
      this._set({ stage: 'failed', message: loaded });
    } else if (!loaded) {
      this._set({ stage: mayLoad ? 'not installed' : 'not loaded' });
    } else if (!(await client.connect(ALL_ROADS)) && !gone()) {
      this._set({ stage: 'silent' });
    }
  }

  /** What an expression came to in the idle kernel: true or false, or what went wrong. */
  private async _ask(
    kernel: Kernel.IKernelConnection,
    expression: string,
    gone: () => boolean
  ): Promise<boolean | string> {
    const content: KernelMessage.IExecuteRequestMsg['content'] = {
      code: '',
      silent: true,
      store_history: false,
      allow_stdin: false,
      stop_on_error: false,
      user_expressions: { sc2: expression }
    };
    while (await this._idle(gone)) {
      const reply = (await kernel.requestExecute(content).done).content;
      if (reply.status === 'ok') {
        const value = reply.user_expressions.sc2 as unknown as IExpression;
        return value.status === 'error'
          ? `${value.ename}: ${value.evalue}`
          : value.data?.['text/plain'] === 'True';
      }
      // Not run: a cell before it failed, and the kernel dropped what came after.
    }
    return false;
  }

  /** Waits until no cell runs or waits; false if that took longer than `limit`, or nobody wants to know any more. */
  private async _idle(gone: () => boolean, limit = Infinity): Promise<boolean> {
    for (let waited = 0; waited < limit && !gone(); waited += POLL) {
      if (this._context.session?.kernel?.status === 'idle' && !runsCells(this._panel)) {
        return true;
      }
      await new Promise(resolve => setTimeout(resolve, POLL));
    }
    return false;
  }

  private _drop(): void {
    this._client?.dispose();
    this._client = null;
  }

  private _set(standing: Standing): void {
    this._standing = standing;
    this._changed.emit();
  }

  private _attempt = 0;
  private _changed = new Signal<this, void>(this);
  private _client: KernelClient | null = null;
  private _context: ISessionContext;
  private _disposed = false;
  private _isNew = false; // No page can have loaded anything into the kernel yet.
  private _standing: Standing = { stage: 'no kernel' };
}

const POLL = 100;

/** What a user expression came to. */
interface IExpression {
  status: string;
  data?: Record<string, string>;
  ename?: string;
  evalue?: string;
}

function standingOf(client: KernelClient): Standing {
  const { hello, status } = client;
  if (!hello || !status) {
    return { stage: 'connecting' };
  }
  const { model, state, progress, message } = status;
  return {
    stage: 'connected',
    channel: hello.channel,
    model,
    state,
    progress,
    message
  };
}

function cellsOf(panel: NotebookPanel): ICell[] {
  return Array.from(panel.content.model?.cells ?? [], model => ({
    id: model.id,
    cell_type: model.type,
    source: model.sharedModel.getSource(),
    execution_count: model.type === 'code' ? (model as ICodeCellModel).executionCount : null
  }));
}

function runsCells(panel: NotebookPanel): boolean {
  const cells = Array.from(panel.content?.model?.cells ?? []);
  return cells.some(
    model => model.type === 'code' && (model as ICodeCellModel).executionState === 'running'
  );
}
