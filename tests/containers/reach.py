"""Tries, from inside each container, what it can reach and do. Each result is a table as docs/reach.md has it."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.containers.engine import SERVICES, Platform

Row = Sequence[str]
Reached = Mapping[str, Mapping[str, list[int]]]

# The ports on which each container listens.
PORTS = {
    "gateway": (8080,),
    "order": (8001, 8101, 8201),
    "product": (8002, 8102),
    "coupon": (8003, 8103),
    "balance": (8004, 8104),
    "relay": (8005, 8105, 8205),
    "consumer": (8006,),
    "console": (8020, 8120),
    "issuer": (8007,),
    "postgres": (5432,),
    "kafka": (9092, 9093, 9094, 9095),
}
# A command that is decided by its participant, and changes nothing that anybody has.
ORDER = "00000000-0000-7000-8000-000000000000"
COMMANDS: dict[str, dict[str, object]] = {
    "product": {"type": "hold_stock", "lines": [{"product_id": "none", "quantity": 1}]},
    "coupon": {"type": "reserve_coupon", "coupon_id": "none", "user_id": "nobody", "subtotal_amount": 1},
    "balance": {"type": "debit", "attempt": 1, "user_id": "nobody", "amount": 99_999_999},
}

# Prints those of its arguments, each an address and a port, that accept a connection.
CONNECT = """
try() { timeout 3 bash -c "exec 3<>/dev/tcp/$1/$2" 2>/dev/null && echo "$1 $2"; }
export -f try
printf '%s\\n' "$@" | xargs -P 8 -L 1 bash -c 'try "$0" "$1"'
exit 0
"""
# Prints the status of the answer to the command in $3, sent to the address $1 and the port $2: without a secret, then
# with each of the further arguments.
CALL = """
address=$1 port=$2 body=$3
shift 3
for secret in "" "$@"; do
  exec 3<>"/dev/tcp/$address/$port" || exit 1
  printf 'POST /internal/v1/commands HTTP/1.1\\r\\nHost: probe\\r\\nConnection: close\\r\\n' >&3
  [ -z "$secret" ] || printf 'Authorization: Bearer %s\\r\\n' "$secret" >&3
  printf 'Content-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n%s' "${#body}" "$body" >&3
  read -r _ status _ <&3
  echo "$status"
done
"""
# Prints the lines of all files in the folders for credentials, each behind the name of its file.
CREDENTIALS = """
exec 2>/dev/null
find /secrets /tokens /keys /kafka /database -type f -readable ! -path '*/public/*' -exec grep --with-filename . {} +
exit 0
"""
# Prints the role, and the schemas of which it can read, write or create a table. A right to read is tried.
SCHEMAS = """
import asyncio, asyncpg, json, os

async def main():
    path = next(value for name, value in os.environ.items() if name.endswith("_DATABASE_URL_FILE"))
    connection = await asyncpg.connect(open(path).read().strip())
    tables = await connection.fetch('''
        SELECT n.nspname AS schema, format('%I.%I', n.nspname, c.relname) AS table,
            has_schema_privilege(n.oid, 'USAGE') AND (has_any_column_privilege(c.oid, 'INSERT, UPDATE')
            OR has_table_privilege(c.oid, 'DELETE, TRUNCATE')) AS writable
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'v', 'm') AND n.nspname !~ '^pg_|^information_schema$' ''')
    readable = set()
    for one in tables:
        try:
            await connection.execute(f"SELECT FROM {one['table']} LIMIT 1")
            readable.add(one["schema"])
        except asyncpg.InsufficientPrivilegeError:
            pass
    creates = await connection.fetch("SELECT nspname FROM pg_namespace WHERE has_schema_privilege(oid, 'CREATE')")
    print(json.dumps([
        await connection.fetchval("SELECT current_user"),
        sorted(readable),
        sorted({one["schema"] for one in tables if one["writable"]}),
        sorted(one["nspname"] for one in creates),
    ]))

asyncio.run(main())
"""
# Prints the user, and the topics that it can read and write. It writes in a transaction that is rolled back, or outside
# of transactions if the user may begin none.
TOPICS = """
import asyncio, json, os, ssl
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import TopicAuthorizationFailedError, TransactionalIdAuthorizationFailed

NAMES = ["orders.v1", "orders.v1.watermarks", "orders.v1.positions"]
of = os.environ.get
password = of("KAFKA_SASL_PASSWORD_FILE")
authority = of("KAFKA_SSL_CA_FILE")
SERVER = {
    "bootstrap_servers": of("KAFKA_BOOTSTRAP_SERVERS"),
    "security_protocol": of("KAFKA_SECURITY_PROTOCOL", "PLAINTEXT"),
    "sasl_mechanism": of("KAFKA_SASL_MECHANISM", "PLAIN"),
    "sasl_plain_username": of("KAFKA_SASL_USERNAME"),
    "sasl_plain_password": open(password).read().strip() if password else None,
    "ssl_context": ssl.create_default_context(cafile=authority) if authority else None,
}

async def allowed(attempt, topic, *arguments):
    if not await described(topic): # whoever may not do this may do nothing, and a consumer would wait for ever
        return False
    try:
        async with asyncio.timeout(20):
            await attempt(topic, *arguments)
    except TopicAuthorizationFailedError:
        return False
    return True

async def described(topic):
    admin = AIOKafkaAdminClient(**SERVER)
    await admin.start()
    try:
        (answer,) = await admin.describe_topics([topic])
    finally:
        await admin.close()
    return answer["error_code"] != TopicAuthorizationFailedError.errno

async def read(topic):
    async with AIOKafkaConsumer(**SERVER, enable_auto_commit=False) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        await consumer.seek_to_beginning()
        await consumer.getmany(timeout_ms=1000)

async def write(topic, transactional):
    options = {"transactional_id": "orders.v1.probe"} if transactional else {"enable_idempotence": False}
    async with AIOKafkaProducer(**SERVER, **options) as producer:
        if transactional:
            await producer.begin_transaction()
        try:
            await producer.send_and_wait(topic, b"probe", key=b"probe", partition=0)
        finally:
            if transactional:
                await producer.abort_transaction()

async def main():
    transactional = True
    try:
        async with AIOKafkaProducer(**SERVER, transactional_id="orders.v1.probe"):
            pass
    except TransactionalIdAuthorizationFailed:
        transactional = False
    reads = [name for name in NAMES if await allowed(read, name)]
    writes = [name for name in NAMES if await allowed(write, name, transactional)]
    print(json.dumps([of("KAFKA_SASL_USERNAME", "anybody"), reads, writes, ["yes"] if transactional else []]))

asyncio.run(main())
"""


def reached(platform: Platform) -> Reached:
    """Return which ports of the others each container reaches, at any of their addresses."""
    with ThreadPoolExecutor(len(PORTS)) as threads:  # they wait for answers that do not come
        return dict(zip(PORTS, threads.map(lambda name: _reached(platform, name), PORTS), strict=True))


def _reached(platform: Platform, name: str) -> Mapping[str, list[int]]:
    owners = {
        f"{address} {port}": (other, port)
        for other, ports in PORTS.items()
        if other != name
        for address in platform.addresses(other)
        for port in ports
    }
    found = {owners[line] for line in platform.execute(name, ["bash", "-s", "--"], CONNECT, *owners).splitlines()}
    return {other: [port for port in ports if (other, port) in found] for other, ports in PORTS.items()}


def connections(reached: Reached) -> list[Row]:
    """Return the ports by container: a row for each that connects."""
    rows = [[name, *(" ".join(map(str, found[other])) for other in PORTS)] for name, found in reached.items()]
    return [["from", *PORTS], *rows]


def commands(platform: Platform, reached: Reached) -> list[Row]:
    """Return how participants answer a command of each container, without and with the secrets that it can read."""
    rows = []
    for name in PORTS:
        credentials = _credentials(platform, name)
        secrets = {label: secret for label, secret in credentials if label.count(" ")}
        files = dict.fromkeys(label.partition(" ")[0] for label, _ in credentials)
        rows.append([name, " ".join(files), *(_answers(platform, reached, name, to, secrets) for to in COMMANDS)])
    return [["from", "files with credentials", *COMMANDS], *rows]


def _credentials(platform: Platform, name: str) -> list[tuple[str, str]]:
    """Return a label and the secret of each line: the file, and for the secrets of a service also the caller."""
    found = []
    for line in sorted(platform.execute(name, ["bash", "-s"], CREDENTIALS).splitlines()):
        path, _, content = line.partition(":")
        caller, _, secret = content.partition(" ")
        found.append((f"`{path}` as {caller}" if path.startswith("/secrets") else f"`{path}`", secret))
    return found


def _answers(platform: Platform, reached: Reached, name: str, to: str, secrets: Mapping[str, str]) -> str:
    internal = PORTS[to][1]
    if name == to or internal not in reached[name][to]:
        return ""
    body = json.dumps({"commands": [{**COMMANDS[to], "order_id": ORDER}]})
    call = [platform.shared_address(name, to), str(internal), body, *secrets.values()]
    without, *answers = platform.execute(name, ["bash", "-s", "--"], CALL, *call).split()
    accepted = [f"{answer} with {label}" for answer, label in zip(answers, secrets, strict=True) if answer != without]
    return "<br>".join([without, *accepted])


def schemas(platform: Platform) -> list[Row]:
    """Return what each service's login can do in the database."""
    head = ["from", "role", "reads tables in", "writes tables in", "creates tables in"]
    return [head, *(_rights(platform, name, SCHEMAS) for name in (*SERVICES, "consumer"))]


def topics(platform: Platform) -> list[Row]:
    """Return what each client of Kafka can do with the topics."""
    head = ["from", "user", "reads", "writes", "can use the relay's transactional ids"]
    return [head, *(_rights(platform, name, TOPICS) for name in ("relay", "consumer"))]


def _rights(platform: Platform, name: str, script: str) -> Row:
    who, *found = json.loads(platform.execute(name, ["python", "-"], script))
    return [name, who, *(" ".join(names) for names in found)]
