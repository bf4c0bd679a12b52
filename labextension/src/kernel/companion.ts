/**
 * The companion: one hidden Python kernel for the documents whose own kernel cannot complete code.
 *
 * It is a session of the Jupyter server like any other, listed as "Code completion" among the running kernels. All
 * pages of a server share it: the session's path tells which it is. It is started for the first document that requires
 * it, and ended when no document of any page does.
 */
import type { Kernel, KernelMessage, ServiceManager, Session } from '@jupyterlab/services';
import { Signal, type ISignal } from '@lumino/signaling';

import type { IKernelSource } from './connection';
import { sleep } from './timing';

/** How the session is listed. No file has this path: the server's folders have no such type of session. */
export const COMPANION = {
  path: 'jupyter-sc2/Code completion',
  name: 'Code completion',
  type: 'code-completion'
} as const;

/** How long the companion stays when nothing requires it: a document may be reopened, a page reloaded. */
const UNUSED_MS = 10_000;

/** How often, and for how long apart, it is looked whether the server has noticed that our connection is gone. */
const CHECKS = 5;
const CHECK_MS = 500;

/** How many kernelspecs are tried until one has the package. */
const MAX_TRIED = 4;

export type CompanionStage = 'starting' | 'running' | 'ended' | 'unavailable';

type Services = Pick<ServiceManager.IManager, 'sessions' | 'kernels' | 'kernelspecs'>;

export class Companion implements IKernelSource {
  constructor(
    private _services: Services,
    private _unusedMs = UNUSED_MS,
    private _checkMs = CHECK_MS
  ) {
    _services.sessions.runningChanged.connect((_, models) => this._onRunningChanged(models));
  }

  readonly path = COMPANION.path;

  get session(): Session.ISessionConnection | null {
    return this._session;
  }

  get kernelChanged(): ISignal<this, unknown> {
    return this._kernelChanged;
  }

  get statusChanged(): ISignal<this, Kernel.Status> {
    return this._statusChanged;
  }

  get iopubMessage(): ISignal<this, KernelMessage.IMessage> {
    return this._iopubMessage;
  }

  /** "ended" if it was shut down; it is started again when a document requires it again. */
  get stage(): CompanionStage {
    if (this._starting) {
      return 'starting';
    }
    return this._session ? 'running' : this._isUnavailable ? 'unavailable' : 'ended';
  }

  /** The kernelspecs that were tried and whose environments lack the package. */
  get rejected(): readonly string[] {
    return this._rejected;
  }

  /** A document requires the companion from now on. Starts it, or finds the running one, unless that was done. */
  require(document: object): void {
    this._documents.add(document);
    clearTimeout(this._unused);
    if (!this._session && !this._starting && !this._isUnavailable) {
      // If it fails, the next key tries again.
      this._starting = this._start()
        .catch(() => undefined)
        .finally(() => {
          this._starting = null;
          this._kernelChanged.emit(undefined);
        });
    }
  }

  /** A document requires it no longer. */
  release(document: object): void {
    if (this._documents.delete(document) && this._documents.size === 0) {
      this.endIfUnused();
    }
  }

  /** Ends a running companion after a while if no page uses it by then. */
  endIfUnused(): void {
    clearTimeout(this._unused);
    this._unused = setTimeout(
      () => void this._endIfUnused().catch(() => undefined),
      this._unusedMs
    );
  }

  /** This kernel's environment lacks the package: tries that of the next kernelspec. */
  reject(kernel: Kernel.IKernelConnection): void {
    const session = this._session;
    if (!session || session.kernel !== kernel) {
      return;
    }
    this._rejected.push(kernel.name);
    this._setSession(null);
    void session.shutdown().catch(() => undefined);
    const [first] = this._documents;
    if (first) {
      this.require(first);
    }
  }

  /** Tries again what has failed: packages or settings may have changed. */
  reset(): void {
    this._rejected = [];
    this._isUnavailable = false;
  }

  private async _start(): Promise<void> {
    const { sessions, kernelspecs } = this._services;
    this._statusChanged.emit('starting');
    await Promise.all([sessions.ready, kernelspecs.ready]);
    for (;;) {
      await sessions.refreshRunning();
      const model = firstById(sessions.running());
      if (model && !this._rejected.includes(model.kernel?.name ?? '')) {
        this._setSession(sessions.connectTo({ model }));
        return;
      }
      const name = kernelNames(kernelspecs.specs, this._rejected)[0];
      if (name === undefined || this._rejected.length >= MAX_TRIED) {
        this._isUnavailable = true;
        return;
      }
      try {
        await this._startNew(name);
        return;
      } catch (error) {
        if (!(error as { response?: unknown }).response) {
          throw error; // the server cannot be reached
        }
        this._rejected.push(name); // it cannot start this kernel
      }
    }
  }

  private async _startNew(kernelName: string): Promise<void> {
    const { sessions } = this._services;
    const { path, name, type } = COMPANION;
    // This looks at what runs, too.
    const session = await sessions.startNew({ path, name, type, kernel: { name: kernelName } });
    const model = firstById(sessions.running());
    if (model && model.id !== session.id) {
      // Another page has started one at the same moment.
      await session.shutdown();
      this._setSession(sessions.connectTo({ model }));
    } else {
      this._setSession(session);
    }
  }

  private async _endIfUnused(): Promise<void> {
    const { sessions, kernels } = this._services;
    await this._starting;
    if (this._documents.size > 0) {
      return;
    }
    const session = this._session;
    this._setSession(null);
    session?.dispose();
    for (let i = 0; i < CHECKS; i++) {
      await sleep(this._checkMs);
      await Promise.all([sessions.refreshRunning(), kernels.refreshRunning()]);
      const model = firstById(sessions.running());
      if (!model || this._documents.size > 0) {
        return;
      }
      const kernel = [...kernels.running()].find(({ id }) => id === model.kernel?.id);
      if (!kernel?.connections) {
        await sessions.shutdown(model.id);
        return;
      }
    }
  }

  /** Two pages may have started one each: all of them move to the same. */
  private _onRunningChanged(models: Iterable<Session.IModel>): void {
    const session = this._session;
    const model = firstById(models);
    if (session && model && model.id < session.id && !this._starting) {
      this._setSession(this._services.sessions.connectTo({ model }));
      void session.shutdown().catch(() => undefined);
    }
  }

  private _setSession(session: Session.ISessionConnection | null): void {
    this._session = session;
    if (session) {
      session.statusChanged.connect((_, status) => {
        if (session === this._session) {
          this._statusChanged.emit(status);
          if (status === 'dead') {
            this._setSession(null);
            void session.shutdown().catch(() => undefined);
          }
        }
      });
      session.iopubMessage.connect((_, message) => {
        if (session === this._session) {
          this._iopubMessage.emit(message);
        }
      });
      session.disposed.connect(() => {
        if (session === this._session) {
          this._setSession(null);
        }
      });
    }
    this._kernelChanged.emit(undefined);
  }

  private _documents = new Set<object>();
  private _iopubMessage = new Signal<this, KernelMessage.IMessage>(this);
  private _isUnavailable = false;
  private _kernelChanged = new Signal<this, unknown>(this);
  private _rejected: string[] = [];
  private _session: Session.ISessionConnection | null = null;
  private _starting: Promise<void> | null = null;
  private _statusChanged = new Signal<this, Kernel.Status>(this);
  private _unused: ReturnType<typeof setTimeout> | undefined;
}

/** The companion among these sessions, the same one for every page; undefined if there is none. */
function firstById(models: Iterable<Session.IModel>): Session.IModel | undefined {
  return [...models]
    .filter(({ type }) => type === COMPANION.type)
    .sort((one, other) => (one.id < other.id ? -1 : 1))[0];
}

/** The Python kernelspecs in the order in which they are tried: the server's own environment first. */
function kernelNames(
  specs: ServiceManager.IManager['kernelspecs']['specs'],
  rejected: readonly string[]
): string[] {
  const isPython = (name: string) =>
    specs?.kernelspecs[name]?.language.toLowerCase() === 'python' && !rejected.includes(name);
  const others = Object.keys(specs?.kernelspecs ?? {}).sort();
  return [...new Set(['python3', specs?.default ?? '', ...others])].filter(isPython);
}
