"""The handshake without I/O: what both sides say and check before anything else is served.

Method `psk`: both sides know a secret key. Each sends a fresh nonce; the node proves the key with an
HMAC-SHA256 over the whole transcript, then the head does. The proofs carry different labels, so one side's
proof cannot be reflected; they cover both nonces, so none can be replayed; and they cover the versions and
methods offered and chosen, so neither can be talked down. Method `tls`: the TLS layer below has
authenticated both sides. Method `none`: nobody has.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import ssl
from dataclasses import dataclass, field

from dadafs.wire.keys import KeyRing
from dadafs.wire.messages import (
    OLDEST_VERSION,
    PROTOCOL_VERSION,
    Challenge,
    Confirm,
    Hello,
    Proof,
    RefusalCode,
    encode,
)

NONCE_SIZE = 32
MAX_NODE_NAME = 255
ROLES = ("control", "data")

PSK = "psk"
TLS = "tls"
NONE = "none"


class Refusal(Exception):
    """This handshake ends here; `code` is one of `RefusalCode`, the message speaks to a person."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True)
class ClientAuth:
    """How a node authenticates: with a key, with certificates, or (neither given) not at all.

    Only what is configured is offered, so a head cannot talk a node that has a key out of using it.
    """

    keys: KeyRing | None = None
    tls: ssl.SSLContext | None = None

    @property
    def method(self) -> str:
        """The one method that this node offers."""
        return TLS if self.tls else PSK if self.keys else NONE


@dataclass(frozen=True)
class ServerAuth:
    """What a head demands. `allow_none`: strangers are welcome; `allow_none_on_loopback`: only those on
    this host.
    """

    keys: KeyRing | None = None
    tls: ssl.SSLContext | None = None
    allow_none: bool = False
    allow_none_on_loopback: bool = False

    def methods(self, *, encrypted: bool, loopback: bool) -> list[str]:
        """The methods acceptable on a connection, best first."""
        methods = []
        if encrypted and self.tls:
            methods.append(TLS)
        if self.keys:
            methods.append(PSK)
        if self.allow_none or (loopback and self.allow_none_on_loopback):
            methods.append(NONE)
        return methods


def _mac(secret: bytes, label: bytes, *parts: bytes) -> bytes:
    """HMAC-SHA256 over the label and each part, all with their length in front so that no two transcripts
    coincide.
    """
    digest = hmac.new(secret, digestmod=hashlib.sha256)
    for part in (label, *parts):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


@dataclass
class NodeHandshake:
    """The node's side: `hello`, then `proof` for the head's challenge, then `check` of its confirmation."""

    auth: ClientAuth
    node: str
    role: str
    _hello: bytes = b""
    _challenge: bytes = b""
    _proof: Proof = field(default_factory=lambda: Proof("", b""))
    _secret: bytes = field(default=b"", repr=False)
    version: int = 0

    def hello(self) -> Hello:
        """The first message."""
        nonce = os.urandom(NONCE_SIZE)
        hello = Hello(OLDEST_VERSION, PROTOCOL_VERSION, self.role, self.node, nonce, [self.auth.method])
        self._hello = encode(hello)
        return hello

    def proof(self, challenge: Challenge, raw: bytes) -> Proof:
        """The answer to `challenge`, which arrived as the bytes `raw`. Raises Refusal where it is not
        acceptable.
        """
        if not OLDEST_VERSION <= challenge.version <= PROTOCOL_VERSION:
            raise Refusal(RefusalCode.VERSION, f"the head chose protocol version {challenge.version}")
        if challenge.method != self.auth.method:
            raise Refusal(
                RefusalCode.METHOD,
                f"the head wants authentication {challenge.method!r}, this node is set up for {self.auth.method!r}",
            )
        if len(challenge.nonce) != NONCE_SIZE:
            raise Refusal(RefusalCode.METHOD, "the head sent a challenge of the wrong length")
        self.version, self._challenge = challenge.version, raw
        if self.auth.keys and self.auth.method == PSK:
            self._proof = self._psk_proof(self.auth.keys, challenge.key_ids)
        return self._proof

    def _psk_proof(self, keys: KeyRing, known: list[str]) -> Proof:
        key = keys.choose(known)
        if key is None:
            raise Refusal(RefusalCode.WRONG_KEY, "the head knows none of the keys in this node's key file")
        self._secret = key.secret
        return Proof(key.id, _mac(key.secret, b"dadafs 1 node", self._hello, self._challenge, key.id.encode()))

    def check(self, confirm: Confirm) -> None:
        """Raises Refusal unless the head has proved that it knows the key, too."""
        if self.auth.method != PSK:
            return
        proof = self._proof
        wanted = _mac(self._secret, b"dadafs 1 head", self._hello, self._challenge, proof.key_id.encode(), proof.mac)
        if not hmac.compare_digest(wanted, confirm.mac):
            raise Refusal(RefusalCode.WRONG_KEY, "what answers there does not know this node's key: it is not our head")


@dataclass
class HeadHandshake:
    """The head's side: `challenge` for the node's hello, then `confirm` for its proof.

    `methods` are those acceptable on this connection (`ServerAuth.methods`).
    """

    auth: ServerAuth
    methods: list[str]
    version: int = 0
    method: str = ""
    _hello: bytes = b""
    _challenge: bytes = b""

    def challenge(self, hello: Hello, raw: bytes) -> Challenge:
        """The answer to `hello`, which arrived as the bytes `raw`. Raises Refusal where there is none."""
        self._check(hello)
        self.version = min(hello.version_max, PROTOCOL_VERSION)
        if self.version < max(hello.version_min, OLDEST_VERSION):
            raise Refusal(
                RefusalCode.VERSION,
                f"this head speaks protocol versions {OLDEST_VERSION} to {PROTOCOL_VERSION}, "
                f"the node {hello.version_min} to {hello.version_max}: install the same release on both",
            )
        self.method = self._choose(hello.methods)
        key_ids = self.auth.keys.ids() if self.auth.keys and self.method == PSK else []
        challenge = Challenge(self.version, self.method, os.urandom(NONCE_SIZE), key_ids)
        self._hello, self._challenge = raw, encode(challenge)
        return challenge

    def _check(self, hello: Hello) -> None:
        if hello.role not in ROLES or len(hello.nonce) != NONCE_SIZE or not hello.node.isprintable():
            raise Refusal(RefusalCode.NOT_ALLOWED, "this is no proper greeting")
        if not 0 < len(hello.node) <= MAX_NODE_NAME:
            raise Refusal(RefusalCode.NOT_ALLOWED, "the node's name is empty or too long")

    def _choose(self, offered: list[str]) -> str:
        for method in self.methods:
            if method in offered:
                return method
        accepted = dict.fromkeys([*([TLS] if self.auth.tls else []), *self.methods])
        wanted = " or ".join(accepted) or "nothing from this address"
        # Only names that we know are repeated: what a stranger says must not get into logs and terminals.
        got = ", ".join(method for method in (TLS, PSK, NONE) if method in offered) or "nothing known here"
        raise Refusal(
            RefusalCode.METHOD,
            f"this head accepts authentication by {wanted}, the node offers {got}",
        )

    def confirm(self, proof: Proof) -> Confirm:
        """The head's own proof. Raises Refusal(wrong-key) unless `proof` is right."""
        if self.method != PSK or self.auth.keys is None:
            return Confirm(b"")
        key = self.auth.keys.get(proof.key_id)
        # An unknown key id costs the same work as a wrong proof, so that time tells nothing.
        secret = key.secret if key else os.urandom(NONCE_SIZE)
        transcript = (self._hello, self._challenge, proof.key_id.encode())
        right = hmac.compare_digest(_mac(secret, b"dadafs 1 node", *transcript), proof.mac)
        if key is None or not right:
            raise Refusal(RefusalCode.WRONG_KEY, "the node's key is not one that this head knows")
        return Confirm(_mac(secret, b"dadafs 1 head", *transcript, proof.mac))
