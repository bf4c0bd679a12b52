/**
 * Follows one document's kernel over restarts and changes of the kernel, and says who completes code there.
 */
import type { Kernel, KernelMessage, Session } from '@jupyterlab/services';
import { Signal, type ISignal } from '@lumino/signaling';

import { KernelClient } from './client';
import type { ConnectionState, IStartupTimes } from './connection-state';
import { learnStatus } from './kernel-status';
import { CHECK, LOAD } from './load';
import { PROTOCOL, TARGET, type Channel, type Settings } from './protocol';
import { within } from './timing';

const ALL_CHANNELS: readonly Channel[] = ['control', 'subshell', 'shell'];

/** Where the kernel comes from: a document's session context, or the companion. */
export interface IKernelSource {
  readonly path: string;
  readonly session: Session.ISessionConnection | null;
  readonly kernelChanged: ISignal<unknown, unknown>;
  readonly statusChanged: ISignal<unknown, Kernel.Status>;
  readonly iopubMessage: ISignal<unknown, KernelMessage.IMessage>;
}

export class Connection {
  constructor(
    private _context: IKernelSource,
    private _options: Connection.IOptions
  ) {
    // With `this`, so that clearData ends them: the companion outlives its documents.
    this._context.kernelChanged.connect(() => this._onKernelChanged(), this);
    this._context.statusChanged.connect((_, status) => this._onKernelStatus(status), this);
    this._context.iopubMessage.connect((_, message) => {
      if (this._isOfNewProcess(message)) {
        this._onKernelChanged();
      }
      if (endsExecution(message)) {
        this._options.onStale();
      }
    }, this);
    this._restart();
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get disposed(): ISignal<this, void> {
    return this._disposedSignal;
  }

  get state(): ConnectionState {
    return this._state;
  }

  /** Whether a cell is running or queued; the kernel's own status is busy for our messages, too. */
  get busy(): boolean {
    return this._options.isRunningCells();
  }

  get context(): IKernelSource {
    return this._context;
  }

  /** Whether the kernel is the companion, not the document's own. */
  get isCompanion(): boolean {
    return this._options.companionFor !== undefined;
  }

  /** The kernel's client, once the kernel has said hello in a version of the protocol that we understand. */
  get client(): KernelClient | null {
    const hello = this._client?.hello;
    return hello && hello.protocol === PROTOCOL ? this._client : null;
  }

  /** Resolves when the connection is made, or cannot be made as things are. */
  async settled(): Promise<void> {
    const pending = ['no kernel', 'connecting', 'waiting'];
    while (!this._disposed && pending.includes(this._state.stage)) {
      await new Promise<void>(resolve => {
        const changed = () => {
          this._changed.disconnect(changed);
          resolve();
        };
        this._changed.connect(changed);
      });
    }
  }

  /** Ghost text is shown in this document. */
  suggestionShown(): void {
    const { firstSuggestionSeconds } = this._startupTimes;
    if (this._kernelStartedAt !== null && firstSuggestionSeconds === undefined) {
      this._startupTimes = {
        ...this._startupTimes,
        firstSuggestionSeconds: secondsSince(this._kernelStartedAt)
      };
      if (this._client) {
        this._updateState(this._client);
      }
    }
  }

  /** Connects again, unless there is a connection. */
  reconnect(): void {
    if (!this.client) {
      this._restart();
    }
  }

  dispose(): void {
    if (this._disposed) {
      return;
    }
    this._attempt++;
    this._disposed = true;
    this._disposedSignal.emit();
    clearInterval(this._ticking);
    this._disposeClient();
    Signal.clearData(this);
  }

  private _onKernelChanged(): void {
    if (!this._isFreshKernel) {
      this._kernelStartedAt = null; // It was running before this page came to it.
      this._startupTimes = {};
    }
    this._restart();
  }

  /**
   * Whether this message is the first of another process than the one that said hello: somebody else has restarted the
   * kernel, and what it said of that was lost, as its server connects to it while it says so.
   */
  private _isOfNewProcess({ header, content }: KernelMessage.IMessage): boolean {
    const state = (content as { execution_state?: Kernel.Status }).execution_state;
    if (header.msg_type !== 'status' || (state !== 'busy' && state !== 'idle')) {
      return false; // The server sends messages in the kernel's name, but none of these.
    }
    const before = this._process;
    this._process = header.session;
    return this.client !== null && before !== null && before !== header.session;
  }

  private _onKernelStatus(status: Kernel.Status): void {
    if (status === 'starting' || status === 'restarting' || status === 'autorestarting') {
      this._isFreshKernel = true;
      this._kernelStartedAt = Date.now();
      this._startupTimes = {};
      this._restart();
    } else if (status === 'dead' || status === 'terminating') {
      this._attempt++;
      this._disposeClient();
      this._setState({ stage: 'no kernel' });
    } else {
      const kernel = this._context.session?.kernel;
      if (kernel && this._client) {
        this._learnStatus(kernel);
      }
      this._changed.emit();
    }
  }

  /** Nobody runs code in the companion, so that its status would never come by itself. */
  private _learnStatus(kernel: Kernel.IKernelConnection): void {
    void learnStatus(kernel, this.isCompanion ? 0 : STATUS_MS);
  }

  private _restart(): void {
    if (this._disposed) {
      return;
    }
    this._disposeClient();
    const attempt = ++this._attempt;
    const kernel = this._context.session?.kernel;
    if (!kernel) {
      this._setState({ stage: 'no kernel' });
      return;
    }
    this._connect(kernel, () => attempt !== this._attempt || kernel.isDisposed).catch(() => {
      // The kernel went away meanwhile; its next status or the next kernel starts again.
    });
  }

  private async _connect(kernel: Kernel.IKernelConnection, gone: () => boolean): Promise<void> {
    this._setState({ stage: 'connecting' });
    const spec = await kernel.spec;
    if (gone()) {
      return;
    }
    if (spec?.language.toLowerCase() !== 'python') {
      this._setState({ stage: 'not Python' });
      return;
    }
    const client = new KernelClient(kernel, {
      notebook: this._options.companionFor?.() ?? this._context.path,
      isCompanion: this.isCompanion,
      onStatus: () => this._updateState(client),
      onClose: () => this._setState({ stage: 'not loaded' }),
      onError: this._options.onError,
      onSaved: this._options.onSaved,
      onStale: this._options.onStale,
      labSettings: this._options.labSettings
    });
    this._client = client;
    this._learnStatus(kernel);
    // After a page reload in the middle of a cell the extension may be loaded already, and the control channel answers.
    // Not tried at once nor with a fresh kernel, which would log that it does not know our comm target.
    let info = this._isFreshKernel ? undefined : await this._commInfo(kernel, gone);
    if (!this._isFreshKernel && info === undefined && !gone()) {
      this._setState({ stage: 'waiting' });
      if (await client.connect(['control'])) {
        return;
      }
    }
    if (!(await this._idle(gone))) {
      return;
    }
    if (!this._isFreshKernel) {
      info ??= await kernel.requestCommInfo({ target_name: TARGET });
      const isLoaded = info.content.status === 'ok' && Object.keys(info.content.comms).length > 0;
      if (gone() || (isLoaded && (await client.connect(['control'])))) {
        return;
      }
    }
    this._isFreshKernel = false;
    const mayLoad = this._options.mayLoad();
    const loaded = await this._evaluate(kernel, mayLoad ? LOAD : CHECK, gone);
    if (gone()) {
      return;
    }
    if (typeof loaded === 'string') {
      this._setState({ stage: 'failed', message: loaded });
    } else if (!loaded) {
      this._setState({ stage: mayLoad ? 'not installed' : 'not loaded' });
    } else if (!(await client.connect(ALL_CHANNELS)) && !gone()) {
      this._setState({ stage: 'not responding' });
    }
  }

  /** The comms that the kernel has open with our target; undefined if it does not answer in time. */
  private async _commInfo(
    kernel: Kernel.IKernelConnection,
    gone: () => boolean
  ): Promise<KernelMessage.ICommInfoReplyMsg | undefined> {
    // A status of idle is not enough: after a reload JupyterLab 4.4 reports it while a cell runs.
    return (await this._idle(gone, REPLY_TIMEOUT_MS))
      ? within(kernel.requestCommInfo({ target_name: TARGET }), REPLY_TIMEOUT_MS)
      : undefined;
  }

  /** The value of an expression in the idle kernel: true or false, or the error that it raised. */
  private async _evaluate(
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
        const value = reply.user_expressions.sc2 as unknown as IExpressionResult;
        return value.status === 'error'
          ? `${value.ename}: ${value.evalue}`
          : value.data?.['text/plain'] === 'True';
      }
      // Not evaluated: an earlier cell failed, and the kernel dropped what was queued behind it.
    }
    return false;
  }

  /** Waits until no cell is running or queued; false if that took longer than `limitMs`, or `gone` says so. */
  private async _idle(gone: () => boolean, limitMs = Infinity): Promise<boolean> {
    const endsAt = Date.now() + limitMs;
    while (Date.now() < endsAt && !gone()) {
      if (this._context.session?.kernel?.status === 'idle' && !this.busy) {
        return true;
      }
      await this._nextStatus();
    }
    return false;
  }

  /** Resolves when the kernel's status changes, or after a while: cells are queued without that. */
  private _nextStatus(): Promise<void> {
    const { statusChanged } = this._context;
    return new Promise(resolve => {
      const done = () => {
        clearTimeout(timer);
        statusChanged.disconnect(done);
        resolve();
      };
      const timer = setTimeout(done, POLL_MS);
      statusChanged.connect(done);
    });
  }

  private _disposeClient(): void {
    this._client?.dispose();
    this._client = null;
  }

  /** Takes over what the client has heard; while a model loads, `changed` is emitted every second to count them. */
  private _updateState(client: KernelClient): void {
    const { status } = client;
    const { loadSeconds, readySeconds } = this._startupTimes;
    if (status?.state === 'ready' && loadSeconds === undefined && readySeconds === undefined) {
      this._startupTimes = {
        ...this._startupTimes,
        loadSeconds: status.seconds,
        readySeconds:
          this._kernelStartedAt === null ? undefined : secondsSince(this._kernelStartedAt)
      };
    }
    const state = stateOf(client, this._startupTimes);
    this._setState(state);
    if (state.stage === 'connected' && state.loading) {
      this._ticking ??= setInterval(() => this._changed.emit(), 1000);
    }
  }

  private _setState(state: ConnectionState): void {
    if (state.stage !== 'connected' || !state.loading) {
      clearInterval(this._ticking);
      this._ticking = undefined;
    }
    this._state = state;
    this._changed.emit();
  }

  private _attempt = 0;
  private _changed = new Signal<this, void>(this);
  private _client: KernelClient | null = null;
  private _disposed = false;
  private _disposedSignal = new Signal<this, void>(this);
  private _isFreshKernel = false; // No page can have loaded anything into the kernel yet.
  private _kernelStartedAt: number | null = null; // In ms as of Date.now(); null if that was before this page.
  private _process: string | null = null; // The session that the kernel's messages have: a new one for each process.
  private _startupTimes: IStartupTimes = {};
  private _state: ConnectionState = { stage: 'no kernel' };
  private _ticking: ReturnType<typeof setInterval> | undefined;
}

export namespace Connection {
  export interface IOptions {
    /** Whether a cell is running or queued. */
    isRunningCells(): boolean;

    /** The path of the document, if the kernel is the companion; absent for the document's own kernel. */
    companionFor?(): string;

    /** Whether the extension may be loaded into the kernel. */
    mayLoad(): boolean;

    /** What JupyterLab's settings say for every kernel. */
    labSettings(): Settings;

    /** Called when a kernel's settings were saved as defaults for new kernels, or these defaults were deleted. */
    onSaved(saved: boolean, settings: Settings): void;

    /** Called when the kernel might answer differently from now on: code has run, or settings have changed. */
    onStale(): void;

    /** Called with the kernel's message for an error that belongs to no request. */
    onError(message: string): void;
  }
}

const POLL_MS = 100;
const STATUS_MS = 1000;
const REPLY_TIMEOUT_MS = 1000;

/** A user expression's part of an execute reply. */
interface IExpressionResult {
  status: string;
  data?: Record<string, string>;
  ename?: string;
  evalue?: string;
}

/** Whether this message says that an execution has ended, whoever requested it. */
function endsExecution({
  header,
  content,
  parent_header: parent
}: KernelMessage.IMessage): boolean {
  return (
    header.msg_type === 'status' &&
    (content as { execution_state: Kernel.Status }).execution_state === 'idle' &&
    (parent as Partial<KernelMessage.IHeader>).msg_type === 'execute_request'
  );
}

function secondsSince(ms: number): number {
  return (Date.now() - ms) / 1000;
}

function stateOf(client: KernelClient, startupTimes: IStartupTimes): ConnectionState {
  const { hello, status } = client;
  if (!hello || !status) {
    return { stage: 'connecting' };
  }
  if (hello.protocol !== PROTOCOL) {
    return { stage: 'version mismatch', version: hello.version };
  }
  if (hello.allowed === false) {
    return { stage: 'not allowed' };
  }
  const { model, precision, state, progress, message, stage, seconds } = status;
  const isLoading = state === 'loading' || state === 'downloading';
  return {
    stage: 'connected',
    channel: hello.channel,
    model,
    precision: precision || undefined,
    isCompanion: hello.companion,
    modelState: state,
    progress,
    message,
    loading:
      isLoading && seconds !== undefined
        ? { stage, since: client.statusAt - 1000 * seconds }
        : undefined,
    startupTimes
  };
}
