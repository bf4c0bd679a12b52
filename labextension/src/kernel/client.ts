/**
 * One kernel's comm: how it is opened, what is sent, and replies as an async generator.
 */
import type { Kernel, KernelMessage } from '@jupyterlab/services';

import {
  PROTOCOL,
  TARGET,
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
import { sleep, within } from './timing';

/** A request as its sender knows it; the client adds the id, the revision and the notebook's changes. */
export type CompletionQuery = Omit<IComplete, 'type' | 'id' | 'rev'>;

type CommType = 'comm_open' | 'comm_msg' | 'comm_close';

/** JupyterLab's comm, with two members of its class that its interface leaves out. */
interface IComm extends Kernel.IComm {
  subshellStarted: Promise<void>;
}

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
  cursorIdle(cells: ICell[], cellId: string, offset: number): void {
    this._send(this._snapshot.withCursor(cells, cellId, offset));
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
      this._post('comm_close', {}); // Otherwise it would be sent after the restart, to the new kernel.
    }
    this._detach();
    this._disposed = true;
    this._replies.forEach(replies => replies.end());
  }

  private async _open(channel: Channel): Promise<boolean> {
    const comm = this._kernel.createComm(TARGET) as IComm;
    this._comm = comm;
    this._channel = channel;
    let closed = false;
    comm.onMsg = message => this._receive(message.content.data);
    comm.onClose = () => {
      closed = true;
      this._closed(comm);
    };
    if (channel === 'subshell') {
      // Until its subshell has started, a comm sends on the main shell, behind the running cell.
      comm.commsOverSubshells = 'perComm' as Kernel.IComm['commsOverSubshells'];
      const started = await within(
        comm.subshellStarted.then(() => true),
        this._timeoutMs
      );
      if (!started || this._disposed) {
        return false;
      }
    } else {
      // On the same tick as createComm, which would otherwise start a subshell that nobody uses.
      comm.commsOverSubshells = 'disabled' as Kernel.IComm['commsOverSubshells'];
    }
    this._post('comm_open', {});
    this._send({
      type: 'hello',
      protocol: PROTOCOL,
      client: 'jupyterlab',
      settings: this._labSettings(),
      ...(this._notebook === undefined ? {} : { notebook: this._notebook })
    });
    return this._helloAnswered(() => closed);
  }

  /** Waits for the hello, without a limit while the kernel is busy: C code may hold even the control thread. */
  private async _helloAnswered(closed: () => boolean): Promise<boolean> {
    const stepMs = Math.min(50, this._timeoutMs);
    for (let waitedMs = 0; waitedMs <= this._timeoutMs;) {
      if (this._hello) {
        return true;
      }
      if (closed() || this._disposed || this._kernel.isDisposed || this._kernel.status === 'dead') {
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

  private _closed(comm: Kernel.IComm): void {
    if (comm === this._comm) {
      const wasOpen = this._hello !== null;
      this._detach();
      this._replies.forEach(replies => replies.end());
      if (wasOpen) {
        this._onClose();
      }
    }
  }

  private _detach(): void {
    const comm = this._comm;
    this._comm = null;
    this._snapshot = new Snapshot();
    this._hello = null;
    this._status = null;
    if (comm && !comm.isDisposed) {
      comm.dispose();
    }
  }

  private _send(message: UpMessage): void {
    this._post('comm_msg', message);
  }

  /** Never throws: when a kernel is gone its status says so, and this client is disposed. */
  private _post(type: CommType, data: UpMessage | Record<string, never>): void {
    const comm = this._comm;
    if (!comm || comm.isDisposed || this._kernel.isDisposed) {
      return;
    }
    const json = data as unknown as KernelMessage.ICommMsgMsg['content']['data'];
    try {
      if (this._channel === 'control') {
        this._kernel.sendControlMessage(this._controlMessage(comm, type, json), false);
      } else if (type === 'comm_open') {
        comm.open(json);
      } else if (type === 'comm_msg') {
        comm.send(json);
      } else {
        comm.close();
      }
    } catch {
      this._replies.forEach(replies => replies.end());
    }
  }

  /** A comm message for the control channel; JupyterLab's types allow comms on the shell only. */
  private _controlMessage(
    comm: Kernel.IComm,
    type: CommType,
    data: unknown
  ): KernelMessage.IControlMessage {
    return {
      channel: 'control',
      header: {
        msg_id: `${this._kernel.clientId}-sc2-${++this._messages}-${Date.now()}`,
        msg_type: type,
        session: this._kernel.clientId,
        username: this._kernel.username,
        date: new Date().toISOString(),
        version: '5.3'
      },
      parent_header: {},
      metadata: {},
      buffers: [],
      content: {
        comm_id: comm.commId,
        data,
        ...(type === 'comm_open' ? { target_name: TARGET } : {})
      }
    } as unknown as KernelMessage.IControlMessage;
  }

  private _comm: IComm | null = null;
  private _disposed = false;
  private _labSettings: () => Settings;
  private _hello: IHelloReply | null = null;
  private _kernel: Kernel.IKernelConnection;
  private _messages = 0;
  private _notebook: string | undefined;
  private _onClose: () => void;
  private _onError: (message: string) => void;
  private _onSaved: (saved: boolean, settings: Settings) => void;
  private _onStale: () => void;
  private _onStatus: () => void;
  private _timeoutMs: number;
  private _replies = new Map<string, Replies>();
  private _requests = 0;
  private _channel: Channel = 'control';
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
