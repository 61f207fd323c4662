"""A mount's own unix socket: statistics for everyone, without touching the mount, so that nothing can hang on it.

One JSON object a line each way: `{"command": "status"}` is answered with the report. The path follows from the
device number of the mount, which /proc/self/mountinfo tells without asking the file system.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import trio

from dadafs.errors import ExitCode, UserError

_LONGEST_LINE = 65536
#: struct ucred: pid, uid, gid.
_CREDENTIALS = struct.Struct("3i")
#: Answers a request of a user that is not `status`; raises UserError, ValueError, TypeError.
More = Callable[[dict[str, Any], int], dict[str, Any]]
_PATIENCE = 5.0


def runtime_directory() -> Path:
    """Where this user's sockets are: /run/dadafs for root."""
    if os.geteuid() == 0:
        return Path("/run/dadafs")
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "dadafs" if base else Path(f"/tmp/dadafs-{os.geteuid()}")


def socket_path(device: str, directory: Path | None = None) -> Path:
    """The socket of the mount on `device` ("major:minor")."""
    return (directory or runtime_directory()) / f"mount-{device.replace(':', '-')}.sock"


async def serve(
    path: Path,
    report: Callable[[], dict[str, Any]],
    more: More | None = None,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer on `path` until cancelled; started once it can be asked. `more` answers what is not `status`."""
    made = _room_for(path)
    listener = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    ours = 0
    try:
        await listener.bind(str(made))
        ours = os.stat(made).st_ino
        os.chmod(made, 0o666)  # statistics are for all
        listener.listen(16)
        os.rename(made, path)  # only now: who finds a socket that nobody listens on removes it
        task_status.started()
        async with trio.open_nursery() as nursery:
            while True:
                peer, _ = await listener.accept()
                nursery.start_soon(_answer, trio.SocketStream(peer), report, more)
    finally:
        listener.close()
        # Once we are unmounted the kernel may give our device number, and so this name, to the next mount.
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == ours:
                os.unlink(path)


def _room_for(path: Path) -> Path:
    """Where the socket is made that becomes `path`: in its directory, which exists then."""
    path.parent.mkdir(mode=0o755 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    made = path.with_suffix(f".{os.getpid()}")
    made.unlink(missing_ok=True)
    return made


async def _answer(stream: trio.SocketStream, report: Callable[[], dict[str, Any]], more: More | None) -> None:
    with trio.move_on_after(_PATIENCE):
        try:
            line = b""
            while not line.endswith(b"\n") and len(line) < _LONGEST_LINE:
                part = await stream.receive_some(_LONGEST_LINE)
                if not part:
                    return
                line += part
            await stream.send_all(_reply(line, report, more, _peer(stream)))
        except trio.BrokenResourceError:
            pass
        finally:
            await trio.aclose_forcefully(stream)


def _peer(stream: trio.SocketStream) -> int:
    """The user at the other end."""
    credentials = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    assert isinstance(credentials, bytes)
    return int(_CREDENTIALS.unpack(credentials)[1])


def _reply(line: bytes, report: Callable[[], dict[str, Any]], more: More | None, user: int) -> bytes:
    try:
        request = json.loads(line)
        command = request["command"]
    except (ValueError, TypeError, KeyError):
        return b'{"error":"send one JSON object with a command"}\n'
    try:
        if command == "status":
            answer = report()
        elif more is None:
            raise UserError("unknown command")
        else:
            answer = more(request, user)
    except (UserError, ValueError, TypeError) as error:
        answer = {"error": str(error)}
    return json.dumps(answer, separators=(",", ":")).encode() + b"\n"


def answers(path: Path) -> bool:
    """Whether a process listens on `path`; a socket that nobody listens on is removed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(_PATIENCE)
        try:
            peer.connect(str(path))
        except ConnectionRefusedError:
            with contextlib.suppress(OSError):
                path.unlink()
            return False
        except FileNotFoundError:
            return False
        except OSError:
            return True
    return True


def places(device: str) -> list[Path]:
    """Where the socket of the mount on `device` may be: this user's place, and root's."""
    return [socket_path(device, each) for each in dict.fromkeys((runtime_directory(), Path("/run/dadafs")))]


def ask(
    device: str, command: str = "status", patience: float = _PATIENCE, fields: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """What the mount on `device` answers. Raises UserError where it does not, and for an error that it answers.

    Blocks no longer than `patience`.
    """
    refused: tuple[Path, OSError] | None = None
    for path in places(device):
        if path.exists():
            try:
                answer = _ask(path, {"command": command, **(fields or {})}, patience)
            except ConnectionRefusedError as problem:
                refused = path, problem  # left behind by an earlier mount; the right one may be in another place
                continue
            except (OSError, ValueError) as problem:
                raise _silent(path, problem) from None
            if isinstance(answer.get("error"), str):
                raise UserError(answer["error"])
            return answer
    if refused is not None:
        raise _silent(*refused)
    raise UserError(
        f"There is no socket of a mount process for device {device}; it has ended, or belongs to another user.",
        ExitCode.UNREACHABLE,
    )


def _silent(path: Path, problem: Exception) -> UserError:
    return UserError(
        f"The mount process does not answer on {path} ({problem}); see whether it still runs.", ExitCode.UNREACHABLE
    )


def _ask(path: Path, request: dict[str, Any], patience: float) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(patience)
        peer.connect(str(path))
        peer.sendall(json.dumps(request).encode() + b"\n")
        parts = []
        while part := peer.recv(65536):
            parts.append(part)
    answer = json.loads(b"".join(parts))
    if not isinstance(answer, dict):
        raise ValueError("not an object")
    return answer
