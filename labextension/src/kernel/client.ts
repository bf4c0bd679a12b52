/**
 * One kernel's comm: how it is opened, what is sent, and replies as an async generator.
 */
import type { Kernel } from '@jupyterlab/services';

import { KernelComm } from './kernel-comm';
import {
  PROTOCOL,
  parseMessage,
  type Channel,
  type DownMessage,
  type IAccepted,
  type ICell,
  type IComplete,
  type IError,
  type IHelloReply,
  type IStatus,
  type IUpdate,
  type Settings,
  type UpMessage
} from './protocol';
import { Snapshot } from './snapshot';
import { sleep } from './timing';

/** A request as its sender knows it; the client adds the id, the revision and the notebook's changes. */
export type CompletionQuery = Omit<IComplete, 'type' | 'id' | 'rev'>;

export class KernelClient {
  constructor(kernel: Kernel.IKernelConnection, options: KernelClient.IOptions = {}) {
    this._kernel = kernel;
    this._onStatus = options.onStatus ?? (() => undefined);
    this._onClose = options.onClose ?? (() => undefined);
    this._onError = options.onError ?? (() => undefined);
    this._onSaved = options.onSaved ?? (() => undefined);
    this._onStale = options.onStale ?? (() => undefined);
    this._labSettings = options.labSettings ?? (() => ({}));
    this._notebook = options.notebook;
    this._isCompanion = options.isCompanion ?? false;
    this._timeoutMs = options.timeoutMs ?? 2000;
  }

  /** The kernel's answer to our hello; null until then. */
  get hello(): IHelloReply | null {
    return this._hello;
  }

  /** The kernel's newest status. */
  get status(): IStatus | null {
    return this._status;
  }

  /** When that status came, in ms as of Date.now(). */
  get statusAt(): number {
    return this._statusAt;
  }

  /** The kernel's settings, as last reported. */
  get settings(): Settings {
    return this._settings;
  }

  get isDisposed(): boolean {
    return this._disposed;
  }

  /**
   * Says hello on one channel after the other, and stays on the first where the kernel answers.
   *
   * The control channel answers while a cell runs, and leaves the user's subshells alone; a subshell answers then,
   * too; the shell only afterwards.
   */
  async connect(channels: readonly Channel[]): Promise<boolean> {
    for (const channel of channels) {
      if (this._disposed) {
        return false;
      }
      if (channel === 'subshell' && !this._kernel.supportsSubshells) {
        continue;
      }
      try {
        if (await this._open(channel)) {
          return true;
        }
      } catch {
        // The kernel died or takes no comms; the next channel, or the next kernel, may do.
      }
      this._detach();
    }
    return false;
  }

  /**
   * The updates of one request, each with the whole text so far; the last has a `finish_reason`.
   *
   * Aborting cancels the request in the kernel and ends the generator at once. Throws the kernel's error.
   */
  async *complete(
    query: CompletionQuery,
    cells: ICell[],
    signal: AbortSignal
  ): AsyncGenerator<IUpdate> {
    const id = `${this._kernel.clientId}-${++this._requests}`;
    const replies = new Replies(id);
    const cancel = () => {
      this._send({ type: 'cancel', id });
      replies.end();
    };
    this._replies.set(id, replies);
    signal.addEventListener('abort', cancel);
    try {
      const notebook = this._snapshot.next(cells, query.cell_id);
      if (notebook) {
        this._send(notebook);
      }
      this._send({ type: 'complete', id, ...query, rev: this._snapshot.rev });
      for (;;) {
        const reply = await replies.next();
        if (reply.type === 'error') {
          throw new Error(reply.message);
        }
        yield reply;
        if (reply.finish_reason) {
          return;
        }
      }
    } finally {
      signal.removeEventListener('abort', cancel);
      this._replies.delete(id);
    }
  }

  /** The cursor is idle at this code point of a cell, so the kernel may read the prompt for it ahead. */
  cursorIdle(cells: ICell[], cellId: string, offset: number, language: string): void {
    this._send({ ...this._snapshot.withCursor(cells, cellId, offset), language });
  }

  accepted(accepted: Omit<IAccepted, 'type'>): void {
    this._send({ type: 'accepted', ...accepted });
  }

  /** Changes settings in the kernel, which answers what it refuses with an error. */
  configure(settings: Settings): void {
    this._send({ type: 'configure', settings });
  }

  /** Sends the kernel what JupyterLab's settings now say for all kernels. */
  sendLabSettings(): void {
    this._send({ type: 'configure', settings: this._labSettings(), scope: 'all' });
  }

  /** Loads the configured model, or unloads it. */
  load(load: boolean): void {
    this._send({ type: 'configure', settings: {}, load });
  }

  dispose(): void {
    if (this._disposed) {
      return;
    }
    if (this._kernel.status === 'idle' || this._kernel.status === 'busy') {
      this._comm?.close(); // Otherwise it would be sent after the restart, to the new kernel.
    }
    this._detach();
    this._disposed = true;
    this._endReplies();
  }

  private async _open(channel: Channel): Promise<boolean> {
    const comm = new KernelComm(this._kernel, channel, {
      onMessage: data => this._receive(data),
      onClose: closed => this._onCommClosed(closed),
      onUnsendable: () => this._endReplies()
    });
    this._comm = comm;
    if (!(await comm.ready(this._timeoutMs)) || this._disposed) {
      return false;
    }
    comm.open();
    comm.send({
      type: 'hello',
      protocol: PROTOCOL,
      client: 'jupyterlab',
      settings: this._labSettings(),
      ...(this._notebook === undefined ? {} : { notebook: this._notebook }),
      ...(this._isCompanion ? { companion: true } : {})
    });
    return this._helloAnswered(comm);
  }

  /** Waits for the hello, without a limit while the kernel is busy: C code may hold even the control thread. */
  private async _helloAnswered(comm: KernelComm): Promise<boolean> {
    const stepMs = Math.min(50, this._timeoutMs);
    for (let waitedMs = 0; waitedMs <= this._timeoutMs;) {
      if (this._hello) {
        return true;
      }
      const isGone = this._kernel.isDisposed || this._kernel.status === 'dead';
      if (comm.isClosed || this._disposed || isGone) {
        return false;
      }
      await sleep(stepMs);
      waitedMs += this._kernel.status === 'idle' ? stepMs : 0;
    }
    return false;
  }

  private _receive(data: unknown): void {
    const message: DownMessage | null = parseMessage(data);
    if (message?.type === 'hello') {
      this._hello = message;
      this._settings = message.settings ?? {};
      this._status = {
        type: 'status',
        state: message.state,
        model: message.model,
        engine: message.engine ?? '',
        precision: message.precision,
        stage: message.stage,
        seconds: message.seconds,
        message: message.message
      };
      this._statusAt = Date.now();
      this._onStatus();
    } else if (message?.type === 'settings') {
      this._settings = message.settings ?? {};
      this._onStale();
      this._onStatus();
      if (message.saved !== undefined) {
        this._onSaved(message.saved, this._settings);
      }
    } else if (message?.type === 'status') {
      if (message.model !== this._status?.model) {
        this._onStale();
      }
      this._status = message;
      this._statusAt = Date.now();
      this._onStatus();
    } else if (message?.type === 'update') {
      this._replies.get(message.id)?.push(message);
    } else if (message?.type === 'error') {
      if (message.code === 'unknown_base') {
        this._snapshot = new Snapshot();
      }
      if (message.id !== undefined) {
        this._replies.get(message.id)?.push(message);
      } else if (message.code !== 'unknown_base') {
        this._onError(message.message);
      }
    }
  }

  private _onCommClosed(comm: KernelComm): void {
    if (comm === this._comm) {
      const wasOpen = this._hello !== null;
      this._detach();
      this._endReplies();
      if (wasOpen) {
        this._onClose();
      }
    }
  }

  private _detach(): void {
    this._comm?.dispose();
    this._comm = null;
    this._snapshot = new Snapshot();
    this._hello = null;
    this._status = null;
  }

  private _send(message: UpMessage): void {
    this._comm?.send(message);
  }

  private _endReplies(): void {
    this._replies.forEach(replies => replies.end());
  }

  private _comm: KernelComm | null = null;
  private _disposed = false;
  private _labSettings: () => Settings;
  private _hello: IHelloReply | null = null;
  private _isCompanion: boolean;
  private _kernel: Kernel.IKernelConnection;
  private _notebook: string | undefined;
  private _onClose: () => void;
  private _onError: (message: string) => void;
  private _onSaved: (saved: boolean, settings: Settings) => void;
  private _onStale: () => void;
  private _onStatus: () => void;
  private _timeoutMs: number;
  private _replies = new Map<string, Replies>();
  private _requests = 0;
  private _settings: Settings = {};
  private _snapshot = new Snapshot();
  private _status: IStatus | null = null;
  private _statusAt = 0;
}

export namespace KernelClient {
  export interface IOptions {
    /** Called when the kernel has said hello, or sent its status or its settings. */
    onStatus?: () => void;

    /** Called when the kernel closed the comm, as `%unload_ext` does. */
    onClose?: () => void;

    /** Called with the kernel's message for an error that belongs to no request. */
    onError?: (message: string) => void;

    /** Called when the kernel's settings were saved as defaults for new kernels, or these defaults were deleted. */
    onSaved?: (saved: boolean, settings: Settings) => void;

    /** Called when the kernel will answer differently from now on: another model, or other settings. */
    onStale?: () => void;

    /** What JupyterLab's settings say for every kernel. */
    labSettings?: () => Settings;

    /** The path of the notebook. */
    notebook?: string;

    /** Whether the kernel does not run the document. */
    isCompanion?: boolean;

    /** How long an idle kernel may take to answer, on each channel. */
    timeoutMs?: number;
  }
}

/** The replies to one request, queued until they are read. */
class Replies {
  constructor(private _id: string) {}

  push(reply: IUpdate | IError): void {
    this._queue.push(reply);
    this._wake();
  }

  /** Nothing more will come, or nobody waits for it. */
  end(): void {
    this.push({
      type: 'update',
      id: this._id,
      index: 0,
      text: '',
      finish_reason: 'cancelled'
    });
  }

  async next(): Promise<IUpdate | IError> {
    while (this._queue.length === 0) {
      await new Promise<void>(resolve => (this._wake = resolve));
    }
    return this._queue.shift()!;
  }

  private _queue: (IUpdate | IError)[] = [];
  private _wake: () => void = () => undefined;
}
