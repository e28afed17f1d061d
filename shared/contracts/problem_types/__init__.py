"""The catalogue of problem types: every `type` that a listener of this product answers has a page, made from here."""

from collections.abc import Mapping

from shared.contracts.problem_types.of_operators import OF_OPERATORS
from shared.contracts.problem_types.of_orders import OF_ORDERS
from shared.contracts.problem_types.of_requests import OF_REQUESTS
from shared.contracts.problem_types.of_things import OF_THINGS
from shared.contracts.problem_types.problem_type import ProblemType, by_slug

FOR_CLIENTS = (*OF_ORDERS, *OF_THINGS, *OF_REQUESTS)
CATALOGUE: Mapping[str, ProblemType] = by_slug((*FOR_CLIENTS, *OF_OPERATORS))
