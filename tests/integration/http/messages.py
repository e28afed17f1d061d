"""Messages for each rule of RFC 9110 and RFC 9112, with the expected answers."""

THING = b'{"name":"cup"}'
CHUNKS = b"e\r\n" + THING + b"\r\n0\r\n\r\n"
LENGTH = b"Content-Length: 14\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
JSON = b"Content-Type: application/json\r\n"
HOST = b"Host: x\r\n"
CONTINUE = b"Expect: 100-continue\r\n"


def get(
    path: bytes = b"/v1/things",
    headers: bytes = b"",
    *,
    method: bytes = b"GET",
    version: bytes = b"HTTP/1.1",
    host: bytes = HOST,
) -> bytes:
    """Return a request without a body."""
    return method + b" " + path + b" " + version + b"\r\n" + host + headers + b"\r\n"


def post(
    headers: bytes = LENGTH,
    body: bytes = THING,
    *,
    path: bytes = b"/v1/things",
    version: bytes = b"HTTP/1.1",
    media_type: bytes = JSON,
) -> bytes:
    """Return a request with a body."""
    return get(path, media_type + headers, method=b"POST", version=version) + body


# The bytes that are sent, and the expected statuses, including interim answers.
MESSAGES: dict[str, tuple[bytes, list[int]]] = {
    # 9110, 10.1.1: the expectations before the body is sent.
    "an expectation with its body": (post(CONTINUE + LENGTH), [201]),
    "an expectation with half of its body": (post(CONTINUE + LENGTH, THING[:5]), [100]),
    "an expectation before its body": (post(CONTINUE + LENGTH, b""), [100]),
    "an expectation before its chunks": (post(CONTINUE + CHUNKED, b""), [100]),
    "an expectation in capitals": (post(b"EXPECT: 100-CONTINUE\r\n" + LENGTH, b""), [100]),
    "an expectation said twice": (post(CONTINUE + CONTINUE + LENGTH, b""), [100]),
    "an expectation in HTTP/1.0": (post(CONTINUE + LENGTH, version=b"HTTP/1.0"), [201]),
    "an unknown expectation": (post(b"Expect: patience\r\n" + LENGTH), [417]),
    "an unknown expectation before its body": (post(b"Expect: patience\r\n" + LENGTH, b""), [417]),
    "an unknown expectation beside a known one": (post(CONTINUE + b"Expect: patience\r\n" + LENGTH), [417]),
    "an unknown expectation in a list": (post(b"Expect: 100-continue, patience\r\n" + LENGTH), [417]),
    "an unknown expectation without a body": (get(headers=b"Expect: patience\r\n"), [417]),
    "an unknown expectation in HTTP/1.0": (post(b"Expect: patience\r\n" + LENGTH, version=b"HTTP/1.0"), [201]),
    "an expectation of nothing": (post(b"Expect:\r\n" + LENGTH), [201]),
    "an expectation without a body": (get(headers=CONTINUE), [200]),
    "an expectation of a probe": (get(b"/livez", CONTINUE), [200]),
    "an expectation with too large a body": (post(CONTINUE + b"Content-Length: 70000\r\n", b""), [413]),
    "an expectation with no JSON": (post(CONTINUE + LENGTH, b"", media_type=b"Content-Type: text/plain\r\n"), [415]),
    "an expectation at no path": (post(CONTINUE + LENGTH, b"", path=b"/nowhere"), [404]),
    "an expectation of a wrong method": (post(CONTINUE + LENGTH, b"", path=b"/livez"), [405]),
    "an expectation without room": (post(CONTINUE + LENGTH, b"", path=b"/v1/things/crowd"), [503]),
    "an expectation without room, with its body": (post(CONTINUE + LENGTH, path=b"/v1/things/crowd"), [503]),
    "an unknown expectation without room": (post(b"Expect: patience\r\n" + LENGTH, path=b"/v1/things/crowd"), [417]),
    "an expectation in HTTP/1.0 without room": (
        post(CONTINUE + LENGTH, path=b"/v1/things/crowd", version=b"HTTP/1.0"),
        [503],
    ),
    # 9112, 6: where a body ends.
    "chunks": (post(CHUNKED, CHUNKS), [201]),
    "chunks with extensions and trailers": (
        post(CHUNKED, b"e;a=b\r\n" + THING + b"\r\n0;c\r\nX-Trailer: 1\r\n\r\n"),
        [201],
    ),
    "chunks in capitals": (post(b"Transfer-Encoding: CHUNKED\r\n", CHUNKS), [201]),
    "chunks in HTTP/1.0": (post(CHUNKED, CHUNKS, version=b"HTTP/1.0"), [400]),
    "chunks of a further coding": (post(b"Transfer-Encoding: gzip, chunked\r\n", CHUNKS), [400]),
    "chunks of a further coding, in two lines": (
        post(b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", CHUNKS),
        [400],
    ),
    "chunks of a further coding, without room": (
        post(b"Transfer-Encoding: gzip, chunked\r\n", CHUNKS, path=b"/v1/things/crowd"),
        [400],
    ),
    "a coding after chunks": (post(b"Transfer-Encoding: chunked, gzip\r\n", CHUNKS), [400]),
    "no coding that is known": (post(b"Transfer-Encoding: identity\r\n"), [400]),
    "a length and chunks": (post(LENGTH + CHUNKED, CHUNKS), [400]),
    "a length in words": (post(b"Content-Length: ten\r\n"), [400]),
    "a length twice": (post(LENGTH + LENGTH), [400]),
    "a length with a sign": (post(b"Content-Length: +14\r\n"), [400]),
    "a length with an underscore": (post(b"Content-Length: 1_4\r\n"), [400]),
    "a body to GET": (get(headers=LENGTH) + THING, [200]),
    "no body and no length": (post(b"", b"", path=b"/v1/things/cup/act"), [200]),
    "a body without its length in HTTP/1.0": (post(b"", b"", version=b"HTTP/1.0"), [400]),
    # 9112, 3.2: the target of a request.
    "no host": (get(host=b""), [400]),
    "no host in HTTP/1.0": (get(host=b"", version=b"HTTP/1.0"), [200]),
    "two hosts": (get(host=b"Host: x\r\nHost: y\r\n"), [400]),
    "an empty host": (get(host=b"Host:\r\n"), [200]),
    "a host with a port": (get(host=b"Host: x:8001\r\n"), [200]),
    "a host by IPv6": (get(host=b"Host: [::1]:8001\r\n"), [200]),
    "a host with a space": (get(host=b"Host: a b\r\n"), [400]),
    "a host with a path": (get(host=b"Host: a/b\r\n"), [400]),
    "a host with a user": (get(host=b"Host: user@x\r\n"), [400]),
    "a host with a port in words": (get(host=b"Host: x:y\r\n"), [400]),
    "a host with a space in HTTP/1.0": (get(host=b"Host: a b\r\n", version=b"HTTP/1.0"), [400]),
    "a host with a space, without room": (
        post(b"Content-Length: 14\r\n", path=b"/v1/things/crowd").replace(HOST, b"Host: a b\r\n"),
        [400],
    ),
    "an absolute address": (get(b"http://y/v1/things"), [200]),
    "an absolute address of an entry": (get(b"http://y:8001/v1/things/cup"), [200]),
    "an absolute address, created": (post(path=b"http://y:8001/v1/things"), [201]),
    "an absolute address without room": (post(path=b"http://y:8001/v1/things/crowd"), [503]),
    "an absolute address without a host": (get(b"http://y/v1/things", host=b""), [400]),
    "an absolute address without a path": (get(b"http://y"), [404]),
    "an asterisk": (get(b"*", method=b"OPTIONS"), [404]),
    "a tunnel": (get(b"x:443", method=b"CONNECT"), [404]),
    # 9112, 2.3 and 3: which version.
    "HTTP/0.9": (b"GET /v1/things\r\n\r\n", [400]),
    "HTTP/0.9 by name": (get(version=b"HTTP/0.9"), [400]),
    "HTTP/1.0": (get(version=b"HTTP/1.0"), [200]),
    "HTTP/1.2": (get(version=b"HTTP/1.2"), [400]),
    "HTTP/2.0": (get(version=b"HTTP/2.0"), [400]),
    "HTTP/2.0 without room": (post(path=b"/v1/things/crowd", version=b"HTTP/2.0"), [400]),
    "HTTP/2's preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400]),
    "HTTP in lower case": (get(version=b"http/1.1"), [400]),
    # 9112, 2.2 and 5: lines and fields.
    "empty lines first": (b"\r\n\r\n" + get(), [200]),
    "lines that end in LF": (get().replace(b"\r\n", b"\n"), [400]),
    "lines that end in CR": (get().replace(b"\r\n", b"\r") + b"\r\n\r\n", [400]),
    "a folded field": (get(headers=b"X-Long: a\r\n b\r\n"), [400]),
    "a folded first field": (get(host=b" Host: x\r\n"), [400]),
    "a field without a name": (get(headers=b": x\r\n"), [400]),
    "a field with a space in its name": (get(headers=b"X Y: x\r\n"), [400]),
    "a field with a control character": (get(headers=b"X-Y: a\x01b\r\n"), [400]),
    "a field in UTF-8": (get(headers="X-Y: é\r\n".encode()), [200]),
    # 9110, 9: methods.
    "a method in lower case": (get(method=b"get"), [400]),
    "a method that nobody knows": (get(method=b"BREW"), [400]),
    "a method of others": (get(method=b"PURGE"), [405]),
    "TRACE": (get(method=b"TRACE"), [405]),
    "OPTIONS": (get(method=b"OPTIONS"), [405]),
    # Fields for intermediaries, or fields that may be ignored.
    "TE": (get(headers=b"TE: trailers\r\nConnection: TE\r\n"), [200]),
    "a range": (get(headers=b"Range: bytes=0-3\r\n"), [200]),
    "If-None-Match": (get(headers=b"If-None-Match: *\r\n"), [200]),
    "If-Match": (get(headers=b'If-Match: "1"\r\n'), [200]),
    "Accept without JSON": (get(headers=b"Accept: text/html\r\n"), [200]),
    "Accept without anything": (get(headers=b"Accept: application/json;q=0\r\n"), [200]),
    "an upgrade": (get(headers=b"Upgrade: h2c\r\nConnection: Upgrade\r\n"), [200]),
    "an upgrade, created": (post(LENGTH + b"Upgrade: websocket\r\nConnection: Upgrade\r\n"), [201]),
    # 9110, 8: the type of a body.
    "no type": (post(media_type=b""), [415]),
    "two types in one": (post(media_type=b"Content-Type: application/json, text/plain\r\n"), [415]),
    "a charset": (post(media_type=b'Content-Type: Application/JSON; Charset="UTF-8"\r\n'), [201]),
    "another charset": (post(media_type=b"Content-Type: application/json; charset=utf-16\r\n"), [415]),
    "a coding": (post(LENGTH + b"Content-Encoding: gzip\r\n"), [415]),
    "a coding in a further line": (post(LENGTH + b"Content-Encoding: identity\r\nContent-Encoding: gzip\r\n"), [415]),
    "a coding in a list": (post(LENGTH + b"Content-Encoding: identity, br\r\n"), [415]),
    "no coding, said so": (post(LENGTH + b"Content-Encoding: identity\r\n"), [201]),
    "no coding in a list of none": (post(LENGTH + b"Content-Encoding:\r\n"), [201]),
    # Paths are not normalised.
    "a slash at the end": (get(b"/v1/things/"), [404]),
    "a slash at the end of an entry": (get(b"/v1/things/cup/"), [404]),
    "two slashes": (get(b"//v1/things"), [404]),
    "dots": (get(b"/v1/nowhere/../things"), [404]),
    "a path without a slash": (get(b"v1/things"), [400]),
    # 9112, 9.3: several requests on a connection.
    "one after the other": (get() + post() + get(b"/livez") + get(b"/nowhere"), [200, 201, 200, 404]),
    "an invalid host after a valid request": (get() + get(host=b"Host: a b\r\n") + get(), [200, 400]),
    "one without room after one with": (get() + post(path=b"/v1/things/crowd") + get(), [200, 503, 200]),
    "keep-alive in HTTP/1.0": (get(headers=b"Connection: keep-alive\r\n", version=b"HTTP/1.0") * 2, [200, 200]),
}

# The bytes that are sent before the client closes its sending side, and the expected statuses.
HALF_CLOSED: dict[str, tuple[bytes, list[int]]] = {
    "a request": (get(), [200]),
    "a request with its body": (post(), [201]),
    "a request with chunks": (post(CHUNKED, CHUNKS), [201]),
    "a request in HTTP/1.0": (get(version=b"HTTP/1.0"), [200]),
    "a request that may stay, in HTTP/1.0": (get(headers=b"Connection: keep-alive\r\n", version=b"HTTP/1.0"), [200]),
    "several requests": (get() + post() + get(b"/livez"), [200, 201, 200]),
    "more requests than are read ahead": (get(b"/livez") * 100, [200] * 100),
    "a request that finds no room": (post(path=b"/v1/things/crowd"), [503]),
    "a request and one that finds no room": (get() + post(path=b"/v1/things/crowd"), [200, 503]),
    "what isn't HTTP": (b"nonsense\r\n\r\n", [400]),
    "half of a body": (post(LENGTH, THING[:5]), [400]),
    "nothing of a body": (post(LENGTH, b""), [400]),
    "nothing of a body that may be left out": (post(LENGTH, b"", path=b"/v1/things/cup/act"), [400]),
    "half of the chunks": (post(CHUNKED, CHUNKS[:5]), [400]),
    "chunks without an end": (post(CHUNKED, CHUNKS[:-5]), [400]),
    "half of a body that nobody reads": (post(LENGTH, THING[:5], path=b"/nowhere"), [404]),
    "nothing": (b"", []),
    "half of a request line": (b"GET /v1", []),
    "half of the fields": (b"GET /v1/things HTTP/1.1\r\nHost: x\r\nX-Y", []),
    "a request and half of another": (get() + b"GET /v1", [200]),
}
