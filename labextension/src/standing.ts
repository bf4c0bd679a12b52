/**
 * How completion stands in a notebook, and how that is said in a few words.
 */
import type { Channel, ModelState } from './protocol';

export type Standing =
  | {
      stage:
        | 'no kernel'
        | 'not Python'
        | 'connecting'
        | 'waiting'
        | 'not loaded'
        | 'not installed'
        | 'silent';
    }
  | { stage: 'failed'; message: string }
  | {
      stage: 'connected';
      channel: Channel;
      model: string;
      state: ModelState;
      progress?: number;
      message?: string;
    };

export interface IDescription {
  text: string;
  title: string;
}

/** What the status bar says; `busy` is whether a cell runs. */
export function describe(standing: Standing, enabled: boolean, busy: boolean): IDescription {
  if (!enabled) {
    return {
      text: 'SC2: off',
      title: 'Ghost text is off. Click to turn it on.'
    };
  }
  const { text, title } = words(standing, busy);
  return {
    text: `SC2: ${text}`,
    title: `${title}\nClick to turn ghost text off.`
  };
}

function words(standing: Standing, busy: boolean): IDescription {
  switch (standing.stage) {
    case 'no kernel':
      return {
        text: 'no kernel',
        title: 'Code is completed by a model in the kernel, and there is none.'
      };
    case 'not Python':
      return {
        text: 'not for this kernel',
        title: 'Only Python kernels can complete code.'
      };
    case 'connecting':
      return busy ? waiting() : { text: 'connecting', title: 'Connecting with the kernel.' };
    case 'waiting':
      return waiting();
    case 'not loaded':
      return {
        text: 'not loaded',
        title: 'Run %load_ext jupyter_sc2 to start completion in this kernel.'
      };
    case 'not installed':
      return {
        text: 'not installed in this kernel',
        title:
          "The kernel's environment has no jupyter-sc2. Run %pip install jupyter-sc2, then restart the kernel."
      };
    case 'silent':
      return {
        text: 'no answer',
        title: 'jupyter-sc2 is loaded in the kernel, but does not answer.'
      };
    case 'failed':
      return { text: 'failed to load', title: standing.message };
    case 'connected':
      break;
  }
  if (standing.channel === 'shell' && busy) {
    return waiting();
  }
  const { model, state, message } = standing;
  const progress =
    standing.progress === undefined ? '' : ` ${Math.round(100 * standing.progress)} %`;
  const loading = state === 'loading' || state === 'downloading';
  return {
    text: loading ? `${state}${progress}` : `${model} · ${state}`,
    title: [`Model: ${model}`, `State: ${state}${progress}`, message].filter(Boolean).join('\n')
  };
}

function waiting(): IDescription {
  return {
    text: 'waiting for the running cell',
    title: 'This kernel can answer only when no cell runs.'
  };
}
