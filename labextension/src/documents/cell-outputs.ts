/**
 * The outputs of cells, as short texts that a model may read.
 */
import type { ICodeCellModel } from '@jupyterlab/cells';

/** The most that is sent of one cell's outputs. */
const MAX_OUTPUTS = 4;
const MAX_OUTPUT_UNITS = 600;

interface ICachedTexts {
  executionCount: number | null;
  length: number;
  texts: string[];
}

const cache = new WeakMap<ICodeCellModel, ICachedTexts>();

/**
 * The texts of a cell's outputs, once it has run: what it printed, the plain text of its results, its error.
 *
 * They are read once for each run: an output may be megabytes, and this is called at every key.
 */
export function outputTexts(model: ICodeCellModel): string[] {
  const { executionCount } = model;
  const length = model.outputs.length;
  const cached = cache.get(model);
  if (cached && cached.executionCount === executionCount && cached.length === length) {
    return cached.texts;
  }
  const texts: string[] = [];
  for (let index = 0; executionCount !== null && index < Math.min(length, MAX_OUTPUTS); index++) {
    const text = textOf(model.outputs.get(index).toJSON() as Record<string, unknown>);
    if (text) {
      texts.push(text.slice(0, MAX_OUTPUT_UNITS));
    }
  }
  cache.set(model, { executionCount, length, texts });
  return texts;
}

function textOf(output: Record<string, unknown>): string {
  switch (output.output_type) {
    case 'stream':
      return output.name === 'stderr' ? '' : joinLines(output.text);
    case 'error':
      return `${output.ename}: ${output.evalue}`;
    default:
      return joinLines((output.data as Record<string, unknown> | undefined)?.['text/plain']);
  }
}

/** In nbformat a text is a string or the list of its lines. */
function joinLines(text: unknown): string {
  return Array.isArray(text) ? text.join('') : typeof text === 'string' ? text : '';
}
