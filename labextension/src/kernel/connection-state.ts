/**
 * How far the connection to a document's kernel is, and how its model is.
 */
import type { Channel, ModelState, Stage } from './protocol';

export type ConnectionState =
  | {
      stage:
        | 'no kernel'
        | 'not Python'
        | 'connecting'
        | 'waiting'
        | 'not loaded'
        | 'not installed'
        | 'not allowed'
        | 'not responding';
    }
  | { stage: 'failed'; message: string }
  | { stage: 'version mismatch'; version: string }
  | IConnected;

/** The kernel has answered our hello. */
export interface IConnected {
  stage: 'connected';
  channel: Channel;
  model: string;
  precision?: string;

  /** Whether it is the companion, not the document's own kernel. */
  isCompanion?: boolean;
  modelState: ModelState;

  /** From 0 to 1, while a model is downloaded or loaded. */
  progress?: number;
  message?: string;

  /** While a model loads: what is being done, and when the load began, in ms as of Date.now(). */
  loading?: { stage?: Stage; since: number };

  startupTimes?: IStartupTimes;
}

/** How long it took in this kernel until code was completed. */
export interface IStartupTimes {
  /** How long the first load took. */
  loadSeconds?: number;

  /** From the kernel's start, where this page has seen it, until the model was ready. */
  readySeconds?: number;

  /** From the kernel's start until the first ghost text. */
  firstSuggestionSeconds?: number;
}
