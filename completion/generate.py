"""Writes the completions for bash and zsh beside this file: `./run python completion/generate.py`.

They ask the programs themselves, so they change with click only. They are kept in the repository, so that building a
wheel imports nothing.
"""

from __future__ import annotations

from pathlib import Path

from dadafs.ctl.cli import PROGRAMS, completion_script

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Write all of them, named as the shells look for them."""
    for shell, prefix in (("bash", ""), ("zsh", "_")):
        (HERE / shell).mkdir(exist_ok=True)
        for program in PROGRAMS:
            script = completion_script(shell, program).strip() + "\n"
            (HERE / shell / f"{prefix}{program}").write_text(script, encoding="utf-8")


if __name__ == "__main__":
    main()
