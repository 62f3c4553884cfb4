"""Child processes that end with the process that started them, even when that is killed with -9 (on Linux)."""

import ctypes.util
import os
import sys
from collections.abc import Sequence

# Runs in the child before its program does. The parent may have ended before the kernel was asked: hence the last look.
_GUARD = """\
import ctypes, os, signal, sys
libc = ctypes.CDLL(sys.argv[2] or None)
if hasattr(libc, "prctl"):
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[3], sys.argv[3:])
"""


def tethered(command: Sequence[str]) -> list[str]:
    """`command` (an absolute path, then arguments) so that the kernel kills it when its starter ends; the process id stays.

    The kernel watches the *thread* that starts it: call from one that lives as long as the process, such as the main thread.
    Elsewhere than on Linux nothing is guaranteed.
    """
    libc = ctypes.util.find_library("c") or ""
    return [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid()), libc, *command]
