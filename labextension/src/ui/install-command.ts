/**
 * The command that installs jupyter-sc2 where a kernel runs.
 */
import { PageConfig } from '@jupyterlab/coreutils';

/** Where our extension of the server puts it (jupyter_sc2/server.py). */
const OPTION = 'jupyterSc2Install';

/** For a server without our extension. */
const FROM_INDEX = '%pip install jupyter-sc2';

/** From where the server's own copy came: an index, a wheel or a folder. */
export function installCommand(): string {
  return PageConfig.getOption(OPTION) || FROM_INDEX;
}
