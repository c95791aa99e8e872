"""A program run by its path as `leash.py PARENT PROGRAM ARGUMENT...`: becomes PROGRAM, which is killed with PARENT.

PR_SET_PDEATHSIG (prctl(2)) holds across execve(2), so it can be set here, in a process without threads, and needs no
`preexec_fn` (unsafe where the caller has threads) and no setpriv(1) (not everywhere, and busybox's lacks the option).
"""

import ctypes
import os
import signal
import sys

# include/uapi/linux/prctl.h
_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, *program = sys.argv[1:]
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # The parent may have died before the line above; that death sends no signal any more.
    if os.getppid() != int(parent):
        sys.exit(1)
    os.execv(program[0], program)  # noqa: S606 - the caller's own list of words, no shell


if __name__ == "__main__":
    main()
