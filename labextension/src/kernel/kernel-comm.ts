/**
 * One comm with the kernel, on a channel of our choice: JupyterLab's own comms know only the shell and subshells.
 */
import type { Kernel, KernelMessage } from '@jupyterlab/services';

import { TARGET, type Channel, type UpMessage } from './protocol';
import { within } from './timing';

type CommType = 'comm_open' | 'comm_msg' | 'comm_close';

/** JupyterLab's comm, with a member of its class that its interface leaves out. */
interface IComm extends Kernel.IComm {
  subshellStarted: Promise<void>;
}

export class KernelComm {
  constructor(
    private _kernel: Kernel.IKernelConnection,
    private _channel: Channel,
    options: KernelComm.IOptions
  ) {
    this._onUnsendable = options.onUnsendable;
    this._comm = _kernel.createComm(TARGET) as IComm;
    this._comm.onMsg = message => options.onMessage(message.content.data);
    this._comm.onClose = () => {
      this._isClosed = true;
      options.onClose(this);
    };
    // On the same tick as createComm, which would otherwise start a subshell that nobody uses.
    this._comm.commsOverSubshells = (
      _channel === 'subshell' ? 'perComm' : 'disabled'
    ) as Kernel.IComm['commsOverSubshells'];
  }

  /** Whether the kernel has closed it. */
  get isClosed(): boolean {
    return this._isClosed;
  }

  /** Resolves when it can be opened; to false if its subshell has not started in time. */
  async ready(timeoutMs: number): Promise<boolean> {
    // Until its subshell has started, a comm sends on the main shell, behind the running cell.
    return (
      this._channel !== 'subshell' ||
      (await within(
        this._comm.subshellStarted.then(() => true),
        timeoutMs
      )) === true
    );
  }

  open(): void {
    this._post('comm_open', {});
  }

  send(message: UpMessage): void {
    this._post('comm_msg', message);
  }

  close(): void {
    this._post('comm_close', {});
  }

  /** Forgets the comm without a message to the kernel. */
  dispose(): void {
    if (!this._comm.isDisposed) {
      this._comm.dispose();
    }
  }

  /** Never throws: when a kernel is gone its status says so, and its client is disposed. */
  private _post(type: CommType, data: UpMessage | Record<string, never>): void {
    const comm = this._comm;
    if (comm.isDisposed || this._kernel.isDisposed) {
      return;
    }
    const json = data as unknown as KernelMessage.ICommMsgMsg['content']['data'];
    try {
      if (this._channel === 'control') {
        this._kernel.sendControlMessage(this._controlMessage(type, json), false);
      } else if (type === 'comm_open') {
        comm.open(json);
      } else if (type === 'comm_msg') {
        comm.send(json);
      } else {
        comm.close();
      }
    } catch {
      this._onUnsendable();
    }
  }

  /** A comm message for the control channel; JupyterLab's types allow comms on the shell only. */
  private _controlMessage(type: CommType, data: unknown): KernelMessage.IControlMessage {
    const { clientId, username } = this._kernel;
    const { commId } = this._comm;
    return {
      channel: 'control',
      header: {
        msg_id: `${clientId}-sc2-${commId}-${++this._messages}`,
        msg_type: type,
        session: clientId,
        username,
        date: new Date().toISOString(),
        version: '5.3'
      },
      parent_header: {},
      metadata: {},
      buffers: [],
      content: {
        comm_id: commId,
        data,
        ...(type === 'comm_open' ? { target_name: TARGET } : {})
      }
    } as unknown as KernelMessage.IControlMessage;
  }

  private _comm: IComm;
  private _isClosed = false;
  private _messages = 0;
  private _onUnsendable: () => void;
}

export namespace KernelComm {
  export interface IOptions {
    onMessage(data: unknown): void;

    /** Called when the kernel has closed the comm. */
    onClose(comm: KernelComm): void;

    /** Called when a message could not be sent, because the kernel is gone. */
    onUnsendable(): void;
  }
}
