/**
 * What the status bar says about completion in a document, and why there is no text.
 */
import type { TranslationBundle } from '@jupyterlab/translation';

import type { Mode } from '../completion/policy';
import type { IOutcome } from '../completion/types';
import type { CompanionStage } from '../kernel/companion';
import type { ConnectionState, IConnected, IStartupTimes } from '../kernel/connection-state';

export interface IStatusText {
  text: string;

  /** One or more lines. */
  tooltip: string;
}

/** What the status depends on besides the connection. */
export interface IStatusDetails {
  /** Whether a cell is running. */
  busy: boolean;

  mode?: Mode;

  /** Minutes until suggestions are no longer paused; Infinity until the page is reloaded, 0 or nothing for no pause. */
  snoozedMinutes?: number;

  outcome?: IOutcome;

  /** The companion, where it completes the document. */
  companion?: CompanionStage;

  /** Whether the document's own kernel lacks the package, so that the companion completes it. */
  isMissing?: boolean;

  /** The command that installs jupyter-sc2 in the kernel's environment. */
  install?: string;

  /** The present time, in ms as of Date.now(). */
  now?: number;
}

/** The command that starts jupyter-sc2 in a kernel. */
export const START = '%load_ext jupyter_sc2';

/** In a few words, and in a sentence. */
type ShortAndLong = [short: string, long?: string];

/** Why there is no text, by the kernel's code for it. */
const REASONS: Record<string, (trans: TranslationBundle) => [string, string]> = {
  disabled: trans => [
    trans.__('off here'),
    trans.__('Code completion is off for this kernel, cell or language.')
  ],
  low_confidence: trans => [
    trans.__('low confidence'),
    trans.__('The model is not confident enough to suggest anything here.')
  ],
  not_allowed: trans => [
    trans.__('not allowed'),
    trans.__("The kernel's configuration does not allow code completion.")
  ],
  not_ready: trans => [trans.__('not ready'), trans.__('The model is not ready yet.')],
  nothing_to_add: trans => [
    trans.__('no suggestion'),
    trans.__('The model has no suggestion here.')
  ],
  other_language: trans => [
    trans.__('unsupported language'),
    trans.__('The model does not support the language at the cursor.')
  ],
  queue_full: trans => [
    trans.__('queue full'),
    trans.__('Too many requests are waiting. Try again in a moment.')
  ],
  refuted: trans => [
    trans.__('rejected'),
    trans.__("It contradicted live variables or Python's syntax.")
  ],
  matches_indexed_code: trans => [
    trans.__('matches indexed code'),
    trans.__('It matches indexed code; the setting attribution blocks it.')
  ]
};

/** The texts for a reason; undefined for one of a later kernel, even if it is called `constructor`. */
function textsFor(reason: string, trans: TranslationBundle): [string, string] | undefined {
  return Object.prototype.hasOwnProperty.call(REASONS, reason) ? REASONS[reason](trans) : undefined;
}

/** Why there is no text, in a sentence. */
export function reasonText(reason: string, trans: TranslationBundle): string {
  return (
    textsFor(reason, trans)?.[1] ?? trans.__('There is no suggestion (%1).', withBlanks(reason))
  );
}

/** What the status bar says, and its tooltip. */
export function statusText(
  state: ConnectionState,
  details: IStatusDetails,
  trans: TranslationBundle
): IStatusText {
  const [short, ...lines] =
    details.mode === 'off'
      ? [trans.__('off'), trans.__('Code completion is off here.')]
      : state.stage === 'connected'
        ? connected(state, details, trans)
        : notConnected(state, details, trans);
  return { text: `SC2: ${short}`, tooltip: lines.filter(Boolean).join('\n') };
}

/** The text of the status bar, and the lines of the tooltip. */
type Lines = [short: string, ...lines: (string | undefined)[]];

function notConnected(
  state: Exclude<ConnectionState, IConnected>,
  { busy, companion, install }: IStatusDetails,
  trans: TranslationBundle
): Lines {
  switch (state.stage) {
    case 'no kernel':
      if (companion) {
        return companionLines(companion, trans);
      }
      return [
        trans.__('no kernel'),
        trans.__('The model runs in the kernel, and no kernel runs here.'),
        trans.__("A file uses its console's kernel, or one chosen here.")
      ];
    case 'not Python':
      return [
        trans.__('Python kernels only'),
        trans.__('Code completion works in Python kernels only.')
      ];
    case 'connecting':
      return busy
        ? waiting(trans)
        : [trans.__('connecting'), trans.__('Connecting to the kernel.')];
    case 'waiting':
      return waiting(trans);
    case 'not loaded':
      return [trans.__('not loaded'), trans.__('Run %1 to start it in this kernel.', START)];
    case 'not installed':
      return [trans.__('not installed in this kernel'), ...missingLines(install, trans)];
    case 'not allowed':
      return [trans.__('not allowed'), reasonText('not_allowed', trans)];
    case 'version mismatch':
      return [
        trans.__('version mismatch'),
        trans.__('The kernel has jupyter-sc2 %1, JupyterLab another.', state.version),
        trans.__('Install the same version for both.')
      ];
    case 'not responding':
      return [
        trans.__('not responding'),
        trans.__('jupyter-sc2 is loaded in the kernel but does not respond.')
      ];
    case 'failed':
      return [trans.__('failed to load'), state.message];
  }
}

/** What to do about a kernel that lacks the package. */
function missingLines(install: string | undefined, trans: TranslationBundle): string[] {
  return [
    trans.__("jupyter-sc2 is missing in the kernel's environment."),
    trans.__('Run %1 and restart the kernel.', install ?? '')
  ];
}

/** What is said of the companion while its kernel is not there. */
function companionLines(stage: CompanionStage, trans: TranslationBundle): Lines {
  return stage === 'ended'
    ? [
        trans.__('companion · stopped'),
        trans.__('Its kernel was shut down. It starts again when you type.')
      ]
    : [
        trans.__('companion · starting'),
        trans.__('No kernel of this document has it, so one is started.')
      ];
}

function connected(
  state: IConnected,
  { busy, mode, outcome, now, snoozedMinutes, install, isMissing }: IStatusDetails,
  trans: TranslationBundle
): Lines {
  if (state.channel === 'shell' && busy) {
    return waiting(trans);
  }
  const { model, precision, modelState, message } = state;
  const withPrecision = precision ? `${model} ${precisionText(precision)}` : model;
  const named = (text: string) => (state.isCompanion ? trans.__('companion · %1', text) : text);
  const name = named(withPrecision);
  const modelLine = [
    trans.__('Model: %1', withPrecision),
    ...(state.isCompanion ? [trans.__('It runs in a kernel of its own, the companion.')] : []),
    ...(isMissing ? missingLines(install, trans) : [])
  ].join('\n');
  switch (modelState) {
    case 'loading':
    case 'downloading': {
      const [short, ...lines] = loading(state, now ?? Date.now(), trans);
      return [named(short), modelLine, ...lines, message];
    }
    case 'error':
      return [trans.__('%1 · error', named(model)), modelLine, message];
    case 'unloaded':
      return [
        trans.__('%1 · not loaded', named(model)),
        modelLine,
        trans.__('Loads on the first request, or from this menu.'),
        message
      ];
  }
  const [short, long] = outcomeText(outcome, trans);
  if (mode === 'manual' && snoozedMinutes) {
    const isTimed = Number.isFinite(snoozedMinutes);
    return [
      isTimed
        ? trans.__('%1 · snoozed, %2 min left', name, snoozedMinutes)
        : trans.__('%1 · snoozed', name),
      modelLine,
      isTimed
        ? trans.__('Press Alt+\\ for a suggestion meanwhile.')
        : trans.__('Until the page is reloaded, Alt+\\ brings a suggestion.'),
      message
    ];
  }
  if (mode === 'manual') {
    return [
      `${name} · ${short ?? trans.__('on demand')}`,
      modelLine,
      trans.__('Press Alt+\\ for a suggestion.'),
      long,
      message
    ];
  }
  const lines = [long, ...startupLines(state.startupTimes, trans)];
  return [`${name} · ${short ?? trans.__('ready')}`, modelLine, ...lines, message];
}

/** What is being done while a model loads, how far it is, and for how long. */
function loading(
  { modelState, progress, loading }: IConnected,
  now: number,
  trans: TranslationBundle
): Lines {
  const named = progress === undefined;
  const [short, long] =
    loading?.stage === 'importing'
      ? [trans.__('importing'), trans.__('Importing the libraries that run the model.')]
      : modelState === 'downloading'
        ? [
            named ? trans.__('downloading model') : trans.__('downloading'),
            trans.__('Downloading the model.')
          ]
        : [named ? trans.__('loading model') : trans.__('loading'), trans.__('Loading the model.')];
  const percent = progress === undefined ? '' : ` ${Math.round(100 * progress)}%`;
  const seconds = loading === undefined ? 0 : Math.floor((now - loading.since) / 1000);
  if (seconds <= 0) {
    return [short + percent, long];
  }
  return [
    trans.__('%1 · %2 s', short + percent, seconds),
    long,
    trans._n('%1 second so far.', '%1 seconds so far.', seconds)
  ];
}

/** How long it took until code was completed here. */
function startupLines(
  { loadSeconds, readySeconds, firstSuggestionSeconds }: IStartupTimes = {},
  trans: TranslationBundle
): string[] {
  const lines: string[] = [];
  if (loadSeconds !== undefined && readySeconds !== undefined) {
    lines.push(
      trans.__(
        'Loaded in %1 s, ready %2 s after the kernel started.',
        loadSeconds.toFixed(1),
        readySeconds.toFixed(1)
      )
    );
  } else if (loadSeconds !== undefined) {
    lines.push(trans.__('Loaded in %1 s.', loadSeconds.toFixed(1)));
  }
  if (firstSuggestionSeconds !== undefined) {
    lines.push(
      trans.__('First suggestion %1 s after the kernel started.', firstSuggestionSeconds.toFixed(1))
    );
  }
  return lines;
}

/** What became of the newest request; nothing if there is nothing to say. */
function outcomeText(
  outcome: IOutcome | undefined,
  trans: TranslationBundle
): ShortAndLong | [undefined?, undefined?] {
  switch (outcome?.kind) {
    case 'generating':
      return [trans.__('generating')];
    case 'nothing': {
      const reason = outcome.reason ?? '';
      return textsFor(reason, trans) ?? [withBlanks(reason)];
    }
    case 'timed out':
      return [
        trans.__('timed out'),
        trans.__('The last request took too long. A smaller model is faster.')
      ];
    case 'error':
      return [trans.__('error'), outcome.reason];
    default:
      return [];
  }
}

function waiting(trans: TranslationBundle): Lines {
  return [
    trans.__('waiting for the running cell'),
    trans.__('This kernel can answer only while no cell is running.')
  ];
}

/** A code of the kernel's, readable where there is no text for it. */
function withBlanks(code: string): string {
  return code.replace(/_/g, ' ');
}

/** A precision as people write it; the others are written as they are typed. */
function precisionText(precision: string): string {
  return precision === 'packed' ? '4-bit' : precision;
}
