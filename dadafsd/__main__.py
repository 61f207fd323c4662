"""`dadafsd`, and `python -m dadafsd`."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command.

    SIGUSR1 is for one thread, which waits for it (`dadafs.stack_dump`): it is blocked in all others, and so before the
    first begins. Libraries start some when they are imported.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    from dadafsd.cli import main as command

    command()


if __name__ == "__main__":
    main()
