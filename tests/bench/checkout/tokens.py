"""A token for each user of the catalogue, and the settings of services that ask for them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from joserfc.jwk import ECKey

from deploy.issuer.__main__ import Issuer
from deploy.local.configuration import AUDIENCE, PARTICIPANTS, jwt_environment
from deploy.local.folder import write_secrets
from tests.bench.checkout.catalogue import USERS

ISSUER = "https://issuer.bench"
QUOTA = {
    # Far more than a user of the catalogue begins, so that each checkout is counted and none is refused.
    "ORDER_SUBJECT_SAGAS_MAX": "1000000",
    "ORDER_SUBJECT_STARTS_PER_MINUTE": "1000000",
}


@dataclass(frozen=True, slots=True)
class UserTokens:
    """Tokens, the issuer's public key, and the secrets of the order service and the audit, in files of a folder."""

    folder: Path

    @property
    def file(self) -> Path:
        """Return the file with a line for each user."""
        return self.folder / "tokens"

    def create(self) -> "UserTokens":
        """Create all files."""
        issuer = Issuer(ECKey.generate_key("P-256", auto_kid=True), ISSUER, AUDIENCE)
        self.file.write_text("".join(f"{issuer.token(f'u-{number}', '')}\n" for number in range(USERS)))
        self.keys.write_text(json.dumps(issuer.key_set()))
        for name in PARTICIPANTS:
            write_secrets(self._secrets(name))
        return self

    def settings(self, internal_ports: Mapping[str, int]) -> dict[str, str]:
        """Return the settings of these services."""
        urls = {
            f"ORDER_{name.upper()}_URL": f"http://127.0.0.1:{port}"
            for name, port in internal_ports.items()
            if name in PARTICIPANTS
        }
        return QUOTA | urls | jwt_environment(ISSUER, str(self.keys), internal_ports, self._secrets)

    @property
    def keys(self) -> Path:
        """Return the file with the issuer's public key."""
        return self.folder / "keys.json"

    def _secrets(self, participant: str) -> Path:
        return self.folder / participant
