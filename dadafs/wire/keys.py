"""Key files: the shared secrets of method `psk`.

One key a line, `id: secret` or a bare secret; empty lines and lines that begin with `#` are skipped. A
secret is hex, base64 or text, and at least 16 bytes long. Two keys or more may be valid at once, for
rotation: add the new one to the head, then give it to the nodes, then remove the old one. `openssl rand
-hex 32 > key; chmod 600 key` makes a file.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from dadafs.errors import ExitCode, UserError

MIN_SECRET = 16
MAX_FILE = 64 * 1024
#: So many names of keys fit into a challenge.
MAX_KEYS = 16
_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True)
class Key:
    """One secret and the name under which both sides know it."""

    id: str
    secret: bytes = field(repr=False)


class KeyRing:
    """The keys of one file, in its order."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys = {key.id: key for key in keys}
        if not self._keys:
            raise ValueError("a key ring needs at least one key")

    def ids(self) -> list[str]:
        """The names of all keys."""
        return list(self._keys)

    def get(self, key_id: str) -> Key | None:
        """The key of that name."""
        return self._keys.get(key_id)

    def choose(self, known: Sequence[str]) -> Key | None:
        """The first of our keys that the other side knows, too."""
        return next((key for key in self._keys.values() if key.id in known), None)


def load_key_file(path: str | os.PathLike[str]) -> KeyRing:
    """The keys in the file at `path`. Raises UserError where it is missing, readable by others, or holds no
    key.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UserError(f"Cannot read the key file {path}: {error.strerror}.", ExitCode.USAGE) from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"The key file {path} is not a regular file.", ExitCode.USAGE)
        if status.st_mode & 0o077:
            raise UserError(
                f"The key file {path} can be read by others; protect it with: chmod 600 {path}", ExitCode.USAGE
            )
        data = os.read(fd, MAX_FILE + 1)
    finally:
        os.close(fd)
    try:
        return parse_keys(data)
    except ValueError as error:
        raise UserError(f"The key file {path} is not usable: {error}.", ExitCode.USAGE) from None


def parse_keys(data: bytes) -> KeyRing:
    """The keys in the text of a key file. Raises ValueError, which never quotes a secret."""
    if len(data) > MAX_FILE:
        raise ValueError("it is larger than any key file should be")
    try:
        lines = data.decode().splitlines()
    except UnicodeDecodeError:
        raise ValueError("it is not text; write keys as hex or base64") from None
    keys: dict[str, Key] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            key = _parse_line(line.strip(), number)
            if key.id in keys:
                raise ValueError(f"line {number} repeats the key {key.id}")
            keys[key.id] = key
    if not keys:
        raise ValueError("there is no key in it")
    if len(keys) > MAX_KEYS:
        raise ValueError(f"it holds more than {MAX_KEYS} keys")
    return KeyRing(keys.values())


def _parse_line(line: str, number: int) -> Key:
    name, colon, text = (part.strip() for part in line.partition(":"))
    if not colon:
        name, text = "", name
    elif not _KEY_ID.fullmatch(name):
        raise ValueError(f"the key name in line {number} is not one (letters, digits, '.', '_' and '-')")
    secret = _decode(text)
    if len(secret) < MIN_SECRET:
        raise ValueError(f"the secret in line {number} is shorter than {MIN_SECRET} bytes")
    return Key(name or _derived_id(secret), secret)


def _decode(text: str) -> bytes:
    """The secret that `text` stands for: hex, else base64, else the text itself."""
    if len(text) >= 2 * MIN_SECRET and len(text) % 2 == 0 and re.fullmatch(r"[0-9A-Fa-f]+", text):
        return bytes.fromhex(text)
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return text.encode()
    return decoded if len(decoded) >= MIN_SECRET else text.encode()


def _derived_id(secret: bytes) -> str:
    """A name for a key that was given none, the same on both sides; eight hex digits that do not reveal the
    key.
    """
    return hmac.new(secret, b"dadafs key id", hashlib.sha256).hexdigest()[:8]
