"""P5: a directory of 200,000 names, listed and known to the kernel, fits into the node's margin of memory."""

from __future__ import annotations

import subprocess
import sys
import textwrap

SCRIPT = textwrap.dedent(
    """
    import sys, time
    from dadafs.listing import Listing, ListingBuilder
    from dadafs.policy.lease import LeaseClock
    from dadafs.report import resident_bytes
    from dadafs.tree import Tree
    from dadafs.wire.messages import Attr, Item
    from tests.t0_tree import Budget, root_attr

    tree = Tree(root_attr(), LeaseClock(1.0), Budget(), asked_at=0.0)
    before, now = resident_bytes(), time.time_ns()
    builder = ListingBuilder()
    for page in range(49):
        numbers = range(page * 4096, min(200_000, (page + 1) * 4096))
        builder.take(page, [
            Item(b"scan_%06d_data_with_a_long_name.h5" % n,
                 Attr(1, 10**9 + n, 0o100644, 1, 1000, 1000, 0, n * 1000, n, 4096, now + n, now + n, now + n))
            for n in numbers
        ])
    listing = Listing(root_attr(), builder.pages, asked_at=0.0, generation=1, leased=False)
    tree.beliefs.learn_listing(tree.root, listing)
    for page, index in listing:
        dev, ino = page.fields(index)[:2]
        tree.listed(tree.root, page, index, tree.id_of(dev, ino))
    assert tree.statistics()["listed_nodes"] == 200_000
    print(resident_bytes() - before, tree._budget.charged)
    """
)


def test_200000_names_fit_into_the_margin() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    grown, charged = map(int, done.stdout.split())
    assert grown < 64 << 20
    assert grown < 1.3 * charged, "what is used is charged"
