"""No core dump of a process that holds keys, and no other process of the same user that reads its memory."""

import ctypes
import resource

PR_SET_DUMPABLE = 4


def keep_memory_private() -> None:
    """No core dumps from now on; on Linux also: /proc/PID/mem, environ and the like belong to root, and only root may attach.

    For the rest of the process's life; what it starts is not affected beyond the limit of core dumps. Root can still read it
    all, and so can whoever reads the machine's swap.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
