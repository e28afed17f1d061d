"""An issuer for tests: keys, JWK sets and tokens with any header and claims."""

import json
from typing import Any

from joserfc import jws
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey

from shared.identity.tokens import TokenRules

NOW = 1_800_000_000.0
RULES = TokenRules(issuer="https://issuer.test", audience="orders", algorithms=("RS256", "ES256", "Ed25519"))
RSA = RSAKey.generate_key(2048, {"kid": "rsa", "use": "sig"})
EC = ECKey.generate_key("P-256", {"kid": "ec"})
OKP = OKPKey.generate_key("Ed25519", {"kid": "okp"})
_ALL = jws.JWSRegistry(algorithms=list(jws.JWSRegistry.algorithms), strict_check_header=False)


def jwk_set(*keys: Key, **more: Any) -> bytes:
    """Return the public JWK set of some keys."""
    return json.dumps({"keys": [{**key.as_dict(private=False), **more} for key in keys]}).encode()


def claims(**changes: Any) -> dict[str, Any]:
    """Return valid claims with changes; a claim that is changed to None is left out."""
    valid = {"iss": RULES.issuer, "aud": RULES.audience, "exp": NOW + 60, "nbf": NOW - 60, "sub": "alice", "scope": ""}
    return {name: value for name, value in {**valid, **changes}.items() if value is not None}


def sign(payload: Any = None, key: Key = RSA, algorithm: str = "RS256", **header: Any) -> str:
    """Return a signed token; `payload` is encoded as JSON unless it is bytes. A header of None is left out."""
    head = {"alg": algorithm, "typ": "at+jwt", "kid": key.kid, **header}
    body = payload if isinstance(payload, bytes) else json.dumps(claims() if payload is None else payload).encode()
    return jws.serialize_compact({k: v for k, v in head.items() if v is not None}, body, key, registry=_ALL)


def secret(text: bytes, kid: str) -> OctKey:
    """Return a symmetric key."""
    return OctKey.import_key(text, {"kid": kid})
