"""C functions put in front of the system's in processes that a test starts, steered by one number."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path


class Preloaded:
    """`source`, compiled and loaded into all processes started with `env`; it maps the number that `variable` names."""

    def __init__(self, directory: Path, source: str, variable: str) -> None:
        name = variable.lower()
        self._file = directory / name
        self._file.write_bytes(struct.pack("q", 0))
        code, library = directory / f"{name}.c", directory / f"{name}.so"
        code.write_text(source)
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(code)], check=True)
        self.env = {"LD_PRELOAD": str(library), variable: str(self._file)}

    @property
    def number(self) -> int:
        """As it is now; the processes may have changed it."""
        return int(struct.unpack("q", self._file.read_bytes())[0])

    @number.setter
    def number(self, value: int) -> None:
        with self._file.open("r+b") as file:  # in place: the file is mapped
            file.write(struct.pack("q", value))
