/**
 * What the user edits in one document: the cell or the file with the cursor, its language, and what stands around it.
 */
import type { ISessionContext } from '@jupyterlab/apputils';
import type { CodeEditor } from '@jupyterlab/codeeditor';
import type { ICellModel, ICodeCellModel } from '@jupyterlab/cells';
import type { ConsolePanel, IConsoleTracker } from '@jupyterlab/console';
import type { IEditorTracker } from '@jupyterlab/fileeditor';
import type { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import type { Widget } from '@lumino/widgets';

import { isImportCell } from '../completion/imports';
import { METADATA_KEY, modeOf, mostRestrictive, OFF_TAG, type Mode } from '../completion/policy';
import type { IImportCell } from '../completion/types';
import type { ICell } from '../kernel/protocol';
import { outputTexts } from './cell-outputs';
import { CellCache, type IObservableCells } from './cells';
import { languageOfMimeType } from './mime-types';
import type { Neighbours } from './neighbours';

export interface ITrackers {
  notebooks: INotebookTracker;
  consoles: IConsoleTracker | null;
  editors: IEditorTracker | null;
}

/** What the user edits in one document: the cell with the cursor, and the others. */
export interface IEditedDocument {
  editor: CodeEditor.IEditor | null;
  cellId: string;
  language: string;
  mode: Mode;

  /** The path of a text file. */
  path?: string;

  /** The ending of files in the kernel's language. */
  fileExtension?: string;

  /** All cells; the source of the one whose id is `current` may be old. */
  cells(current?: string): ICell[];

  /** The first cell above that consists of imports; null if there is none, or it is locked. */
  importCell(): IImportCell | null;
}

export class EditedDocuments {
  constructor(
    private _trackers: ITrackers,
    private _neighbours: Neighbours
  ) {}

  /** What is edited in this widget; null where no code is. */
  in(widget: Widget): IEditedDocument | null {
    const { notebooks, consoles, editors } = this._trackers;
    const notebook = notebooks.find(panel => panel === widget);
    if (notebook) {
      return this._inNotebook(notebook);
    }
    const panel = consoles?.find(panel => panel === widget);
    if (panel) {
      return this._inConsole(panel);
    }
    const file = editors?.find(panel => panel === widget);
    const language = file ? languageOfMimeType(file.content.editor.model.mimeType) : null;
    if (!file || language === null) {
      return null;
    }
    const { path } = file.context;
    const { editor } = file.content;
    return {
      editor,
      cellId: path,
      language,
      mode: 'automatic',
      path,
      cells: () => this._neighbours.cells(file, path, editor.model.sharedModel.getSource()),
      importCell: () => null
    };
  }

  private _inNotebook(panel: NotebookPanel): IEditedDocument | null {
    const cell = panel.content?.activeCell;
    if (cell?.model.type !== 'code') {
      return null;
    }
    const info = panel.model?.getMetadata('language_info') as Record<string, unknown> | undefined;
    return {
      editor: cell.editor,
      cellId: cell.model.id,
      language: languageOfNotebook(panel),
      mode: mostRestrictive(
        modeOf(panel.model?.getMetadata(METADATA_KEY)),
        isTaggedOff(cell.model) ? 'off' : undefined
      ),
      fileExtension: typeof info?.file_extension === 'string' ? info.file_extension : undefined,
      cells: current => {
        const models = panel.content.model?.cells;
        return models ? this._cellsOf(models, models).read(current) : [];
      },
      importCell: () => importCellAbove(panel, cell.model)
    };
  }

  private _inConsole(panel: ConsolePanel): IEditedDocument | null {
    const prompt = panel.console.promptCell;
    return (
      prompt && {
        editor: prompt.editor,
        cellId: prompt.model.id,
        language: languageOfKernel(panel.sessionContext) || 'python',
        mode: 'automatic',
        cells: () => {
          const { cells } = panel.console;
          const models = {
            changed: cells.changed,
            *[Symbol.iterator]() {
              for (const { model } of Array.from(cells)) {
                yield model;
              }
            }
          };
          return [...this._cellsOf(cells, models).read(), readCell(prompt.model)];
        },
        importCell: () => null
      }
    );
  }

  private _cellsOf(list: object, models: IObservableCells<ICellModel>): CellCache<ICellModel> {
    let cells = this._cells.get(list);
    if (!cells) {
      cells = new CellCache(models, readCell);
      this._cells.set(list, cells);
    }
    return cells;
  }

  private _cells = new WeakMap<object, CellCache<ICellModel>>();
}

/** The language of a kernel by its kernelspec; nothing while there is no kernel. */
export function languageOfKernel(context: ISessionContext): string | undefined {
  const name = context.session?.kernel?.name;
  return name === undefined ? undefined : context.specsManager.specs?.kernelspecs[name]?.language;
}

/** The language of a notebook: its kernel's, or what its metadata say. */
export function languageOfNotebook(panel: NotebookPanel): string {
  const spec = panel.model?.getMetadata('kernelspec') as Record<string, unknown> | undefined;
  const named = typeof spec?.language === 'string' ? spec.language : '';
  return (
    languageOfKernel(panel.sessionContext) ||
    panel.model?.defaultKernelLanguage ||
    named ||
    'python'
  );
}

function readCell(model: ICellModel): ICell {
  const code = model.type === 'code' ? (model as ICodeCellModel) : null;
  const outputs = code ? outputTexts(code) : [];
  return {
    id: model.id,
    cell_type: model.type as ICell['cell_type'],
    source: model.sharedModel.getSource(),
    execution_count: code?.executionCount ?? null,
    ...(outputs.length > 0 && { outputs })
  };
}

function importCellAbove(panel: NotebookPanel, current: ICellModel): IImportCell | null {
  for (const model of panel.content.model?.cells ?? []) {
    if (model === current) {
      break;
    }
    if (model.type === 'code' && isImportCell(model.sharedModel.getSource())) {
      const isLocked = panel.content.model!.readOnly || model.getMetadata('editable') === false;
      const wasRun = (model as ICodeCellModel).executionCount !== null;
      return isLocked ? null : { model: model.sharedModel, wasRun };
    }
  }
  return null;
}

function isTaggedOff(model: ICellModel): boolean {
  const tags = model.getMetadata('tags') as unknown;
  return Array.isArray(tags) && tags.includes(OFF_TAG);
}
