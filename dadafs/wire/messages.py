"""Every message of the wire protocol, as msgspec structs.

A message travels as MessagePack in the metadata part of a frame (`dadafs.wire.frame`); bulk bytes travel
beside it as the frame's raw payload and never inside a message. Paths are bytes, relative to the export,
components joined by a slash, `b""` for the root; no component is empty, `.` or `..` (`dadafs.wire.paths`
checks that on both sides). All times are integers in nanoseconds since the epoch, all sizes in bytes.
"""

from __future__ import annotations

import enum

import msgspec

PROTOCOL_VERSION = 1
#: The oldest protocol version this side still speaks.
OLDEST_VERSION = 1
BLOCK_SIZE = 16 * 1024
#: `Blocks.sent` can name the blocks of a reply one by one only where there are at most so many.
MOST_NAMED = 64
#: The largest fragment that an export may be divided into.
MAX_FRAGMENT_SIZE = 4 * 1024 * 1024
DEFAULT_FRAGMENT_SIZE = 1024 * 1024
#: A file of at most this size is carried whole in the reply to `Open`.
INLINE_LIMIT = 64 * 1024
LISTING_PAGE = 4096
#: Files that one `OpenAhead` opens at most, and bytes of content that its reply carries at most.
AHEAD_FILES = 256
AHEAD_BYTES = 4 * 1024 * 1024


class Version(msgspec.Struct, frozen=True, array_like=True):
    """What identifies one state of one file; equal versions are equal bytes (docs/semantics.md)."""

    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @property
    def identity(self) -> tuple[int, int]:
        """The file itself, whatever its state: `(device, inode)`."""
        return self.dev, self.ino


class Attr(msgspec.Struct, frozen=True, array_like=True):
    """The attributes of one file-system object, as `lstat` on the origin gave them."""

    dev: int
    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    blksize: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int

    @property
    def version(self) -> Version:
        return Version(self.dev, self.ino, self.size, self.mtime_ns, self.ctime_ns)


class Message(msgspec.Struct, frozen=True, array_like=True, tag_field="t"):
    """Base of everything that travels; the tag is a small integer."""


# --- handshake (docs/protocol.md, "Handshake"); nothing else may be said before Welcome ---------------------


class Hello(Message, frozen=True, tag=1):
    """Node to head, first. `role` is `control` (opens a session) or `data` (joins session `session`)."""

    version_min: int
    version_max: int
    role: str
    node: str
    nonce: bytes
    methods: list[str]


class Challenge(Message, frozen=True, tag=2):
    """Head to node: the version and method chosen."""

    version: int
    method: str
    nonce: bytes
    key_ids: list[str] = []


class Proof(Message, frozen=True, tag=3):
    """Node to head: `mac` proves knowledge of the key over the whole transcript so far; empty for method
    `none`.
    """

    key_id: str
    mac: bytes


class Confirm(Message, frozen=True, tag=4):
    """Head to node: the head's own proof. After it both sides are authenticated."""

    mac: bytes


class Attach(Message, frozen=True, tag=5):
    """Node to head, first after authentication: which export, and which session (0 to open one on a control
    channel).
    """

    export: str
    session: int
    freshness_ns: int
    lease_ns: int


class Identities(msgspec.Struct, frozen=True, array_like=True):
    """How users and groups of a tree appear on nodes: `uids` and `gids` are ranges (first, last, first on nodes).

    `anonuid` and `anongid`, in the tree's numbers, are whom root (`root_squash`) or everybody (`all_squash`) is.
    """

    root_squash: bool = False
    all_squash: bool = False
    anonuid: int = 65534
    anongid: int = 65534
    uids: list[tuple[int, int, int]] = []
    gids: list[tuple[int, int, int]] = []


class Welcome(Message, frozen=True, tag=6):
    """Head to node: the session is open. `boot` changes with every start of the head; handles die with it.

    `freshness_ns` is what the export allows instead of what the node asked for; 0 where it may have that. `acls`:
    whether files there may have POSIX ACLs, which the node's kernel should ask for.
    """

    session: int
    boot: int
    fragment_size: int
    block_size: int
    root: Attr
    head: str
    append_patterns: list[str] = []
    freshness_ns: int = 0
    identities: Identities | None = None
    acls: bool = False


class Refused(Message, frozen=True, tag=7):
    """Head to node: no; `code` is one of `RefusalCode`. The connection is closed after it."""

    code: str
    message: str


class RefusalCode(enum.StrEnum):
    WRONG_KEY = "wrong-key"
    UNKNOWN_EXPORT = "unknown-export"
    VERSION = "version"
    METHOD = "method"
    NOT_ALLOWED = "not-allowed"
    UNKNOWN_SESSION = "unknown-session"
    BUSY = "busy"
    DRAINING = "draining"


# --- requests on the control channel ------------------------------------------------------------------------


class Stat(Message, frozen=True, tag=10):
    """lstat of `path`; the reply is an `Entry`, also where nothing is there. `lease` asks the head to watch
    it.
    """

    path: bytes
    lease: bool = True


class List(Message, frozen=True, tag=11):
    """One page of a directory with all attributes; the reply is a `Listing`.

    `listing` is 0 for the first page, then the number of the previous page's reply; pages of one listing
    are one snapshot. An expired listing answers `Failed(ESTALE)`: begin again.
    """

    path: bytes
    listing: int = 0
    page: int = 0
    lease: bool = True


class Open(Message, frozen=True, tag=12):
    """Open a regular file; the reply is an `Opened`, its payload the whole file where that is small.

    `expect` is the (dev, ino) of the file that the node has open already (a reopen after a reconnect):
    another file under that name answers `Failed(ESTALE)`.
    """

    path: bytes
    expect: tuple[int, int] | None = None
    want_inline: bool = True


class Release(Message, frozen=True, tag=13):
    """The node uses these handles no more; the reply is `Done`."""

    handles: list[int]


class Statfs(Message, frozen=True, tag=14):
    """statvfs of the export; the reply is a `StatfsReply`."""


class Xattrs(Message, frozen=True, tag=15):
    """All `user.*` attributes and POSIX ACLs of `path`; the reply is an `XattrsReply`.

    With `children` of everything in the directory `path` instead: `ls -l` asks for them file by file.
    """

    path: bytes
    children: bool = False


class GiveBack(Message, frozen=True, tag=16):
    """The node no longer relies on the leases under these paths; the reply is `Done`."""

    paths: list[bytes]


class Keepalive(Message, frozen=True, tag=17):
    """Node to head, several times per `freshness`; answered by a pushed `Pass` with the same `sent_ns`."""

    sent_ns: int
    report: dict[str, int | float | str] = {}


class Resolve(Message, frozen=True, tag=18):
    """The version now current of an open `handle`; the reply is an `Entry` (fstat of the held descriptor)."""

    handle: int


class OpenAhead(Message, frozen=True, tag=19):
    """Open these files of the directory `path`, whose small files a reader goes through in order.

    The reply is an `OpenedAhead` with their contents. Only regular files of at most `INLINE_LIMIT` bytes are opened,
    and only as many as have `limit` bytes together.
    """

    path: bytes
    names: list[bytes]
    limit: int = AHEAD_BYTES


# --- requests on data channels (also allowed on the control channel) ----------------------------------------


class Read(Message, frozen=True, tag=20):
    """Blocks `first` .. `first + count - 1` of fragment `fragment` of open file `handle` in state `version`.

    `known` holds, for each of these blocks, the XXH3-64 that the node has from an earlier version, or 0: a
    block whose checksum is unchanged is not sent again. `prefetch` marks reads that no application waits
    for. The reply is `Blocks`, or `Changed` when the file is no longer in that state, or `Failed`.
    """

    handle: int
    version: Version
    fragment: int
    first: int
    count: int
    known: list[int] = []
    prefetch: bool = False


# --- replies ------------------------------------------------------------------------------------------------


class Entry(Message, frozen=True, tag=40):
    """What is at a path; `attr` is None where nothing is. `leased`: the head watches it and will push a
    change.
    """

    attr: Attr | None
    target: bytes | None = None
    leased: bool = False


class Item(msgspec.Struct, frozen=True, array_like=True):
    """One name of a directory; `target` is a symbolic link's text."""

    name: bytes
    attr: Attr
    target: bytes | None = None


class Listing(Message, frozen=True, tag=41):
    """One page of a directory. `listing` names the snapshot, `more` says that pages follow."""

    attr: Attr
    items: list[Item]
    listing: int
    more: bool
    leased: bool = False


class Opened(Message, frozen=True, tag=42):
    """An open file. The payload, if any, is the whole file: `attr.size` bytes with checksum `checksum`.

    `settled` False: the file changed so recently that its timestamps cannot prove the version; what was
    read of it must not be kept longer than `freshness`.
    """

    handle: int
    attr: Attr
    leased: bool
    inline: bool = False
    checksum: int = 0
    settled: bool = True


class OpenedAhead(Message, frozen=True, tag=49):
    """One `Opened` for each name of the `OpenAhead`, or None where that was not opened.

    The payload is the contents of those that are `inline`, one after the other.
    """

    files: list[Opened | None]


class Done(Message, frozen=True, tag=43):
    """It was done."""


class StatfsReply(Message, frozen=True, tag=44):
    """The fields of statvfs(3)."""

    bsize: int
    frsize: int
    blocks: int
    bfree: int
    bavail: int
    files: int
    ffree: int
    favail: int
    namemax: int


class XattrsReply(Message, frozen=True, tag=45):
    """Extended attributes by name; `children` has them by the name of the child, of those that have any."""

    values: dict[bytes, bytes]
    children: dict[bytes, dict[bytes, bytes]] = {}


class Encoding(enum.IntEnum):
    """How the payload of `Blocks` is encoded."""

    RAW = 0
    LZ4 = 1  # one LZ4 block (no size prefix) over the concatenated sent blocks


class Blocks(Message, frozen=True, tag=46):
    """Blocks of one fragment, all of one version.

    `checksums` has one XXH3-64 a requested block that lies within the file (fewer than asked at the end of
    the file). Bit i of `sent` is set where block `first + i` is in the payload; the others equal the
    `known` checksum. Of more than MOST_NAMED blocks all are sent, and `sent` is -1. `size` is the length of
    the payload once decoded. `tier` says where the head found it: `memory`, `ssd` or `origin`.
    """

    checksums: list[int]
    sent: int
    size: int
    encoding: int = 0
    settled: bool = True
    tier: str = "origin"


def all_sent(count: int) -> int:
    """`Blocks.sent` where all of `count` blocks are in the payload."""
    return (1 << count) - 1 if count <= MOST_NAMED else -1


class Changed(Message, frozen=True, tag=47):
    """The open file has another version now: these are its attributes. Nothing was read."""

    attr: Attr


class Failed(Message, frozen=True, tag=48):
    """The request failed with `errno`; `site` is the head's numbered error site, `message` speaks to a
    person.
    """

    errno: int
    message: str
    site: int = 0


# --- pushes (request id 0, control channel only) ------------------------------------------------------------


class Change(msgspec.Struct, frozen=True, array_like=True):
    """`path` is now `attr` (None: gone). `subtree`: everything remembered below it is void as well."""

    path: bytes
    attr: Attr | None
    target: bytes | None = None
    subtree: bool = False


class Changes(Message, frozen=True, tag=60):
    """The head saw these changes on leased paths."""

    changes: list[Change]


class OriginTrouble(msgspec.Struct, frozen=True, array_like=True):
    """One thing that is wrong with the mount of an origin; `late`: changes are seen late, else it is only slower."""

    text: str
    late: bool


class Pass(Message, frozen=True, tag=61):
    """Every change the head knew of when it received the `Keepalive` sent at `sent_ns` was pushed before
    this. `wall_ns` is the head's wall clock, for whoever wonders whether clocks agree; 0 where it does not say.
    `origin`: what is wrong with the mount that the export lies on; None where that is as it was said last.
    """

    sent_ns: int
    wall_ns: int = 0
    origin: list[OriginTrouble] | None = None


class LeasesLost(Message, frozen=True, tag=62):
    """The head no longer watches these paths and anything below (cap, overflow); `b""` is everything."""

    paths: list[bytes]


class Goodbye(Message, frozen=True, tag=63):
    """The head drains: reconnect after `retry_ns`."""

    retry_ns: int


Handshake = Hello | Challenge | Proof | Confirm | Attach | Welcome | Refused
Request = Stat | List | Open | Release | Statfs | Xattrs | GiveBack | Keepalive | Resolve | OpenAhead | Read
Reply = Entry | Listing | Opened | OpenedAhead | Done | StatfsReply | XattrsReply | Blocks | Changed | Failed
Push = Changes | Pass | LeasesLost | Goodbye
AnyMessage = Handshake | Request | Reply | Push

_encoder = msgspec.msgpack.Encoder()
_handshake_decoder = msgspec.msgpack.Decoder(Handshake)
_decoder = msgspec.msgpack.Decoder(AnyMessage)


def encode(message: Message) -> bytes:
    """The MessagePack bytes of `message`."""
    return _encoder.encode(message)


def decode(data: bytes | memoryview, *, handshake: bool = False) -> Message:
    """The message in `data`; only handshake messages are accepted where `handshake` is set.

    Raises `msgspec.DecodeError` (of which ValidationError is one) for anything that is not exactly a known message.
    """
    try:
        message: Message = _handshake_decoder.decode(data) if handshake else _decoder.decode(data)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(f"malformed message: {error}") from None
    return message
