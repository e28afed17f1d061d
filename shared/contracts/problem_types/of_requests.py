"""What every call can answer: requests without a valid token, that can't be read, or that can't be served now."""

from shared.contracts.problem_types.problem_type import ProblemType, Retry

OF_REQUESTS = (
    ProblemType(
        "unauthenticated",
        401,
        Retry.CORRECTED,
        "no token, or not a valid one; see `WWW-Authenticate`",
        "Send `Authorization: Bearer <token>`, with a token of the deployment's issuer that has not expired. The "
        "answer doesn't say what is wrong with a token; its issuer may know.",
    ),
    ProblemType(
        "forbidden",
        403,
        Retry.CORRECTED,
        "the token lacks the scope",
        "Ask the issuer for a token with the scope in `required_scope`. Without it, a user reads and changes only what "
        "is their own.",
        "`required_scope`",
    ),
    ProblemType(
        "misdirected",
        421,
        Retry.CORRECTED,
        "the request's user or order belongs to another cell of the platform, or its product to another product "
        "shard; nothing was begun",
        "If the body names another user than the caller, or a product, send the request with the header `X-Slot` and "
        "the value of `slot`. Else tell the operator: the router's maps differ from the cells' `CELL_SLOTS` or the "
        "shards' `PRODUCT_SLOTS`.",
        "`slot` (of users, of products, and of ids that contain one)",
    ),
    ProblemType(
        "malformed-body",
        400,
        Retry.CORRECTED,
        "not JSON, an object with a member twice, or a body shorter than its announced length",
        "Send one JSON object in UTF-8, with each member once. Don't close the connection within the body.",
    ),
    ProblemType(
        "validation-failed",
        422,
        Retry.CORRECTED,
        "JSON, but not valid input for this call",
        "Correct what `errors` lists, up to twenty at a time. Each has a `pointer` to the place and a `message`.",
        "`errors`",
    ),
    ProblemType(
        "body-too-large",
        413,
        Retry.CORRECTED,
        "more than 64 KiB",
        "Send less in one request. No call needs a body of that size.",
    ),
    ProblemType(
        "unsupported-media-type",
        415,
        Retry.CORRECTED,
        "not `application/json`, or encoded",
        "Send `Content-Type: application/json`, in UTF-8, without `Content-Encoding`.",
    ),
    ProblemType(
        "request-timeout",
        408,
        Retry.SAME,
        "the body did not arrive in time",
        "The connection is closed. Send the whole body without a pause, on a new connection.",
    ),
    ProblemType(
        "not-found",
        404,
        Retry.CORRECTED,
        "no such path",
        "Check the path: it has no slash at its end, and ids in it are percent-encoded. `/openapi.json` lists the "
        "paths of a service.",
    ),
    ProblemType(
        "method-not-allowed",
        405,
        Retry.CORRECTED,
        "the path doesn't have this method (`Allow` lists its methods)",
        "Use a method that `Allow` lists.",
    ),
    ProblemType(
        "bad-request",
        400,
        Retry.CORRECTED,
        "not valid HTTP",
        "The connection is closed. Use a library for HTTP/1.1. A proxy in between may have changed the request. The "
        "gateway also refuses paths that could be read in two ways, such as those with an encoded slash.",
    ),
    ProblemType(
        "expectation-failed",
        417,
        Retry.CORRECTED,
        "an `Expect` other than `100-continue`",
        "Leave the header `Expect` out.",
    ),
    ProblemType(
        "unavailable",
        503,
        Retry.SAME,
        "a dependency did not answer, the request's deadline has passed, too many requests wait, or this order process "
        "has no lease; the answer has `Retry-After`",
        "The operation may or may not have begun. With the same key, a repeat has no second effect. Without a key, "
        "first read whether it had an effect, and wait longer with each attempt.",
    ),
    ProblemType(
        "internal-error",
        500,
        Retry.SAME,
        "a bug, logged with its trace. No input should cause it",
        "Repeat the request a few times at most. Tell the operator the answer's `X-Request-Id`, which the log has too.",
    ),
)
