/**
 * How completion stands in a document, and how that is said in a few words.
 */
import type { Mode } from '../completion/policy';
import type { Channel, ModelState, Stage } from '../kernel/protocol';
import type { IOutcome } from '../completion/provider';

export type Standing =
  | {
      stage:
        | 'no kernel'
        | 'not Python'
        | 'connecting'
        | 'waiting'
        | 'not loaded'
        | 'not installed'
        | 'not allowed'
        | 'silent';
    }
  | { stage: 'failed'; message: string }
  | { stage: 'other protocol'; version: string }
  | {
      stage: 'connected';
      channel: Channel;
      model: string;
      precision?: string;
      state: ModelState;
      progress?: number;
      message?: string;

      /** While a model loads: what is done, and when that began, in ms as of Date.now(). */
      loading?: { stage?: Stage; since: number };

      firstMinute?: IFirstMinute;
    };

/** How long it took in this kernel until code was completed, in seconds. */
export interface IFirstMinute {
  /** Of the load that came first. */
  loaded?: number;

  /** From the kernel's start, where this page has seen it. */
  ready?: number;
  firstText?: number;
}

export interface IDescription {
  text: string;
  title: string;
}

/** What there is to say besides how the kernel stands. */
export interface ICircumstances {
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
export function sentence(reason: string): string {
  return wordsFor(reason)?.[1] ?? `There is nothing to show (${reason.replace(/_/g, ' ')}).`;
}

/** What the status bar says. */
export function describe(standing: Standing, about: ICircumstances): IDescription {
  const { text, title } = words(standing, about);
  return { text: `SC2: ${text}`, title };
}

function words(standing: Standing, about: ICircumstances): IDescription {
  if (about.mode === 'off') {
    return { text: 'off', title: 'Completion is switched off here.' };
  }
  switch (standing.stage) {
    case 'no kernel':
      return {
        text: 'no kernel',
        title:
          'Code is completed by a model in the kernel, and there is none. ' +
          'A file has that of its console, or the one that you choose here.'
      };
    case 'not Python':
      return { text: 'not for this kernel', title: 'Only Python kernels can complete code.' };
    case 'connecting':
      return about.busy ? waiting() : { text: 'connecting', title: 'Connecting with the kernel.' };
    case 'waiting':
      return waiting();
    case 'not loaded':
      return { text: 'not loaded', title: `Run ${START} to start completion in this kernel.` };
    case 'not installed':
      return {
        text: 'not installed in this kernel',
        title: `The kernel's environment has no jupyter-sc2. Run ${INSTALL} in a cell, then restart the kernel.`
      };
    case 'not allowed':
      return { text: 'not allowed', title: sentence('not_allowed') };
    case 'other protocol':
      return {
        text: 'other version in the kernel',
        title:
          `jupyter-sc2 ${standing.version} in the kernel and the one in JupyterLab do not understand each other. ` +
          'Install the same version for both.'
      };
    case 'silent':
      return {
        text: 'no answer',
        title: 'jupyter-sc2 is loaded in the kernel, but does not answer.'
      };
    case 'failed':
      return { text: 'failed to load', title: standing.message };
    case 'connected':
      return connected(standing, about);
  }
}

function connected(
  standing: Standing & { stage: 'connected' },
  { busy, mode, outcome, now }: ICircumstances
): IDescription {
  if (standing.channel === 'shell' && busy) {
    return waiting();
  }
  const { model, precision, state, message } = standing;
  const progress =
    standing.progress === undefined ? '' : ` ${Math.round(100 * standing.progress)} %`;
  const name = precision ? `${model} ${precision}` : model;
  const title = (...lines: (string | undefined)[]) =>
    [`Model: ${name}`, ...lines, message].filter(Boolean).join('\n');
  if (state === 'loading' || state === 'downloading') {
    const { stage, since } = standing.loading ?? {};
    const does = stage === 'importing' ? 'importing' : state;
    const seconds = since === undefined ? 0 : Math.floor(((now ?? Date.now()) - since) / 1000);
    const soFar = seconds > 0 ? ` · ${seconds} s` : '';
    const what =
      does === 'importing'
        ? 'The libraries that run it are imported.'
        : `It is ${state}${progress}.`;
    return {
      text: `${does}${progress}${soFar}`,
      title: title(what, seconds > 0 ? `That has taken ${seconds} s so far.` : undefined)
    };
  }
  if (state === 'error') {
    return { text: `${model} · error`, title: title() };
  }
  if (state === 'unloaded') {
    return {
      text: `${model} · not loaded`,
      title: title('It is loaded when something is asked, or from the menu.')
    };
  }
  const [short, long] = about(outcome);
  if (mode === 'manual') {
    const said = short === 'ready' ? 'on demand' : short;
    return { text: `${name} · ${said}`, title: title('Alt+\\ asks for ghost text.', long) };
  }
  return { text: `${name} · ${short}`, title: title(long, ...beginning(standing.firstMinute)) };
}

/** How long it took until code was completed here, in sentences. */
function beginning({ loaded, ready, firstText }: IFirstMinute = {}): (string | undefined)[] {
  const load = loaded === undefined ? undefined : `in ${loaded.toFixed(1)} s`;
  const after = (seconds: number) => `${seconds.toFixed(1)} s after the kernel's start`;
  return [
    load && `It was loaded ${load}${ready === undefined ? '' : `, ready ${after(ready)}`}.`,
    firstText === undefined ? undefined : `The first suggestion came ${after(firstText)}.`
  ];
}

function about(outcome: IOutcome | undefined): [string, string?] {
  switch (outcome?.kind) {
    case 'asking':
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

function waiting(): IDescription {
  return {
    text: 'waiting for the running cell',
    title: 'This kernel can answer only when no cell runs.'
  };
}
