"""A change of files, killed before each of its steps: every one of them leaves what its user made.

The steps are the calls that Python tells its audit hooks of: what opens a file to write, renames, links or removes it.
A copy of this program (a fork, in a process without threads) makes the change in a copy of the folder and ends itself,
as SIGKILL would, before step 1, then before step 2, and so on until it is done.
"""

import os
import shutil
import signal
import sys

_STEPS = {
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.truncate",
    "shutil.rmtree",
    "sqlite3.connect",
}
_WRITES = os.O_WRONLY | os.O_RDWR


def after_each_kill(folder, act, check, most=400):
    """Call what `act(copy of folder)` returns and kill it before each step; after each, and when done, `check(copy)`.

    `check` is told, too, whether all was done. Return how many kills there were.
    """
    for kills in range(most):
        copy = folder.with_name(f"{folder.name}-{kills}")
        shutil.copytree(folder, copy, symlinks=True)
        code = in_a_fork(lambda copy=copy, kills=kills: _killed(act(copy), kills + 1, copy))
        done = code == 0
        assert done or code == -signal.SIGKILL, code
        assert in_a_fork(lambda copy=copy, kills=kills, done=done: check(copy, done)) == 0
        shutil.rmtree(copy)
        if done:
            return kills
    raise AssertionError("it does not come to its end")


def in_a_fork(work):
    process = os.fork()
    if not process:
        code = 1
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001 - whatever it is, this process ends here
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _killed(work, step, folder):
    _die_before(step, folder)
    work()


def _die_before(step, folder):
    """End this process before its change number `step` of what is in `folder`."""
    steps = 0

    def heard(event, args):
        nonlocal steps
        if event == "open":
            path, flags = args[0], args[2] or 0
            changes = bool(flags & _WRITES)
        else:
            path, changes = args[0] if args else None, event in _STEPS
        if changes and isinstance(path, str | os.PathLike) and os.fspath(path).startswith(str(folder)):
            steps += 1
            if steps == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(heard)
