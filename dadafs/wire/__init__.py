"""The wire contract between node and head. Imports neither side.

`messages` names what is said, `frame` how it is framed, `auth` how two peers prove who they are, `channel`
moves frames over a trio stream, `client` and `server` open authenticated channels. See docs/protocol.md.
"""
