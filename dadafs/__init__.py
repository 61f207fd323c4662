"""dadafs: the node's side, a read-only FUSE file system, and the wire contract (`dadafs.wire`) both sides share."""

__version__ = "0.1.0"
