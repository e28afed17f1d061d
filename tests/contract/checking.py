"""A client that checks every answer against the service's own OpenAPI document."""

import re
from collections.abc import Mapping
from typing import Any

import aiohttp
from openapi_schema_validator import OAS31Validator, oas31_format_checker
from yarl import URL

from tests.infrastructure.services import Answer, Client

Document = Mapping[str, Any]


class CheckedClient(Client):
    """Calls one service; an answer that its document doesn't describe fails the test."""

    def __init__(self, session: aiohttp.ClientSession, url: str, document: Document) -> None:
        super().__init__(session, url)
        self.document = document
        self._operations = [
            (method.upper(), re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path))), operation)
            for path, operations in document["paths"].items()
            for method, operation in operations.items()
        ]

    async def call(self, method: str, path: str | URL, body: Any = None, **options: Any) -> Answer:
        """Call the service, and check the answer."""
        answer = await super().call(method, path, body, **options)
        operation = self._operation(method, URL(path, encoded=True) if isinstance(path, str) else path)
        if operation is not None:
            self._check(operation, answer)
        return answer

    def _operation(self, method: str, path: URL) -> Document | None:
        for known, pattern, operation in self._operations:
            if known == method and pattern.fullmatch(path.raw_path):
                found: Document = operation
                return found
        return None

    def _check(self, operation: Document, answer: Answer) -> None:
        name = operation["operationId"]
        assert str(answer.status) in operation["responses"], f"{name} does not document {answer}"
        response = operation["responses"][str(answer.status)]
        content = response["content"]
        assert answer.content_type in content, f"{name} documents {list(content)}, not {answer.content_type}"
        for header, described in response["headers"].items():
            self._check_header(header, described, answer)
        schema = {**content[answer.content_type]["schema"], "components": self.document["components"]}
        validator = OAS31Validator(schema, format_checker=oas31_format_checker)
        errors = [f"{list(error.absolute_path)}: {error.message}" for error in validator.iter_errors(answer.body)]
        assert not errors, f"{name} answers {answer.status} otherwise than documented: {errors}"

    def _check_header(self, name: str, described: Document, answer: Answer) -> None:
        if "$ref" in described:
            described = self.document["components"]["headers"][described["$ref"].rpartition("/")[2]]
        value = answer.headers.get(name)
        if value is None:
            assert not described["required"], f"{answer} has no {name}"
        else:
            written = int(value) if described["schema"]["type"] == "integer" else value
            OAS31Validator(described["schema"], format_checker=oas31_format_checker).validate(written)
