/**
 * The wire between the front end and the kernel, version 1, both directions; docs/protocol.md describes it.
 *
 * Messages are JSON; `type` tells them apart. Offsets count code points. Unknown fields are ignored.
 */

export const TARGET = 'jupyter_sc2';

export const PROTOCOL = 1;

export type Trigger = 'automatic' | 'invoke';

export type FinishReason = 'stop' | 'length' | 'cancelled';

/** The road that messages take into the kernel. Only the first two answer while a cell runs. */
export type Channel = 'control' | 'subshell' | 'shell';

export type ModelState = 'unloaded' | 'downloading' | 'loading' | 'ready' | 'generating' | 'error';

/** What is done of a load. A later kernel may have stages of its own. */
export type Stage = 'importing' | 'waiting' | 'downloading' | 'quantizing' | 'loading';

/** Who made a text: the model, or the kernel's cache of what it said before. */
export type Source = 'model' | 'cache';

/** Why a last update has no text. A later kernel may have reasons of its own. */
export type Reason =
  | 'cancelled'
  | 'disabled'
  | 'low_confidence'
  | 'matches_indexed_code'
  | 'not_allowed'
  | 'not_ready'
  | 'nothing_to_add'
  | 'other_language'
  | 'queue_full'
  | 'refuted';

/** What is to be done about a text that stands in indexed code, too. */
export type Policy = 'show' | 'warn' | 'block';

/** What an error is about. A later kernel may have codes of its own. */
export type ErrorCode =
  | 'bad_message'
  | 'unknown_type'
  | 'unknown_base'
  | 'bad_request'
  | 'bad_setting'
  | 'model'
  | 'generation'
  | 'internal';

export type Settings = Record<string, string | number | boolean | null>;

export interface ICell {
  id: string;
  cell_type: 'code' | 'markdown' | 'raw';
  source: string;
  execution_count: number | null;
  /** Short texts; only where there are some. */
  outputs?: string[];
}

// Up: from the front end to the kernel.

/**
 * `notebook` is the path of the notebook, for the user's own numbers; `settings` are all that JupyterLab's settings
 * say for every kernel.
 */
export interface IHello {
  type: 'hello';
  protocol: number;
  client: string;
  notebook?: string;
  settings?: Settings;
}

/** The whole notebook, or, with `base`, the cells that changed since that revision and the order of all ids. */
export interface INotebook {
  type: 'notebook';
  rev: number;
  cells: ICell[];
  base?: number;
  order?: string[];

  /** The cell in which the cursor has come to rest, if it has. */
  active?: string;

  /** Where in it, in code points. */
  offset?: number;
}

export interface IComplete {
  type: 'complete';
  id: string;
  cell_id?: string;
  text: string;
  offset: number;
  trigger: Trigger;
  candidates?: number;
  language?: string;
  languages_off?: string[];
  rev?: number;

  /** Milliseconds since the key. */
  waited?: number;
}

export interface ICancel {
  type: 'cancel';
  id: string;
}

/** Text was accepted, or, with `when`, whether that text is still in its cell then. */
export interface IAccepted {
  type: 'accepted';
  id: string;
  index: number;
  text: string;
  part?: 'all' | 'word' | 'line';
  when?: '30s' | 'run';
  kept?: boolean;
}

/**
 * Changes settings, and with `load` gives the model its memory or takes it back. With the scope "all" they are all
 * that JupyterLab's settings say for every kernel.
 */
export interface IConfigure {
  type: 'configure';
  settings: Settings;
  load?: boolean;
  scope?: 'kernel' | 'all';
}

export type UpMessage = IHello | INotebook | IComplete | ICancel | IAccepted | IConfigure;

// Down: from the kernel to the front end.

export interface IHelloReply {
  type: 'hello';
  protocol: number;
  version: string;
  channel: Channel;
  model: string;
  state: ModelState;
  engine?: string;
  precision?: string;

  /** The models known by name. */
  models?: string[];

  /** Whether the kernel's configuration lets anything be completed. */
  allowed?: boolean;

  /** All that is set in the kernel. */
  settings?: Settings;

  stage?: Stage;
  seconds?: number;
  message?: string;
}

/** What is set in the kernel is different; `saved` tells that it was just kept for new kernels, or that forgotten. */
export interface ISettings {
  type: 'settings';
  settings: Settings;
  saved?: boolean;
}

export interface IStatus {
  type: 'status';
  state: ModelState;
  model: string;
  engine: string;
  precision?: string;

  /** What is done of a load, and the seconds that it has taken so far, or took. */
  stage?: Stage;
  seconds?: number;

  progress?: number;
  message?: string;
}

/** Indexed code with which a text, together with what stands around it, has a run of lexemes in common. */
export interface IAttribution {
  source: string;
  version: string;
  licence: string;
  path: string;
  lines: [number, number] | null;
  lexemes: number;

  /** False if only the index says so, as the file is not at hand. */
  verified?: boolean;
}

/** What a completion cost, in tokens, and in milliseconds since the request came. */
export interface IStats {
  prompt_tokens: number;
  reused_tokens: number;
  generated_tokens: number;
  first_token_ms: number | null;
  total_ms: number;

  /** How many of these it waited until a model was there, if none was. */
  load_ms?: number;
}

/** `text` is the whole insertion so far, never a delta. The one with a `finish_reason` is the last. */
export interface IUpdate {
  type: 'update';
  id: string;
  index: number;
  text: string;
  finish_reason: FinishReason | null;
  source?: Source;
  mean_logprob?: number;
  reason?: Reason | null;
  stats?: IStats;
  model?: string;
  engine?: string;
  revision?: string;

  /** Where the text may come from, and what is to be done about it. */
  attribution?: IAttribution[];
  policy?: Policy;
}

export interface IError {
  type: 'error';
  id?: string;
  code: ErrorCode;
  message: string;
}

export type DownMessage = IHelloReply | ISettings | IStatus | IUpdate | IError;

/** The fields without which a message cannot be used, and their types. */
const REQUIRED: Record<DownMessage['type'], Record<string, 'string' | 'number'>> = {
  hello: { protocol: 'number', model: 'string', state: 'string' },
  settings: {},
  status: { state: 'string', model: 'string' },
  update: { id: 'string', index: 'number', text: 'string' },
  error: { code: 'string', message: 'string' }
};

/** What a comm brought, as a message; null if it is none that this version knows. */
export function parseMessage(data: unknown): DownMessage | null {
  if (typeof data !== 'object' || data === null) {
    return null;
  }
  const message = data as any;
  if (!Object.prototype.hasOwnProperty.call(REQUIRED, message.type)) {
    return null;
  }
  const fields = Object.entries(REQUIRED[message.type as DownMessage['type']]);
  return fields.every(([name, type]) => typeof message[name] === type) ? message : null;
}
