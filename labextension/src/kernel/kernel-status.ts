/**
 * Makes JupyterLab learn a kernel's status.
 */
import type { Kernel } from '@jupyterlab/services';

import { sleep, within } from './timing';

/** How long the answer to the first request for the status is waited for, and to the later ones at most. */
const FIRST_ANSWER_MS = 2000;
const LAST_ANSWER_MS = 30_000;
const PAUSE_MS = 500;

/** The kernels whose status is being requested. */
const asked = new WeakSet<Kernel.IKernelConnection>();

/**
 * Requests the status of a kernel until it is known, beginning after `patienceMs`, in which it may come by itself.
 *
 * JupyterLab ignores the status that comes with most kinds of messages, also with those that it sends itself. So a kernel
 * in which nobody runs code stays "unknown", and one that another page has restarted stays "starting". What a kernel says
 * while its server connects to it is lost now and then, as after a restart; so this is repeated, ever less often, as
 * requests queue up behind a running cell. A request runs no code and calls no hook.
 */
export async function learnStatus(
  kernel: Kernel.IKernelConnection,
  patienceMs: number
): Promise<void> {
  if (asked.has(kernel) || !isUnknown(kernel)) {
    return;
  }
  asked.add(kernel);
  await sleep(patienceMs);
  for (let answerMs = FIRST_ANSWER_MS; isUnknown(kernel); await sleep(PAUSE_MS)) {
    if (kernel.connectionStatus !== 'connected') {
      continue;
    }
    try {
      const request = kernel.requestExecute({ code: '', silent: true, store_history: false });
      await within(request.done, answerMs);
      request.dispose();
    } catch {
      // A restart drops what is asked.
    }
    answerMs = Math.min(2 * answerMs, LAST_ANSWER_MS);
  }
  asked.delete(kernel);
}

function isUnknown({ isDisposed, status }: Kernel.IKernelConnection): boolean {
  return !isDisposed && status !== 'idle' && status !== 'busy' && status !== 'dead';
}
