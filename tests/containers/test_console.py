"""The console in compose is ready, shows every replica, and reaches the operators' listeners."""

from tests.containers.engine import PROJECT, Platform, networks
from tests.infrastructure.waiting import eventually
from tests.integration.console.serving import visiting

FOUND_SECONDS = 60  # names are looked up every 5 s, and services start at their own pace
LISTENERS = {"order": 8101, "product": 8102, "coupon": 8103, "balance": 8104, "relay": 8105}
SCOPES = "ops:read orders:read events:read"
# Prints the status of the console's answer to a container, which knows it under another name than browsers do.
ASK_FOR_A_PAGE = """
import http.client
connection = http.client.HTTPConnection("console", 8020, timeout=10)
connection.request("GET", "/sign-in")
print(connection.getresponse().status)
"""


def places(platform: Platform) -> set[str]:
    """Return where the console reaches each replica: in the network that the two share."""
    return {
        f"{networks(one)[f'{PROJECT}_{name}-console']['IPAddress']}:{port}"
        for name, port in LISTENERS.items()
        for one in platform.replicas(name)
    }


async def test_console_in_compose_shows_all_replicas(platform: Platform) -> None:
    url = f"http://127.0.0.1:{platform.environment['CONSOLE_PORT']}"
    async with visiting(url) as operator:

        async def ready() -> bool:
            try:
                return (await operator.get("/readyz")).status == 200
            except OSError:
                return False

        await eventually(ready, FOUND_SECONDS, "a console that is ready")
        assert (await operator.get("/services")).headers["Location"] == "/sign-in?next=/services"
        token = platform.token("alice", SCOPES)
        assert (await operator.submit("/sign-in", "/sign-in", access_token=token)).status == 303
        expected = places(platform)
        assert len(expected) == 7  # the order service and the relay have two each

        async def shown() -> bool:
            page = await operator.get("/services")
            return page.text.count('"state ready"') == len(expected) and page.has(*expected)

        await eventually(shown, FOUND_SECONDS, "every replica as ready")
        for path in ("/", "/sagas", "/outbox", "/books", "/orders"):  # they ask the operators' listeners too
            page = await operator.get(path)
            assert page.status == 200, (path, page.text)


def test_console_has_no_credential_and_one_name_only(platform: Platform) -> None:
    (console,) = platform.replicas("console")
    assert console["Mounts"] == []
    assert platform.execute("order", ["python", "-"], ASK_FOR_A_PAGE).strip() == "421"
