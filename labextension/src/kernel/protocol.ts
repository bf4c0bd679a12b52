/**
 * The messages between the front end and the kernel, version 1, in both directions; docs/protocol.md describes them.
 *
 * Messages are JSON; `type` tells them apart. Offsets count code points. Unknown fields are ignored.
 */

export const TARGET = 'jupyter_sc2';

export const PROTOCOL = 1;

export type Trigger = 'automatic' | 'invoke';

export type FinishReason = 'stop' | 'length' | 'cancelled';

/** How messages reach the kernel. Only the first two channels answer while a cell runs. */
export type Channel = 'control' | 'subshell' | 'shell';

export type ModelState = 'unloaded' | 'downloading' | 'loading' | 'ready' | 'generating' | 'error';

/** What is being done while a model loads. A later kernel may have more stages. */
export type Stage = 'importing' | 'waiting' | 'downloading' | 'quantizing' | 'loading';

/** Where a text comes from: the model, or the kernel's cache of earlier suggestions. */
export type Source = 'model' | 'cache';

/** Why the last update has no text. A later kernel may have more reasons. */
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

/** What to do about a text that matches indexed code. */
export type Policy = 'show' | 'warn' | 'block';

/** What an error is about. A later kernel may have more codes. */
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
  /** Short texts of the cell's outputs; absent if it has none. */
  outputs?: string[];
  /** The path of a text file that is open beside the one that is completed; absent for a cell. */
  path?: string;
}

// Up: from the front end to the kernel.

/**
 * `notebook` is the path of the notebook, for the usage statistics; `settings` is everything that JupyterLab's settings
 * say for every kernel; `companion` says that the kernel does not run this document.
 */
export interface IHello {
  type: 'hello';
  protocol: number;
  client: string;
  notebook?: string;
  settings?: Settings;
  companion?: boolean;
}

/** The whole notebook, or, with `base`, the cells that changed since that revision and the order of all ids. */
export interface INotebook {
  type: 'notebook';
  rev: number;
  cells: ICell[];
  base?: number;
  order?: string[];

  /** The cell in which the cursor is idle, if it is. */
  active?: string;

  /** The cursor's offset in that cell, in code points. */
  offset?: number;

  /** The language of the document's kernel, if it is not Python. */
  language?: string;
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

  /** The path of a text file. */
  path?: string;

  /** The ending of files in the kernel's language, as the kernel's info has it. */
  file_extension?: string;

  /** Milliseconds since the key was pressed. */
  waited?: number;
}

export interface ICancel {
  type: 'cancel';
  id: string;
}

/** Text was accepted, or, with `when`, whether the cell still contains that text at that time. */
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
 * Changes settings; `load` loads or unloads the model. With the scope "all", `settings` is everything that JupyterLab's
 * settings say for every kernel.
 */
export interface IConfigure {
  type: 'configure';
  settings: Settings;
  load?: boolean;
  scope?: 'kernel' | 'all';
}

export type UpMessage = IHello | INotebook | IComplete | ICancel | IAccepted | IConfigure;

// Down: from the kernel to the front end.

/**
 * Languages by the names of cell magics without %%, and by the endings of files; the cell magics in the notebook's own
 * language, and those that write a file.
 */
export interface ILanguages {
  magics: Record<string, string>;
  own: string[];
  files: string[];
  endings: Record<string, string>;

  /** The languages of each model that is known by name; "*" for all. */
  models: Record<string, string[]>;

  /**
   * After which lines a new line is completed, by language: what a comment begins with, and a regular expression for
   * a line that opens something.
   */
  after_enter: Record<string, { comment: string; openers: string }>;
}

export interface IHelloReply {
  type: 'hello';
  protocol: number;
  version: string;
  channel: Channel;
  model: string;
  state: ModelState;
  engine?: string;
  precision?: string;

  /** The models that are known by name. */
  models?: string[];

  /** Whether the kernel's configuration allows completion. */
  allowed?: boolean;

  /** All settings of the kernel. */
  settings?: Settings;

  /** Which cells are in another language than the notebook. */
  languages?: ILanguages;

  /** Whether the kernel does not run the document of this front end, as its hello said. */
  companion?: boolean;

  stage?: Stage;
  seconds?: number;
  message?: string;
}

/** The kernel's settings have changed; `saved` says that they were saved as defaults, or the defaults deleted. */
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

  /** What is being done while a model loads, and the seconds that the load has taken so far, or took. */
  stage?: Stage;
  seconds?: number;

  progress?: number;
  message?: string;
}

/** Indexed code that shares a run of lexemes with a text and the code around it. */
export interface IAttribution {
  source: string;
  version: string;
  licence: string;
  path: string;
  lines: [number, number] | null;
  lexemes: number;

  /** False if only the index says so, because the file is not installed here. */
  verified?: boolean;
}

/** A well-known name that a text uses and nothing binds, and the line that imports it. */
export interface IImport {
  name: string;
  code: string;

  /** How many code points of the text have to be accepted for the name to be used. */
  offset: number;
}

/** What a completion cost: tokens, and milliseconds since the request arrived. */
export interface IStats {
  prompt_tokens: number;
  reused_tokens: number;
  generated_tokens: number;
  first_token_ms: number | null;
  total_ms: number;

  /** How many of these milliseconds it waited for a model to load, if none was ready. */
  load_ms?: number;
}

/** `text` is the whole insertion so far, never a delta. The update with a `finish_reason` is the last. */
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

  /** The indexed code that the text matches, and what to do about it. */
  attribution?: IAttribution[];
  policy?: Policy;

  /** The imports that the cell lacks with the text. */
  imports?: IImport[];
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

/** The data of a comm message as one of our messages; null if this version does not know it. */
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
