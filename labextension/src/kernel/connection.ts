/**
 * Follows one document's kernel: who completes code there, from the first connection over restarts to the last.
 */
import type { ISessionContext } from '@jupyterlab/apputils';
import type { Kernel, KernelMessage } from '@jupyterlab/services';
import { Signal, type ISignal } from '@lumino/signaling';

import { KernelClient } from './client';
import { CHECK, LOAD } from './load';
import { PROTOCOL, TARGET, type Channel, type Settings } from './protocol';
import type { IFirstMinute, Standing } from '../ui/status-text';
import { within } from './timing';

const ALL_ROADS: readonly Channel[] = ['control', 'subshell', 'shell'];

export class Connection {
  constructor(
    private _context: ISessionContext,
    private _options: Connection.IOptions
  ) {
    this._context.kernelChanged.connect(() => {
      if (!this._isNew) {
        this._began = null; // It has run before this page came to it.
        this._firstMinute = {};
      }
      this._restart();
    });
    this._context.statusChanged.connect((_, status) => this._onStatus(status));
    this._context.iopubMessage.connect((_, message) => {
      if (hasRun(message)) {
        this._options.onStale();
      }
    });
    this._restart();
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get standing(): Standing {
    return this._standing;
  }

  /** Whether a cell runs or waits; the kernel's status also tells of our own messages. */
  get busy(): boolean {
    return this._options.runsCells();
  }

  get context(): ISessionContext {
    return this._context;
  }

  /** Who completes code here, once it has answered in words that we understand. */
  get client(): KernelClient | null {
    const hello = this._client?.hello;
    return hello && hello.protocol === PROTOCOL ? this._client : null;
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

  /** Ghost text is shown here. */
  shown(): void {
    if (this._began !== null && this._firstMinute.firstText === undefined) {
      this._firstMinute = { ...this._firstMinute, firstText: secondsSince(this._began) };
      if (this._client) {
        this._tell(this._client);
      }
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
    clearInterval(this._ticking);
    this._drop();
    Signal.clearData(this);
  }

  private _onStatus(status: Kernel.Status): void {
    if (status === 'starting' || status === 'restarting' || status === 'autorestarting') {
      this._isNew = true;
      this._began = Date.now();
      this._firstMinute = {};
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
      notebook: this._context.path,
      onStatus: () => this._tell(client),
      onClose: () => this._set({ stage: 'not loaded' }),
      onError: this._options.onError,
      onSaved: this._options.onSaved,
      onStale: this._options.onStale,
      everywhere: this._options.everywhere
    });
    this._client = client;
    // After a page reload in the middle of a cell the kernel may have it loaded, and the control road answers.
    // Not at once and not to a new kernel, which would have it in its log that it cannot understand us.
    let info = this._isNew ? undefined : await this._commInfo(kernel, gone);
    if (!this._isNew && info === undefined && !gone()) {
      this._set({ stage: 'waiting' });
      if (await client.connect(['control'])) {
        return;
      }
    }
    if (!(await this._idle(gone))) {
      return;
    }
    this._isNew = false;
    info ??= await kernel.requestCommInfo({ target_name: TARGET });
    const isLoaded = info.content.status === 'ok' && Object.keys(info.content.comms).length > 0;
    if (gone() || (isLoaded && (await client.connect(['control'])))) {
      return;
    }
    const mayLoad = this._options.mayLoad();
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

  /** The comms that the kernel has open with us; undefined if it does not answer within moments. */
  private async _commInfo(
    kernel: Kernel.IKernelConnection,
    gone: () => boolean
  ): Promise<KernelMessage.ICommInfoReplyMsg | undefined> {
    // Idle is not enough: after a reload JupyterLab 4.4 says so while a cell runs.
    return (await this._idle(gone, MOMENT_MS))
      ? within(kernel.requestCommInfo({ target_name: TARGET }), MOMENT_MS)
      : undefined;
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
      if (this._context.session?.kernel?.status === 'idle' && !this.busy) {
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

  /** Tells how the kernel's client stands; while a model loads again each second, as the seconds are counted. */
  private _tell(client: KernelClient): void {
    const { status } = client;
    const { loaded, ready } = this._firstMinute;
    if (status?.state === 'ready' && loaded === undefined && ready === undefined) {
      this._firstMinute = {
        ...this._firstMinute,
        loaded: status.seconds,
        ready: this._began === null ? undefined : secondsSince(this._began)
      };
    }
    const standing = standingOf(client, this._firstMinute);
    this._set(standing);
    if (standing.stage === 'connected' && standing.loading) {
      this._ticking ??= setInterval(() => this._changed.emit(), 1000);
    }
  }

  private _set(standing: Standing): void {
    if (standing.stage !== 'connected' || !standing.loading) {
      clearInterval(this._ticking);
      this._ticking = undefined;
    }
    this._standing = standing;
    this._changed.emit();
  }

  private _attempt = 0;
  private _began: number | null = null; // When this kernel was started; null if before this page.
  private _changed = new Signal<this, void>(this);
  private _client: KernelClient | null = null;
  private _disposed = false;
  private _firstMinute: IFirstMinute = {};
  private _isNew = false; // No page can have loaded anything into the kernel yet.
  private _standing: Standing = { stage: 'no kernel' };
  private _ticking: ReturnType<typeof setInterval> | undefined;
}

export namespace Connection {
  export interface IOptions {
    /** Whether a cell runs or waits. */
    runsCells(): boolean;

    /** Whether the kernel may be told to load the extension. */
    mayLoad(): boolean;

    /** What JupyterLab's settings say for every kernel. */
    everywhere(): Settings;

    /** Called when a kernel's settings were kept for new kernels, or when what was kept was forgotten. */
    onSaved(saved: boolean, settings: Settings): void;

    /** Called when earlier answers may no longer be what the kernel would say: code has run, or settings changed. */
    onStale(): void;

    /** Called with the kernel's words for what is wrong with something other than a request. */
    onError(message: string): void;
  }
}

const POLL = 100;
const MOMENT_MS = 1000;

/** What a user expression came to. */
interface IExpression {
  status: string;
  data?: Record<string, string>;
  ename?: string;
  evalue?: string;
}

/** Whether code has been run to its end, whoever sent it. */
function hasRun({ header, content, parent_header: parent }: KernelMessage.IMessage): boolean {
  return (
    header.msg_type === 'status' &&
    (content as { execution_state: Kernel.Status }).execution_state === 'idle' &&
    (parent as Partial<KernelMessage.IHeader>).msg_type === 'execute_request'
  );
}

function secondsSince(ms: number): number {
  return (Date.now() - ms) / 1000;
}

function standingOf(client: KernelClient, firstMinute: IFirstMinute): Standing {
  const { hello, status } = client;
  if (!hello || !status) {
    return { stage: 'connecting' };
  }
  if (hello.protocol !== PROTOCOL) {
    return { stage: 'other protocol', version: hello.version };
  }
  if (hello.allowed === false) {
    return { stage: 'not allowed' };
  }
  const { model, precision, state, progress, message, stage, seconds } = status;
  const loads = state === 'loading' || state === 'downloading';
  return {
    stage: 'connected',
    channel: hello.channel,
    model,
    precision: precision || undefined,
    state,
    progress,
    message,
    loading:
      loads && seconds !== undefined
        ? { stage, since: client.statusAt - 1000 * seconds }
        : undefined,
    firstMinute
  };
}
