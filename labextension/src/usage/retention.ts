/**
 * What became of accepted text: told to the kernel, which counts it, when it is accepted, and again when it is
 * seen whether it stayed.
 */
import type { Part } from '../completion/inline-completer';
import type { IAccepted } from '../kernel/protocol';
import type { IOffer } from '../completion/inline-items';
import type { ISpot } from '../completion/provider';

/** After this long a text that is still there was of use. */
const LATER_MS = 30_000;

interface IKept {
  spot: ISpot;
  report: Omit<IAccepted, 'type' | 'when' | 'kept'>;
}

export class Kept {
  constructor(private _later = LATER_MS) {}

  accepted(offer: IOffer, part: Part, text: string): void {
    const { spot, ghost, index } = offer;
    const report = { id: ghost.id, index, text, part };
    spot.client.accepted(report);
    const kept = { spot, report };
    this._untilRun = [...this._untilRun.slice(-200), kept];
    setTimeout(() => tell(kept, '30s'), this._later);
  }

  /** A cell is run. */
  executed(cellId: string): void {
    const mine = this._untilRun.filter(({ spot }) => spot.cellId === cellId);
    this._untilRun = this._untilRun.filter(kept => !mine.includes(kept));
    mine.forEach(kept => tell(kept, 'run'));
  }

  private _untilRun: IKept[] = [];
}

function tell({ spot, report }: IKept, when: '30s' | 'run'): void {
  const kept = spot.source().includes(report.text.trim());
  spot.client.accepted({ ...report, when, kept });
}
