"""Where the Kafka broker of a test run comes from: an address, Docker, Maven's jars, or the embedded mock."""

import functools
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from testcontainers.core.container import DockerContainer

from tests.infrastructure import containers
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.sources import Source, choose
from tests.infrastructure.waiting import free_port, wait_until

IMAGE = "apache/kafka:4.1.0"
JAVA_MINIMUM = 17  # what Kafka 4 brokers ask for
START_SECONDS = 90  # 3 s on an idle machine; a first start of Java and a container on a busy one takes long
DOWNLOAD_SECONDS = 300  # 43 MB
REPOSITORY = Path(__file__).parents[2]
POM = Path(__file__).parent / "kafka" / "pom.xml"
CACHE = REPOSITORY / ".local" / "kafka"
CLUSTER_ID = "dGhlLXRlc3RzLWNsdXN0ZQ"  # any: 16 bytes in base64

# A single broker that is its own controller.
PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "INTERNAL",
    "listener.security.protocol.map": "INTERNAL:PLAINTEXT,CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",  # 50 by default, each a start-up cost that a cluster of one never earns back
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "group.initial.rebalance.delay.ms": "0",  # a test's consumer is alone and waits for nobody
    "auto.create.topics.enable": "false",  # as in production: who needs a topic declares it
}


def answers(bootstrap: str) -> bool:
    """Whether a broker there tells of itself."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    try:
        return bool(admin.list_topics(timeout=2).brokers)
    except KafkaException:
        return False


def declare_topic(bootstrap: str, name: str, partitions: int = 1) -> None:
    """Create a topic; the embedded mock takes no such request, but makes every topic it is asked about, with 4."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    if admin.list_topics(name, timeout=10).topics[name].error is not None:
        admin.create_topics([NewTopic(name, partitions, 1)])[name].result(30)


def wait_for(bootstrap: str) -> str:
    """The same address, once a broker answers there."""
    wait_until(lambda: answers(bootstrap), START_SECONDS, f"an answer of the broker at {bootstrap}")
    return bootstrap


def listeners(bound: str, ports: Mapping[str, int], client: str) -> dict[str, str]:
    """The listeners of a broker that binds `ports` of the address `bound`; its clients reach it at `client`.

    Brokers reach one another, and themselves, through a listener of their own: transactions need it, and an address
    that was mapped for clients doesn't work from within a container.
    """
    return {
        "listeners": ",".join(f"{name}://{bound}:{port}" for name, port in ports.items()),
        "advertised.listeners": f"INTERNAL://localhost:{ports['INTERNAL']},CLIENT://{client}",
        "controller.quorum.voters": f"1@localhost:{ports['CONTROLLER']}",
    }


def start_container(reaper: Reaper) -> str:
    """Start a broker in Docker. It has to advertise its mapped port, which is known only when the container runs."""
    container = DockerContainer(IMAGE)
    ports = {"INTERNAL": 9094, "CLIENT": 9092, "CONTROLLER": 9093}
    for name, value in (PROPERTIES | listeners("", ports, "to be:0")).items():
        container.with_env(variable(name), value)
    told = "/tmp/advertised"
    wait = f"while [ ! -f {told} ]; do sleep 0.1; done; . {told}; exec bash /etc/kafka/docker/run"
    host, port = containers.start(container.with_command(["sh", "-c", wait]), ports["CLIENT"], reaper)
    bootstrap = f"{host}:{port}"
    name = "advertised.listeners"
    tell = f"export {variable(name)}={listeners('', ports, bootstrap)[name]}"
    container.exec(["sh", "-c", f"echo '{tell}' >{told}.new && mv {told}.new {told}"])
    return wait_for(bootstrap)


def variable(name: str) -> str:
    """The environment variable that the image takes a property from."""
    return "KAFKA_" + name.upper().replace(".", "_")


def jars() -> Path:
    """The folder of Kafka's jars; another one when the pom changes."""
    return CACHE / hashlib.sha256(POM.read_bytes()).hexdigest()[:12]


@functools.cache
def why_no_maven() -> str | None:
    """What keeps Kafka from being started from Maven's jars, None if nothing does. Fetches them the first time."""
    java, maven = shutil.which("java"), shutil.which("mvn")
    if java is None or maven is None:
        return "java or mvn is missing"
    told = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', told)
    if version is None or int(version[1]) < JAVA_MINIMUM:
        return f"Java is older than {JAVA_MINIMUM}"
    return None if jars().exists() else why_no_download(maven)


def why_no_download(maven: str) -> str | None:
    """Fetch the jars; what Maven said if it could not."""
    CACHE.mkdir(parents=True, exist_ok=True)
    # Renamed when it is whole: an interrupted download leaves nothing that looks like one.
    with tempfile.TemporaryDirectory(dir=CACHE) as unfinished:
        copied = Path(unfinished) / "jars"
        command = [
            maven,
            "-q",
            "-B",
            "-f",
            str(POM),
            "dependency:copy-dependencies",
            f"-DoutputDirectory={copied}",
        ]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DOWNLOAD_SECONDS)
        if result.returncode != 0:
            return f"Maven cannot fetch Kafka: {result.stdout[:500]}"
        put_in_place(copied, jars())
    return None


def put_in_place(fetched: Path, place: Path) -> None:
    """Move a folder to where it belongs, unless another process has put the same one there meanwhile."""
    try:
        fetched.rename(place)
    except OSError:
        if not place.exists():
            raise


def start_jars(reaper: Reaper) -> str:
    """Start a broker from Maven's jars, its data in a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="order-platform-tests-"))
    reaper.folder(folder)
    ports = {name: free_port() for name in ("INTERNAL", "CLIENT", "CONTROLLER")}
    bootstrap = f"127.0.0.1:{ports['CLIENT']}"
    properties = PROPERTIES | listeners("127.0.0.1", ports, bootstrap) | {"log.dirs": str(folder / "data")}
    path = folder / "server.properties"
    path.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
    java = ["java", "-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{jars()}/*"]
    storage = [*java, "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(path)]
    subprocess.run(storage, check=True, capture_output=True)
    with (folder / "log").open("wb") as log:
        broker = subprocess.Popen(
            [*java, "kafka.Kafka", path], stdout=log, stderr=log, start_new_session=True, cwd=folder
        )
    reaper.process(broker)
    return wait_for(bootstrap)


def start_embedded(reaper: Reaper) -> str:
    """Start the in-memory broker of the local run."""
    port = free_port()
    broker = subprocess.Popen(
        [sys.executable, "-m", "deploy.local.broker", "--port", str(port)],
        cwd=REPOSITORY,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    reaper.process(broker)
    return wait_for(f"127.0.0.1:{port}")


def sources(address: str | None) -> list[Source]:
    """Every way to a broker, the nearest to production first."""
    if address is not None:
        given = "the one at TEST_KAFKA_BOOTSTRAP_SERVERS"
        return [Source("given", given, lambda: None, lambda _: wait_for(address))]
    return [
        Source("docker", f"{IMAGE} in Docker", lambda: containers.why_not(IMAGE), start_container),
        Source("maven", "Apache Kafka from Maven", why_no_maven, start_jars),
        Source("embedded", "the embedded mock of librdkafka", lambda: None, start_embedded, real=False),
    ]


def choose_broker(environment: Mapping[str, str]) -> Source:
    """Follows TEST_KAFKA_BOOTSTRAP_SERVERS and TEST_BROKER; else the first source that this machine has.

    With CI=true the mock is no answer: what is promised about Kafka is promised about a real one.
    """
    offered = sources(environment.get("TEST_KAFKA_BOOTSTRAP_SERVERS"))
    if environment.get("CI") == "true":
        offered = [source for source in offered if source.real]
    return choose(offered, environment.get("TEST_BROKER"), "TEST_BROKER")
