"""The handshake without I/O: who gets in, and every attack on it that we know of."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from dadafs.wire import auth
from dadafs.wire.auth import ClientAuth, HeadHandshake, NodeHandshake, Refusal, ServerAuth
from dadafs.wire.frame import BEFORE_AUTHENTICATION
from dadafs.wire.keys import MAX_KEYS, Key, KeyRing
from dadafs.wire.messages import Challenge, Confirm, Hello, Proof, RefusalCode, encode

OLD, NEW = Key("old", b"o" * 32), Key("new", b"n" * 32)
RING = KeyRing([OLD])


@dataclass
class Talk:
    """Everything that was said in one handshake."""

    hello: Hello
    challenge: Challenge
    proof: Proof
    confirm: Confirm


def talk(client: ClientAuth, server: ServerAuth, *, encrypted: bool = False, loopback: bool = False) -> Talk:
    """A whole handshake; raises Refusal where either side refuses."""
    node = NodeHandshake(client, "node", "control")
    head = HeadHandshake(server, server.methods(encrypted=encrypted, loopback=loopback))
    hello = node.hello()
    challenge = head.challenge(hello, encode(hello))
    proof = node.proof(challenge, encode(challenge))
    confirm = head.confirm(proof)
    node.check(confirm)
    return Talk(hello, challenge, proof, confirm)


def refused(code: RefusalCode, client: ClientAuth, server: ServerAuth, **where: bool) -> None:
    with pytest.raises(Refusal) as caught:
        talk(client, server, **where)
    assert caught.value.code == code
    assert caught.value.message == str(caught.value)


def test_the_right_key_opens() -> None:
    said = talk(ClientAuth(RING), ServerAuth(RING))
    assert said.challenge.method == "psk"
    assert said.proof.key_id == "old"
    assert len(said.proof.mac) == len(said.confirm.mac) == 32
    assert said.proof.mac != said.confirm.mac


def test_no_secret_is_on_the_wire_or_in_a_repr() -> None:
    said = talk(ClientAuth(RING), ServerAuth(RING))
    wire = b"".join(encode(part) for part in (said.hello, said.challenge, said.proof, said.confirm))
    assert OLD.secret not in wire
    assert "oooo" not in repr(OLD) + repr(ClientAuth(RING)) + repr(NodeHandshake(ClientAuth(RING), "n", "data"))


def test_during_rotation_both_keys_open() -> None:
    both = ServerAuth(KeyRing([OLD, NEW]))
    assert talk(ClientAuth(KeyRing([OLD])), both).proof.key_id == "old"
    assert talk(ClientAuth(KeyRing([NEW])), both).proof.key_id == "new"
    # A node that has the new key already still gets in where the head has only the old one.
    assert talk(ClientAuth(KeyRing([NEW, OLD])), ServerAuth(RING)).proof.key_id == "old"


def test_a_wrong_key_is_refused_by_the_head() -> None:
    refused(RefusalCode.WRONG_KEY, ClientAuth(KeyRing([Key("old", b"x" * 32)])), ServerAuth(RING))


def test_an_unknown_key_is_refused() -> None:
    refused(RefusalCode.WRONG_KEY, ClientAuth(KeyRing([NEW])), ServerAuth(RING))
    head = HeadHandshake(ServerAuth(RING), ["psk"])
    hello = NodeHandshake(ClientAuth(RING), "n", "data").hello()
    head.challenge(hello, encode(hello))
    with pytest.raises(Refusal, match="not one that this head knows"):
        head.confirm(Proof("nonsense", b"m" * 32))
    for mac in (b"", b"m", b"m" * 32, b"m" * 1000):
        with pytest.raises(Refusal):
            head.confirm(Proof("old", mac))


def test_a_head_without_the_key_is_refused_by_the_node() -> None:
    node = NodeHandshake(ClientAuth(RING), "node", "control")
    node.hello()
    challenge = Challenge(1, "psk", b"c" * 32, ["old"])
    proof = node.proof(challenge, encode(challenge))
    for mac in (b"", b"m" * 32, proof.mac):  # the last is the node's own proof, reflected
        with pytest.raises(Refusal) as caught:
            node.check(Confirm(mac))
        assert caught.value.code == RefusalCode.WRONG_KEY


def test_a_proof_reflected_into_another_connection_does_not_open() -> None:
    """The attacker talks to the head as a node, and lets a real node answer the head's challenge as if it were his."""
    head = HeadHandshake(ServerAuth(RING), ["psk"])
    mine = Hello(1, 1, "control", "mallory", b"m" * 32, ["psk"])
    challenge = head.challenge(mine, encode(mine))
    victim = NodeHandshake(ClientAuth(RING), "victim", "control")
    victim.hello()
    stolen = victim.proof(challenge, encode(challenge))
    with pytest.raises(Refusal):
        head.confirm(stolen)


def test_a_replayed_handshake_does_not_open() -> None:
    said = talk(ClientAuth(RING), ServerAuth(RING))
    head = HeadHandshake(ServerAuth(RING), ["psk"])
    head.challenge(said.hello, encode(said.hello))
    with pytest.raises(Refusal):
        head.confirm(said.proof)


def test_a_replayed_head_does_not_deceive_a_node() -> None:
    said = talk(ClientAuth(RING), ServerAuth(RING))
    node = NodeHandshake(ClientAuth(RING), "node", "control")
    node.hello()
    node.proof(said.challenge, encode(said.challenge))
    with pytest.raises(Refusal):
        node.check(said.confirm)


@pytest.mark.parametrize(
    "change",
    [
        {"version_min": 0},
        {"version_max": 2},
        {"role": "data"},
        {"node": "other"},
        {"nonce": b"z" * 32},
        {"methods": ["psk", "none"]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_is_changed_in_hello_on_the_way_is_noticed(change: dict[str, object]) -> None:
    node = NodeHandshake(ClientAuth(RING), "node", "control")
    head = HeadHandshake(ServerAuth(RING), ["psk"])
    hello = node.hello()
    changed = Hello(**{**{name: getattr(hello, name) for name in hello.__struct_fields__}, **change})  # type: ignore[arg-type]
    challenge = head.challenge(changed, encode(changed))
    with pytest.raises(Refusal):
        head.confirm(node.proof(challenge, encode(challenge)))


def test_whatever_is_changed_in_the_challenge_on_the_way_is_noticed() -> None:
    for change in ({"nonce": b"z" * 32}, {"key_ids": ["old", "new"]}):
        node = NodeHandshake(ClientAuth(RING), "node", "control")
        head = HeadHandshake(ServerAuth(RING), ["psk"])
        hello = node.hello()
        challenge = head.challenge(hello, encode(hello))
        fields = {name: getattr(challenge, name) for name in challenge.__struct_fields__}
        changed = Challenge(**{**fields, **change})  # type: ignore[arg-type]
        with pytest.raises(Refusal):
            head.confirm(node.proof(changed, encode(changed)))


def test_a_node_with_a_key_cannot_be_talked_out_of_using_it() -> None:
    node = NodeHandshake(ClientAuth(RING), "node", "control")
    assert node.hello().methods == ["psk"]
    for method in ("none", "tls", "", "PSK"):
        challenge = Challenge(1, method, b"c" * 32)
        with pytest.raises(Refusal) as caught:
            node.proof(challenge, encode(challenge))
        assert caught.value.code == RefusalCode.METHOD


def test_a_version_that_the_node_does_not_speak_is_refused() -> None:
    for version in (0, 2, -1, 2**40):
        node = NodeHandshake(ClientAuth(RING), "node", "control")
        node.hello()
        challenge = Challenge(version, "psk", b"c" * 32, ["old"])
        with pytest.raises(Refusal) as caught:
            node.proof(challenge, encode(challenge))
        assert caught.value.code == RefusalCode.VERSION


@pytest.mark.parametrize(("lowest", "highest"), [(2, 3), (0, 0), (5, 1), (-7, -2)])
def test_versions_without_overlap_are_refused(lowest: int, highest: int) -> None:
    head = HeadHandshake(ServerAuth(RING), ["psk"])
    hello = Hello(lowest, highest, "control", "node", b"n" * 32, ["psk"])
    with pytest.raises(Refusal) as caught:
        head.challenge(hello, encode(hello))
    assert caught.value.code == RefusalCode.VERSION


def test_a_newer_node_is_met_at_the_version_of_the_head() -> None:
    head = HeadHandshake(ServerAuth(RING), ["psk"])
    hello = Hello(1, 9, "control", "node", b"n" * 32, ["psk"])
    assert head.challenge(hello, encode(hello)).version == 1


@pytest.mark.parametrize(
    ("change", "value"), [("role", "admin"), ("nonce", b"short"), ("nonce", b""), ("node", ""), ("node", "n" * 256),
                          ("node", "two\nlines"), ("node", "\x1b[31m")]
)  # fmt: skip
def test_improper_greetings_are_refused(change: str, value: object) -> None:
    good = Hello(1, 1, "control", "node", b"n" * 32, ["psk"])
    fields = {name: getattr(good, name) for name in good.__struct_fields__} | {change: value}
    hello = Hello(**fields)
    with pytest.raises(Refusal) as caught:
        HeadHandshake(ServerAuth(RING), ["psk"]).challenge(hello, encode(hello))
    assert caught.value.code == RefusalCode.NOT_ALLOWED


def test_nonces_are_fresh() -> None:
    first, second = talk(ClientAuth(RING), ServerAuth(RING)), talk(ClientAuth(RING), ServerAuth(RING))
    assert first.hello.nonce != second.hello.nonce
    assert first.challenge.nonce != second.challenge.nonce
    assert first.proof.mac != second.proof.mac


def test_the_names_of_as_many_keys_as_there_may_be_fit_into_a_challenge() -> None:
    ring = KeyRing([Key(f"{number:064d}", b"k" * 32) for number in range(MAX_KEYS)])
    head = HeadHandshake(ServerAuth(ring), ["psk"])
    hello = NodeHandshake(ClientAuth(RING), "n" * 255, "control").hello()
    assert len(encode(head.challenge(hello, encode(hello)))) < BEFORE_AUTHENTICATION.metadata
    assert len(encode(hello)) < BEFORE_AUTHENTICATION.metadata


# --- which method where -------------------------------------------------------------------------------------------


def test_without_authentication_only_where_it_was_said_so() -> None:
    assert talk(ClientAuth(), ServerAuth(allow_none=True)).challenge.method == "none"
    assert talk(ClientAuth(), ServerAuth(allow_none_on_loopback=True), loopback=True).proof == Proof("", b"")
    refused(RefusalCode.METHOD, ClientAuth(), ServerAuth(allow_none_on_loopback=True))
    refused(RefusalCode.METHOD, ClientAuth(), ServerAuth(RING))
    refused(RefusalCode.METHOD, ClientAuth(), ServerAuth(RING), loopback=True)
    refused(RefusalCode.METHOD, ClientAuth(), ServerAuth(), loopback=True)


def test_a_node_with_a_key_does_not_fall_back_to_a_head_without() -> None:
    refused(RefusalCode.METHOD, ClientAuth(RING), ServerAuth(allow_none=True))


def test_where_none_is_allowed_a_key_is_still_used_by_those_who_have_it() -> None:
    assert talk(ClientAuth(RING), ServerAuth(RING, allow_none=True)).challenge.method == "psk"


def test_what_was_refused_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refusal, match="accepts authentication by psk, the node offers none"):
        talk(ClientAuth(), ServerAuth(RING))
    strange = Hello(1, 1, "control", "node", b"n" * 32, ["\x1b[31m\nERROR fake line"])
    with pytest.raises(Refusal, match=r"the node offers nothing known here$"):
        HeadHandshake(ServerAuth(RING), ["psk"]).challenge(strange, encode(strange))
    monkeypatch.setattr(auth, "OLDEST_VERSION", 2)
    monkeypatch.setattr(auth, "PROTOCOL_VERSION", 3)
    old = Hello(1, 1, "control", "node", b"n" * 32, ["psk"])
    with pytest.raises(Refusal, match="speaks protocol versions 2 to 3, the node 1 to 1"):
        HeadHandshake(replace(ServerAuth(RING)), ["psk"]).challenge(old, encode(old))
