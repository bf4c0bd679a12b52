/**
 * What the status bar says about completion in a document, and why there is no text.
 */
import type { Mode } from '../completion/policy';
import type { ConnectionState, IConnected, IStartupTimes } from '../kernel/connection-state';
import type { IOutcome } from '../completion/types';

export interface IStatusText {
  text: string;
  tooltip: string;
}

/** What there is to say besides how the kernel stands. */
export interface IStatusDetails {
  /** Whether a cell runs. */
  busy: boolean;

  mode?: Mode;

  outcome?: IOutcome;

  /** Now, in ms. */
  now?: number;
}

/** What brings jupyter-sc2 into a kernel's environment, and what starts it there. */
export const INSTALL = '%pip install jupyter-sc2';
export const START = '%load_ext jupyter_sc2';

/** Why there is no text, by the kernel's word for it: short, and in a sentence. */
const REASONS: Record<string, [string, string] | undefined> = {
  disabled: [
    'off here',
    'Completion is switched off in this kernel (SC2.mode), or for cells or languages like this one.'
  ],
  low_confidence: ['low confidence', 'The model is not sure enough of any continuation.'],
  not_allowed: ['not allowed', "The kernel's configuration does not allow completion."],
  not_ready: ['not ready', 'The model is not ready yet.'],
  nothing_to_add: ['nothing to add', 'The model has nothing to add here.'],
  other_language: [
    'other language',
    'The model is not asked here: its card does not name the language at the cursor.'
  ],
  queue_full: [
    'queue full',
    'Too many requests wait for the model already. Ask again when some are answered.'
  ],
  refuted: ['nothing fits', 'What the model proposed does not fit the variables in the kernel.'],
  matches_indexed_code: [
    'matches indexed code',
    'What the model proposed is also in indexed code, and the setting attribution blocks that.'
  ]
};

/** The words for a reason; undefined for one of a later kernel, be it called like a member of every object. */
function wordsFor(reason: string): [string, string] | undefined {
  return Object.prototype.hasOwnProperty.call(REASONS, reason) ? REASONS[reason] : undefined;
}

/** Why there is no text, in a sentence. */
export function reasonText(reason: string): string {
  return wordsFor(reason)?.[1] ?? `There is nothing to show (${reason.replace(/_/g, ' ')}).`;
}

/** What the status bar says. */
export function statusText(state: ConnectionState, about: IStatusDetails): IStatusText {
  const { text, tooltip } = words(state, about);
  return { text: `SC2: ${text}`, tooltip };
}

function words(state: ConnectionState, about: IStatusDetails): IStatusText {
  if (about.mode === 'off') {
    return { text: 'off', tooltip: 'Completion is switched off here.' };
  }
  switch (state.stage) {
    case 'no kernel':
      return {
        text: 'no kernel',
        tooltip:
          'Code is completed by a model in the kernel, and there is none. ' +
          'A file has that of its console, or the one that you choose here.'
      };
    case 'not Python':
      return { text: 'not for this kernel', tooltip: 'Only Python kernels can complete code.' };
    case 'connecting':
      return about.busy
        ? waiting()
        : { text: 'connecting', tooltip: 'Connecting with the kernel.' };
    case 'waiting':
      return waiting();
    case 'not loaded':
      return { text: 'not loaded', tooltip: `Run ${START} to start completion in this kernel.` };
    case 'not installed':
      return {
        text: 'not installed in this kernel',
        tooltip: `The kernel's environment has no jupyter-sc2. Run ${INSTALL} in a cell, then restart the kernel.`
      };
    case 'not allowed':
      return { text: 'not allowed', tooltip: reasonText('not_allowed') };
    case 'version mismatch':
      return {
        text: 'other version in the kernel',
        tooltip:
          `jupyter-sc2 ${state.version} in the kernel and the one in JupyterLab do not understand each other. ` +
          'Install the same version for both.'
      };
    case 'not responding':
      return {
        text: 'no answer',
        tooltip: 'jupyter-sc2 is loaded in the kernel, but does not answer.'
      };
    case 'failed':
      return { text: 'failed to load', tooltip: state.message };
    case 'connected':
      return connected(state, about);
  }
}

function connected(
  connection: IConnected,
  { busy, mode, outcome, now }: IStatusDetails
): IStatusText {
  if (connection.channel === 'shell' && busy) {
    return waiting();
  }
  const { model, precision, modelState, message } = connection;
  const progress =
    connection.progress === undefined ? '' : ` ${Math.round(100 * connection.progress)} %`;
  const name = precision ? `${model} ${precision}` : model;
  const tooltip = (...lines: (string | undefined)[]) =>
    [`Model: ${name}`, ...lines, message].filter(Boolean).join('\n');
  if (modelState === 'loading' || modelState === 'downloading') {
    const { stage, since } = connection.loading ?? {};
    const does = stage === 'importing' ? 'importing' : modelState;
    const seconds = since === undefined ? 0 : Math.floor(((now ?? Date.now()) - since) / 1000);
    const soFar = seconds > 0 ? ` · ${seconds} s` : '';
    const what =
      does === 'importing'
        ? 'The libraries that run it are imported.'
        : `It is ${modelState}${progress}.`;
    return {
      text: `${does}${progress}${soFar}`,
      tooltip: tooltip(what, seconds > 0 ? `That has taken ${seconds} s so far.` : undefined)
    };
  }
  if (modelState === 'error') {
    return { text: `${model} · error`, tooltip: tooltip() };
  }
  if (modelState === 'unloaded') {
    return {
      text: `${model} · not loaded`,
      tooltip: tooltip('It is loaded when something is asked, or from the menu.')
    };
  }
  const [short, long] = about(outcome);
  if (mode === 'manual') {
    const said = short === 'ready' ? 'on demand' : short;
    return { text: `${name} · ${said}`, tooltip: tooltip('Alt+\\ asks for ghost text.', long) };
  }
  return {
    text: `${name} · ${short}`,
    tooltip: tooltip(long, ...startup(connection.startupTimes))
  };
}

/** How long it took until code was completed here, in sentences. */
function startup({ loadSeconds, readySeconds, firstSuggestionSeconds }: IStartupTimes = {}): (
  string | undefined
)[] {
  const load = loadSeconds === undefined ? undefined : `in ${loadSeconds.toFixed(1)} s`;
  const after = (seconds: number) => `${seconds.toFixed(1)} s after the kernel's start`;
  return [
    load &&
      `It was loaded ${load}${readySeconds === undefined ? '' : `, ready ${after(readySeconds)}`}.`,
    firstSuggestionSeconds === undefined
      ? undefined
      : `The first suggestion came ${after(firstSuggestionSeconds)}.`
  ];
}

function about(outcome: IOutcome | undefined): [string, string?] {
  switch (outcome?.kind) {
    case 'generating':
      return ['thinking'];
    case 'nothing':
      return wordsFor(outcome.reason ?? '') ?? [(outcome.reason ?? '').replace(/_/g, ' ')];
    case 'timed out':
      return ['timed out', 'The last answer took too long. A smaller model is quicker.'];
    case 'error':
      return ['error', outcome.reason];
    default:
      return ['ready'];
  }
}

function waiting(): IStatusText {
  return {
    text: 'waiting for the running cell',
    tooltip: 'This kernel can answer only when no cell runs.'
  };
}
