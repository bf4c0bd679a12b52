/**
 * The Python expressions that a kernel evaluates before any code of ours runs there.
 *
 * As expressions they bind no names, and with empty code IPython fires no pre_execute, keeps no history and counts no
 * execution.
 */

/**
 * Loads the extension from where packages are installed: site-packages, what .pth files name, PYTHONPATH, and where
 * IPython lies. Not from the current directory, nor from what a cell has put on the path: a jupyter_sc2.py beside the
 * notebook would be run. For the same reason only what every kernel has loaded already is imported here.
 */
const PYTHON = `
import os, sys
from importlib import machinery, util

def load(name):
    ipython = sys.modules.get('IPython')
    shell = ipython and ipython.get_ipython()
    if not shell:
        return False
    extensions = shell.extension_manager
    if name not in extensions.loaded and (name in sys.modules or imported(name, ipython)):
        extensions.load_extension(name)
    return name in extensions.loaded

def imported(name, ipython):
    path = os.environ.get('PYTHONPATH', '').split(os.pathsep)
    for folder in site_packages():
        path += [folder, *named_in(folder)]
    path.append(os.path.dirname(os.path.dirname(ipython.__file__)))
    spec = machinery.PathFinder.find_spec(name, [entry for entry in path if os.path.isabs(entry)])
    if spec is None or spec.loader is None:
        return False
    module = sys.modules[name] = util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return True

def site_packages():
    site = sys.modules.get('site')
    if getattr(site, 'ENABLE_USER_SITE', False):
        yield site.getusersitepackages()
    yield from getattr(site, 'getsitepackages', list)()

def named_in(folder):
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        if name.endswith('.pth'):
            with open(os.path.join(folder, name), 'rb') as file:
                lines = file.read().decode(errors='replace').splitlines()
            for line in lines:
                if line.strip() and not line.startswith(('#', 'import ')):
                    yield os.path.join(folder, line.rstrip())
`;

/** Loads the extension if it is installed; True if it is loaded then. */
export const LOAD =
  "(lambda names: __import__('builtins').exec(" +
  JSON.stringify(PYTHON) +
  ", names) or names['load']('jupyter_sc2'))({})";

/** Whether the extension is loaded. */
export const CHECK =
  "(lambda shell: not not shell and 'jupyter_sc2' in shell.extension_manager.loaded)" +
  "((lambda ipython: ipython and ipython.get_ipython())(__import__('sys').modules.get('IPython')))";
