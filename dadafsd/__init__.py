"""dadafsd: the head node, which caches fragments and metadata of an origin tree and serves them to nodes."""
