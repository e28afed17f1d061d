"""Run by either version: prints the schemas of its internal models, or reads messages and prints those it refuses.

It uses nothing but `shared.contracts`, because the other version runs it too.
"""

import json
import sys

from pydantic import BaseModel, ValidationError

from shared.contracts import books, commands

MODELS = {
    name: model
    for module in (commands, books)
    for name, model in vars(module).items()
    if isinstance(model, type) and issubclass(model, BaseModel) and model.__module__ == module.__name__
}


def main() -> None:
    """Print JSON: without messages on standard input the schemas by model, otherwise a line for each refused one."""
    messages = json.loads(sys.stdin.read() or "null")
    if messages is None:
        print(json.dumps({name: model.model_json_schema() for name, model in MODELS.items()}))
        return
    refused = []
    for name, message in messages:
        try:
            MODELS[name].model_validate_json(json.dumps(message))
        except ValidationError as error:
            refused.append(f"{name} {message}: {error}")
    print(json.dumps(refused))


main()
