/**
 * What cells put out, as short texts that a model may read.
 */
import type { ICodeCellModel } from '@jupyterlab/cells';

/** How much of one cell's outputs is told. */
const MOST_OUTPUTS = 4;
const MOST_CHARACTERS = 600;

interface ITold {
  count: number | null;
  length: number;
  texts: string[];
}

const told = new WeakMap<ICodeCellModel, ITold>();

/**
 * The texts of a cell's outputs, once it has run: what it printed, the plain text of its results, its error.
 *
 * They are read once for each run: an output may be megabytes, and this is asked for at each key.
 */
export function outputTexts(model: ICodeCellModel): string[] {
  const count = model.executionCount;
  const length = model.outputs.length;
  const last = told.get(model);
  if (last && last.count === count && last.length === length) {
    return last.texts;
  }
  const texts: string[] = [];
  for (let index = 0; count !== null && index < Math.min(length, MOST_OUTPUTS); index++) {
    const text = textOf(model.outputs.get(index).toJSON() as Record<string, unknown>);
    if (text) {
      texts.push(text.slice(0, MOST_CHARACTERS));
    }
  }
  told.set(model, { count, length, texts });
  return texts;
}

function textOf(output: Record<string, unknown>): string {
  switch (output.output_type) {
    case 'stream':
      return output.name === 'stderr' ? '' : joined(output.text);
    case 'error':
      return `${output.ename}: ${output.evalue}`;
    default:
      return joined((output.data as Record<string, unknown> | undefined)?.['text/plain']);
  }
}

/** nbformat writes a text as it is or as its lines. */
function joined(text: unknown): string {
  return Array.isArray(text) ? text.join('') : typeof text === 'string' ? text : '';
}
