/**
 * A kernel connection that records what it is sent and answers by a script.
 */
import type { Kernel } from '@jupyterlab/services';
import type { TranslationBundle } from '@jupyterlab/translation';

import type { DownMessage, IAttribution, UpMessage } from '../kernel/protocol';

/** A message as it left the front end, and the channel it took. */
export interface ISent {
  channel: string;
  type: string;
  data: UpMessage;
}

export class FakeKernel {
  clientId = 'client';
  username = 'user';
  status = 'idle';
  isDisposed = false;
  supportsSubshells = false;
  sent: ISent[] = [];

  /** What the kernel says to a message. */
  answer: (sent: ISent) => DownMessage[] = () => [];

  connection(): Kernel.IKernelConnection {
    return this as unknown as Kernel.IKernelConnection;
  }

  createComm(): FakeComm {
    this.comm = new FakeComm(this);
    return this.comm;
  }

  sendControlMessage(message: {
    header: { msg_type: string };
    content: { data: UpMessage };
  }): void {
    this.receive({ channel: 'control', type: message.header.msg_type, data: message.content.data });
  }

  receive(sent: ISent): void {
    this.sent.push(sent);
    this.answer(sent).forEach(message => this.say(message));
  }

  say(message: DownMessage): void {
    this.comm?.onMsg({ content: { data: message } });
  }

  /** The types of what was sent, in its order. */
  get types(): string[] {
    return this.sent.filter(({ type }) => type === 'comm_msg').map(({ data }) => data.type);
  }

  comm: FakeComm | null = null;
}

export class FakeComm {
  constructor(private _kernel: FakeKernel) {
    if (_kernel.supportsSubshells) {
      this.subshellStarted = Promise.resolve();
    }
  }

  commId = 'comm';
  commsOverSubshells = 'perCommTarget';
  isDisposed = false;
  onMsg: (message: unknown) => void = () => undefined;
  onClose: () => void = () => undefined;
  subshellStarted: Promise<void> = new Promise(() => undefined);

  open(data: UpMessage): void {
    this._receive('comm_open', data);
  }

  send(data: UpMessage): void {
    this._receive('comm_msg', data);
  }

  close(): void {
    this._receive('comm_close', {} as UpMessage);
  }

  dispose(): void {
    this.isDisposed = true;
  }

  private _receive(type: string, data: UpMessage): void {
    const channel = this.commsOverSubshells === 'disabled' ? 'shell' : 'subshell';
    this._kernel.receive({ channel, type, data });
  }
}

/** Lets everything that is ready happen. */
export function settle(ms = 0): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, ms));
}

/** A match with indexed code. */
export const MATCH: IAttribution = {
  source: 'pandas',
  version: '3.1.1',
  licence: 'BSD-3-Clause',
  path: 'pandas/core/frame.py',
  lines: [10, 20],
  lexemes: 80
};

/** JupyterLab's translation into no other language: it fills in the placeholders. */
export const ENGLISH = {
  __: (text: string, ...values: unknown[]) => filled(text, values),
  _n: (singular: string, plural: string, count: number, ...values: unknown[]) =>
    filled(count === 1 ? singular : plural, [count, ...values])
} as unknown as TranslationBundle;

function filled(text: string, values: unknown[]): string {
  return text.replace(/%(\d+)/g, (_, number) => String(values[Number(number) - 1]));
}
