/**
 * Reports accepted text to the kernel, which counts it, and later whether the cell still contains it.
 */
import type { AcceptedPart, ICompletionTarget, IInlineItem } from '../completion/types';
import type { IAccepted } from '../kernel/protocol';

/** A text that is still there after this time was useful. */
const RETENTION_CHECK_MS = 30_000;

/** How many texts wait at most for their cell to be run. */
const MAX_AWAITING_RUN = 200;

interface IAcceptedText {
  target: ICompletionTarget;
  report: Omit<IAccepted, 'type' | 'when' | 'kept'>;
}

export class RetentionTracker {
  constructor(private _delayMs = RETENTION_CHECK_MS) {}

  onAccepted({ target, suggestion, index }: IInlineItem, part: AcceptedPart, text: string): void {
    const report = { id: suggestion.id, index, text, part };
    target.client.accepted(report);
    const accepted = { target, report };
    this._awaitingRun = [...this._awaitingRun.slice(-MAX_AWAITING_RUN), accepted];
    setTimeout(() => reportRetention(accepted, '30s'), this._delayMs);
  }

  onCellExecuted(cellId: string): void {
    const run = this._awaitingRun.filter(({ target }) => target.cellId === cellId);
    this._awaitingRun = this._awaitingRun.filter(accepted => !run.includes(accepted));
    run.forEach(accepted => reportRetention(accepted, 'run'));
  }

  private _awaitingRun: IAcceptedText[] = [];
}

function reportRetention({ target, report }: IAcceptedText, when: '30s' | 'run'): void {
  const kept = target.source().includes(report.text.trim());
  target.client.accepted({ ...report, when, kept });
}
