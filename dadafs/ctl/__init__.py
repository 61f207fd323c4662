"""`dadafsctl`: what an admin does with a running head, or sees of a running mount.

`client` speaks with the sockets, `screens` makes what is read by people, `commands` is the command line.
"""
