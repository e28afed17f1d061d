"""A token is believed only with the issuer's signature, for this audience, and while it is valid."""

import base64
import json
from typing import Any

import pytest
from joserfc import jwe
from joserfc.jwk import ECKey, RSAKey

from shared.contracts.scopes import Scope
from shared.identity.callers import Caller, Forbidden
from shared.identity.tokens import LEEWAY_SECONDS, TOKEN_MAX, TokenRefused, UnknownKey, read_keys, verify
from tests.infrastructure.issuer import EC, NOW, OKP, RSA, RULES, claims, jwk_set, secret, sign

KEYS = read_keys(jwk_set(RSA, EC, OKP))


def accepted(token: str, now: float = NOW) -> Caller:
    return verify(token, KEYS, RULES, now)


def refused(token: str, now: float = NOW) -> str:
    with pytest.raises(TokenRefused) as caught:
        verify(token, KEYS, RULES, now)
    return str(caught.value)


@pytest.mark.parametrize(("key", "algorithm"), [(RSA, "RS256"), (EC, "ES256"), (OKP, "Ed25519")])
def test_signed_token_names_its_caller(key: Any, algorithm: str) -> None:
    caller = accepted(sign(claims(scope="ops:read catalog:write"), key, algorithm))
    assert caller == Caller("alice", frozenset({"ops:read", "catalog:write"}), NOW + 60 + LEEWAY_SECONDS)


@pytest.mark.parametrize("kind", ["at+jwt", "AT+JWT", "application/at+jwt", "JWT"])
def test_type_is_compared_as_a_media_type(kind: str) -> None:
    assert accepted(sign(typ=kind)).subject == "alice"


@pytest.mark.parametrize("kind", ["id+jwt", "logout+jwt", "", None, 5, ["JWT"]])
def test_token_of_another_type_is_refused(kind: Any) -> None:
    forged = _raw({"alg": "RS256", "kid": "rsa", **({} if kind is None else {"typ": kind})})
    assert refused(forged) == "it is of another type"


@pytest.mark.parametrize("audience", ["orders", ["others", "orders"]])
def test_audience_is_one_name_or_a_list(audience: Any) -> None:
    assert accepted(sign(claims(aud=audience))).subject == "alice"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"iss": "https://issuer.test/"}, "it is of another issuer"),
        ({"iss": None}, "it is of another issuer"),
        ({"iss": ["https://issuer.test"]}, "it is of another issuer"),
        ({"aud": "Orders"}, "it is for another audience"),
        ({"aud": None}, "it is for another audience"),
        ({"aud": []}, "it is for another audience"),
        ({"aud": {"orders": 1}}, "it is for another audience"),
        ({"exp": None}, "it never expires"),
        ({"exp": NOW - LEEWAY_SECONDS}, "it has expired"),
        ({"exp": str(NOW + 60)}, "its exp is no timestamp"),
        ({"exp": True}, "its exp is no timestamp"),
        ({"exp": float("nan")}, "its exp is no timestamp"),
        ({"exp": float("inf")}, "its exp is no timestamp"),
        ({"exp": 10**400}, "its exp is no timestamp"),
        ({"nbf": NOW + LEEWAY_SECONDS + 1}, "it is not valid yet"),
        ({"nbf": "now"}, "its nbf is no timestamp"),
        ({"sub": None}, "its subject is no user id"),
        ({"sub": ""}, "its subject is no user id"),
        ({"sub": 7}, "its subject is no user id"),
        ({"sub": "a" * 129}, "its subject is no user id"),
        ({"sub": "a\x00b"}, "its subject is no user id"),
        ({"sub": "\ud800"}, "its subject is no user id"),
        ({"scope": ["ops"]}, "its scope is no text"),
    ],
)
def test_claims_that_are_wrong_are_refused_by_name(changes: dict[str, Any], reason: str) -> None:
    assert refused(sign(claims(**changes))) == reason


def test_clocks_may_differ_by_the_leeway() -> None:
    assert accepted(sign(claims(exp=NOW)), NOW + LEEWAY_SECONDS - 0.1).subject == "alice"
    assert accepted(sign(claims(nbf=NOW)), NOW - LEEWAY_SECONDS).subject == "alice"


def _raw(header: Any, payload: Any = None, signature: bytes = b"x" * 256) -> str:
    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).decode().rstrip("=")

    return ".".join(
        (part(json.dumps(header).encode()), part(json.dumps(payload or claims()).encode()), part(signature))
    )


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", None, ["RS256"], {"RS256": 1}])
def test_token_without_a_signature_is_refused(algorithm: Any) -> None:
    header = {"alg": algorithm, "kid": "rsa", "typ": "JWT"}
    assert refused(_raw(header, signature=b"")) in ("its algorithm is not allowed", "it is no JWT")


def test_public_key_is_no_shared_secret() -> None:
    # Tools refuse a PEM file as a secret; an attacker would not.
    for text in (str(RSA.as_dict(private=False)["n"]).encode(), jwk_set(RSA)):
        assert refused(sign(key=secret(text, "rsa"), algorithm="HS256")) == "its algorithm is not allowed"


def test_key_of_another_kind_than_the_algorithm_is_refused() -> None:
    forged = sign(key=EC, algorithm="ES256", kid="rsa")
    assert refused(forged) == "its signature is wrong"
    assert refused(sign(kid="ec")) == "its signature is wrong"


def test_algorithm_that_is_not_configured_is_refused() -> None:
    assert refused(sign(algorithm="PS256")) == "its algorithm is not allowed"


def test_key_that_the_token_brings_along_is_not_used() -> None:
    mine = ECKey.generate_key("P-256", {"kid": "ec"})
    public = mine.as_dict(private=False)
    for header in ({"jwk": public}, {"jku": "https://evil.test/keys"}, {"x5u": "https://evil.test/certificate"}):
        assert refused(sign(key=mine, algorithm="ES256", **header)) == "its signature is wrong"
    assert refused(sign(key=mine, algorithm="ES256", kid="mine", jwk=public)) == "its key is unknown"


@pytest.mark.parametrize("kid", ["../../dev/null", "' OR 1=1 --", "rsa\x00", "", "RSA", "https://evil.test/keys"])
def test_key_id_is_only_looked_up(kid: str) -> None:
    with pytest.raises(UnknownKey) as caught:
        accepted(sign(kid=kid))
    assert caught.value.kid == kid


@pytest.mark.parametrize("kid", [None, 5, ["rsa"], {"rsa": 1}])
def test_token_without_a_key_id_is_refused(kid: Any) -> None:
    header = {"alg": "RS256", "typ": "JWT", **({} if kid is None else {"kid": kid})}
    assert refused(_raw(header)) == "it names no key"


@pytest.mark.parametrize("header", [{"crit": ["exp"], "exp": 1}, {"crit": []}, {"b64": False, "crit": ["b64"]}])
def test_token_that_asks_for_an_extension_is_refused(header: dict[str, Any]) -> None:
    forged = _raw({"alg": "RS256", "kid": "rsa", "typ": "JWT", **header})
    assert refused(forged) in ("it asks for an extension", "it is no JWT")


def test_changed_token_is_refused() -> None:
    head, body, signature = sign().split(".")
    other = sign(claims(sub="bob")).split(".")[1]
    assert refused(f"{head}.{other}.{signature}") == "its signature is wrong"
    assert refused(f"{head}.{body}.{signature[:-8]}AAAAAAAA") == "its signature is wrong"
    assert refused(f"{head}.{body}.") == "its signature is wrong"


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "a.b", "a.b.c", "a.b.c.d.e", "é.b.c", "[].[].[]", "\ud800", "a" * (TOKEN_MAX + 1), "W10.W10.W10"],
)
def test_text_that_is_no_token_is_refused(text: str) -> None:
    refused(text)


@pytest.mark.parametrize("payload", [b"", b"[]", b"null", b"\xff", b"{", b"[" * 100_000, b'"alice"'])
def test_claims_that_are_no_object_are_refused(payload: bytes) -> None:
    refused(sign(payload))


def test_key_set_keeps_what_can_verify_signatures() -> None:
    weak = {**RSA.as_dict(private=False), "kid": "weak", "n": "3q2-7w"}
    document = {
        "keys": [
            RSA.as_dict(private=True),
            {**EC.as_dict(private=False), "use": "enc"},
            {"kty": "oct", "kid": "shared", "k": "c2VjcmV0"},
            {"kty": "ML-DSA", "kid": "later"},
            {key: value for key, value in OKP.as_dict(private=False).items() if key != "kid"},
            {"kty": "EC", "kid": "broken", "crv": "P-256", "x": "!", "y": 5},
            weak,
            "no object",
        ]
    }
    keys = read_keys(json.dumps(document).encode())
    assert set(keys) == {"rsa"}
    assert not keys["rsa"].is_private


@pytest.mark.parametrize(
    "document", [b"", b"[]", b"{}", b'{"keys": {}}', json.dumps({"keys": [{}] * 101}).encode(), b"[" * 100_000]
)
def test_document_that_is_no_key_set_is_refused(document: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        read_keys(document)


def test_key_is_used_for_its_own_algorithm_only() -> None:
    keys = read_keys(jwk_set(RSA, alg="RS512"))
    with pytest.raises(TokenRefused):
        verify(sign(), keys, RULES, NOW)


def test_scope_to_change_also_allows_to_read() -> None:
    caller = Caller("alice", frozenset({"orders:write"}))
    assert caller.has(Scope.ORDERS_READ)
    assert not Caller("alice", frozenset({"orders:read"})).has(Scope.ORDERS_WRITE)
    with pytest.raises(Forbidden) as caught:
        caller.require(Scope.CATALOG_WRITE)
    assert caught.value.problem()["required_scope"] == "catalog:write"


def test_caller_acts_for_themself_or_with_a_scope() -> None:
    assert Caller("alice").acts_for("alice", Scope.ORDERS_READ)
    assert not Caller("alice").acts_for("bob", Scope.ORDERS_READ)
    assert Caller("alice", frozenset({"orders:read"})).acts_for("bob", Scope.ORDERS_READ)
    assert Caller(None).acts_for("bob", Scope.ORDERS_WRITE)


@pytest.mark.parametrize("member", ["iss", "aud", "exp", "sub", "scope"])
def test_claim_that_is_given_twice_is_refused(member: str) -> None:
    twice = json.dumps(claims(scope="ops"))[:-1] + f', "{member}": "ops"}}'
    assert refused(sign(twice.encode())) == "its claims are no JSON"


def test_header_that_is_given_twice_is_refused() -> None:
    _, payload, signature = sign().split(".")
    head = base64.urlsafe_b64encode(b'{"alg": "none", "alg": "RS256", "typ": "JWT", "kid": "rsa"}').decode().rstrip("=")
    assert refused(f"{head}.{payload}.{signature}") == "it is no JWT"


def test_encrypted_token_is_refused() -> None:
    key = RSAKey.import_key({name: value for name, value in RSA.as_dict(private=True).items() if name != "use"})
    header = {"alg": "RSA-OAEP-256", "enc": "A256GCM", "kid": "rsa", "typ": "JWT"}
    allowed = [header["alg"], header["enc"]]
    for encrypted in (
        jwe.encrypt_compact(header, json.dumps(claims()).encode(), key, allowed),
        jwe.encrypt_compact({**header, "cty": "JWT"}, sign().encode(), key, allowed),
    ):
        assert refused(encrypted) == "it is no JWT"


def test_token_inside_a_token_is_refused() -> None:
    for inner in (sign().encode(), json.dumps(sign()).encode()):
        assert refused(sign(inner, cty="JWT")) in ("its claims are no JSON", "its claims are no object")


def test_certificate_that_the_token_brings_along_is_not_used() -> None:
    mine = ECKey.generate_key("P-256", {"kid": "ec"})
    for header in (
        {"x5c": ["MIIB"]},
        {"x5t": "eA"},
        {"x5t#S256": "eA"},
        {"jku": "http://169.254.169.254/", "x5u": "http://[::1]/"},
    ):
        assert refused(sign(key=mine, algorithm="ES256", **header)) == "its signature is wrong"


def test_long_key_id_is_only_looked_up() -> None:
    with pytest.raises(UnknownKey):
        accepted(sign(kid="../" * 100))
    assert refused(_raw({"alg": "RS256", "typ": "JWT", "kid": "../" * 1500})) == "it is no JWT"
    assert refused(_raw({"alg": "RS256", "typ": "JWT", "kid": "x" * TOKEN_MAX})) == "it is too long"


def test_token_of_the_longest_size_is_accepted_and_a_longer_one_refused() -> None:
    padding = TOKEN_MAX - len(sign(claims(extra="")))
    fitting = sign(claims(extra="x" * (padding * 3 // 4 - 2)))
    assert len(fitting) <= TOKEN_MAX
    assert accepted(fitting).subject == "alice"
    assert refused(sign(claims(extra="x" * padding))) == "it is too long"
