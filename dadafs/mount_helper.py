"""`/sbin/mount.dadafs`: what mount(8), fstab and autofs call, `mount.dadafs SOURCE MOUNTPOINT [-sfnv] [-o OPTIONS]`."""

from __future__ import annotations

import sys

from dadafs.cli import run_command
from dadafs.errors import ExitCode, UserError
from dadafs.mount import mount
from dadafs.mount_options import MountOptions, resolve

_USAGE = "mount.dadafs HOST[:PORT]:/EXPORT MOUNTPOINT [-o OPTIONS]"


def parse(arguments: list[str]) -> tuple[MountOptions, bool]:
    """The options, and whether to only pretend (`-f`). Raises UserError."""
    places: list[str] = []
    dash_o: list[str] = []
    fake = False
    waiting = iter(arguments)
    for argument in waiting:
        if argument in {"-o", "-t", "-N"}:
            value = next(waiting, "")
            if argument == "-o":
                dash_o.append(value)
        elif argument.startswith("-o"):
            dash_o.append(argument[2:])
        elif argument.startswith("-"):
            fake = fake or "f" in argument
        else:
            places.append(argument)
    if len(places) != 2:
        raise UserError(f"Usage: {_USAGE}", ExitCode.USAGE)
    return resolve(places[0], places[1], dash_o=tuple(dash_o)), fake


def main() -> None:
    """Entry point of /sbin/mount.dadafs."""

    def command() -> None:
        options, fake = parse(sys.argv[1:])
        if not fake:
            mount(options)

    run_command("mount.dadafs", command)


if __name__ == "__main__":
    main()
