"""What the tree is made of: nodes, directories, beliefs and places."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from dadafs.listing import Fields, Listing, Page
from dadafs.wire.messages import Attr

if TYPE_CHECKING:
    import trio

    from dadafs.ahead import Ahead
    from dadafs.listed_ahead import Walk

ROOT_ID = 1
#: Ids from here up are ours: objects of another device, or whose inode number is taken.
OWN_IDS = 1 << 63


class Belief:
    """What the head said about one name; `attr` None: nothing is there."""

    __slots__ = ("asked_at", "attr", "generation", "leased", "target")

    def __init__(self, attr: Attr | None, target: bytes | None, asked_at: float, generation: int, leased: bool) -> None:
        self.attr = attr
        self.target = target
        self.asked_at = asked_at
        self.generation = generation
        self.leased = leased


class Node:
    """One object that the kernel holds references to.

    `links` are the names it was seen under, newest last; `opens` counts open handles. `told` is the state the kernel
    was last told, `pages` the state that its cached pages belong to, None where unknown. `cut` is set when the kernel
    is through with a cut that it is being told of (see `dadafs.truncation`), `cut_taken_in` once it believes in the
    size. `doubtful`: pages were read while the file's times could not prove its state.
    """

    __slots__ = (
        "cut",
        "cut_taken_in",
        "dev",
        "doubtful",
        "id",
        "ino",
        "links",
        "lookups",
        "opens",
        "pages",
        "told",
        "xattrs",
    )

    def __init__(self, node_id: int, dev: int, ino: int) -> None:
        self.id = node_id
        self.dev = dev
        self.ino = ino
        self.links: list[tuple[Directory, bytes]] = []
        self.lookups = 0
        self.opens = 0
        self.doubtful = False
        self.cut: trio.Event | None = None
        self.cut_taken_in = False
        self.told: State | None = None
        self.pages: State | None = None
        self.xattrs: Xattrs | None = None


class Directory(Node):
    """A directory node: what is believed about the names in it, and the directory nodes directly below.

    `own` is the belief about its own attributes; it counts only when asked at or after `void_at`, the last time a
    push told of a name that came or went. `pins` counts nodes that are linked here. `places` are its pages whose
    names the kernel holds. `xattrs_asked` counts how often attributes of single children were asked for, `asked` how
    often the head was asked for single names since the directory was listed. `ahead`: what is opened ahead in it;
    `walk`: what is listed ahead; `gone_through`: the directory in it whose files were opened in order last, and when.
    """

    __slots__ = (
        "ahead",
        "asked",
        "charged",
        "child_xattrs",
        "gone_through",
        "listing",
        "names",
        "own",
        "pins",
        "places",
        "subdirs",
        "void_at",
        "walk",
        "xattrs_asked",
    )

    def __init__(self, node_id: int, dev: int, ino: int) -> None:
        super().__init__(node_id, dev, ino)
        self.own: Belief | None = None
        self.void_at = float("-inf")
        self.listing: Listing | None = None
        self.names: dict[bytes, Belief] = {}
        self.subdirs: dict[bytes, Directory] = {}
        self.places: dict[Page, Place] = {}
        self.pins = 0
        self.charged = 0
        self.child_xattrs: ChildXattrs | None = None
        self.xattrs_asked = 0
        self.asked = 0.0
        self.ahead: Ahead | None = None
        self.walk: Walk | None = None
        self.gone_through: tuple[bytes, float] | None = None


class Place:
    """A page of a listing some of whose names the kernel holds: `counts` are their lookup counts."""

    __slots__ = ("counts", "directory", "holders", "number", "page")

    def __init__(self, number: int, directory: Directory, page: Page) -> None:
        self.number = number
        self.directory = directory
        self.page = page
        self.counts = array("I", bytes(4 * page.count))
        self.holders = 0


#: What tells two states of a file apart: (size, mtime_ns, ctime_ns).
State = tuple[int, int, int]


def state_of(attr: Attr) -> State:
    """The state that `attr` describes."""
    return attr.size, attr.mtime_ns, attr.ctime_ns


def state_in(fields: Fields) -> State:
    """The same, of the fields of an `Attr`."""
    return fields[7], fields[11], fields[12]


class Xattrs:
    """The extended attributes of a node, as they were in the state `state`."""

    __slots__ = ("state", "values")

    def __init__(self, values: dict[bytes, bytes], state: State) -> None:
        self.values = values
        self.state = state


class ChildXattrs:
    """The extended attributes of everything that was in `listing`, by name, asked for at `asked_at`."""

    __slots__ = ("asked_at", "listing", "values")

    def __init__(self, listing: Listing, values: dict[bytes, dict[bytes, bytes]], asked_at: float) -> None:
        self.listing = listing
        self.values = values
        self.asked_at = asked_at
