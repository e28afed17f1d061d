"""The sources of a test run's Kafka broker: an address, Docker, Maven's jars, or the embedded mock."""

import fcntl
import functools
import hashlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
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
JAVA_MINIMUM = 17  # required by Kafka 4 brokers
START_SECONDS = 90  # 3 s on an idle machine; a first start of Java or a container on a busy one takes long
DOWNLOAD_SECONDS = 300  # 43 MB
REPOSITORY = Path(__file__).parents[2]
POM = Path(__file__).parent / "kafka" / "pom.xml"
CACHE = REPOSITORY / ".local" / "kafka"
CLUSTER_ID = "dGhlLXRlc3RzLWNsdXN0ZQ"  # any: 16 bytes in base64
# A test's broker lives for seconds. With the light compiler and the simple collector only, its start takes half the
# processor time, and half of that with its classes from a file. A measurement's broker has Java's defaults.
SHORT_LIVED = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")

# A single broker that is its own controller.
PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "INTERNAL",
    "listener.security.protocol.map": "INTERNAL:PLAINTEXT,CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",  # 50 by default; each costs time at start and is useless on one broker
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "group.initial.rebalance.delay.ms": "0",  # a test's consumer is alone in its group
    "auto.create.topics.enable": "false",  # as in production: the program that needs a topic creates it
}


def answers(bootstrap: str) -> bool:
    """Return whether a broker answers there."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    try:
        return bool(admin.list_topics(timeout=2).brokers)
    except KafkaException:
        return False


def declare_topic(bootstrap: str, name: str, partitions: int = 1) -> None:
    """Create a topic. The embedded mock has no such request, but creates every requested topic, with 4 partitions."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    if admin.list_topics(name, timeout=10).topics[name].error is not None:
        # As many replicas as the broker's default.
        admin.create_topics([NewTopic(name, partitions, -1)])[name].result(30)


def wait_for(bootstrap: str) -> str:
    """Return the same address, once a broker answers there."""
    wait_until(lambda: answers(bootstrap), START_SECONDS, f"an answer of the broker at {bootstrap}")
    return bootstrap


def listeners(bound: str, ports: Mapping[str, int], client: str) -> dict[str, str]:
    """Return the listeners of a broker that binds `ports` of the address `bound`; its clients use `client`.

    Brokers use a separate listener to reach each other and themselves. Transactions need it, and an address that is
    mapped for clients doesn't work inside a container.
    """
    return {
        "listeners": ",".join(f"{name}://{bound}:{port}" for name, port in ports.items()),
        "advertised.listeners": f"INTERNAL://localhost:{ports['INTERNAL']},CLIENT://{client}",
        "controller.quorum.voters": f"1@localhost:{ports['CONTROLLER']}",
    }


def start_container(reaper: Reaper) -> str:
    """Start a broker in Docker. It must advertise its mapped port, which is known only when the container runs."""
    container = DockerContainer(IMAGE)
    ports = {"INTERNAL": 9094, "CLIENT": 9092, "CONTROLLER": 9093}
    for name, value in (PROPERTIES | listeners("", ports, "to be:0")).items():
        container.with_env(variable(name), value)
    address_file = "/tmp/advertised"
    wait = f"while [ ! -f {address_file} ]; do sleep 0.1; done; . {address_file}; exec bash /etc/kafka/docker/run"
    host, port = containers.start(container.with_command(["sh", "-c", wait]), ports["CLIENT"], reaper)
    bootstrap = f"{host}:{port}"
    name = "advertised.listeners"
    export_line = f"export {variable(name)}={listeners('', ports, bootstrap)[name]}"
    container.exec(["sh", "-c", f"echo '{export_line}' >{address_file}.new && mv {address_file}.new {address_file}"])
    return wait_for(bootstrap)


def variable(name: str) -> str:
    """Return the environment variable from which the image reads a property."""
    return "KAFKA_" + name.upper().replace(".", "_")


def jars() -> Path:
    """Return the folder of Kafka's jars; it changes with the pom."""
    return CACHE / hashlib.sha256(POM.read_bytes()).hexdigest()[:12]


@functools.cache
def java_version() -> str:
    """Return what Java prints of itself."""
    return subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr


def classes() -> Path:
    """Return the file with the classes as Java has loaded them; it changes with the jars and with Java."""
    return CACHE / f"{jars().name}-{hashlib.sha256(java_version().encode()).hexdigest()[:12]}.jsa"


@functools.cache
def why_no_maven() -> str | None:
    """Return why Kafka can't be started from Maven's jars, None if it can. Downloads the jars the first time."""
    java, maven = shutil.which("java"), shutil.which("mvn")
    if java is None or maven is None:
        return "java or mvn is missing"
    version = re.search(r'version "(\d+)', java_version())
    if version is None or int(version[1]) < JAVA_MINIMUM:
        return f"Java is older than {JAVA_MINIMUM}"
    obstacle = None if jars().exists() else why_no_download(maven)
    if obstacle is None and not classes().exists():
        record_classes()
    return obstacle


def why_no_download(maven: str) -> str | None:
    """Download the jars; return Maven's output if that failed."""
    CACHE.mkdir(parents=True, exist_ok=True)
    # Renamed when it is complete: an interrupted download leaves no folder with this name.
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
    """Move a folder into place, unless another process has already created it."""
    try:
        fetched.rename(place)
    except OSError:
        if not place.exists():
            raise


def record_classes() -> None:
    """Let a broker write the classes that it loads to a file when it ends, unless another process does that now."""
    with (CACHE / "classes.lock").open("w") as lock, tempfile.TemporaryDirectory(dir=CACHE) as folder:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        command = java("512m", *SHORT_LIVED)
        path, bootstrap = formatted(Path(folder), command)
        written = Path(folder) / "classes"
        recording = ["timeout", str(START_SECONDS), *command, f"-XX:ArchiveClassesAtExit={written}"]
        with subprocess.Popen(
            [*recording, "kafka.Kafka", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
        ) as broker:
            try:
                declare_topic(wait_for(bootstrap), "any")
            finally:
                broker.terminate()
        written.touch()  # a Java that can't write it starts without it, as if it were not there
        written.rename(classes())


def java(heap: str, *options: str) -> list[str]:
    """Return the command that runs one of Kafka's classes from Maven's jars, up to the class."""
    if options == SHORT_LIVED and classes().exists():
        options = (*options, f"-XX:SharedArchiveFile={classes()}")
    return ["java", f"-Xmx{heap}", *options, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{jars()}/*"]


def formatted(folder: Path, command: Sequence[str]) -> tuple[str, str]:
    """Prepare a folder for a broker; return the path of its properties, and its address. `command` is Java's."""
    ports = {name: free_port() for name in ("INTERNAL", "CLIENT", "CONTROLLER")}
    bootstrap = f"127.0.0.1:{ports['CLIENT']}"
    properties = PROPERTIES | listeners("127.0.0.1", ports, bootstrap) | {"log.dirs": str(folder / "data")}
    path = folder / "server.properties"
    path.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
    storage = [*command, "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(path)]
    subprocess.run(storage, check=True, capture_output=True)
    return str(path), bootstrap


def start_jars(reaper: Reaper, options: Sequence[str] = SHORT_LIVED) -> str:
    """Start a broker from Maven's jars, with its data in a temporary folder. `options` are Java's."""
    folder = Path(tempfile.mkdtemp(prefix="order-platform-tests-"))
    reaper.folder(folder)
    command = java("512m", *options)
    path, bootstrap = formatted(folder, command)
    with (folder / "log").open("wb") as log:
        broker = subprocess.Popen(
            [*command, "kafka.Kafka", path], stdout=log, stderr=log, start_new_session=True, cwd=folder
        )
    reaper.process(broker, signal.SIGKILL)  # its data is thrown away
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


def sources(address: str | None, options: Sequence[str]) -> list[Source]:
    """Return all sources of a broker, the most similar to production first. `options` are Java's."""
    if address is not None:
        given = "the one at TEST_KAFKA_BOOTSTRAP_SERVERS"
        return [Source("given", given, lambda: None, lambda _: wait_for(address))]
    return [
        Source("docker", f"{IMAGE} in Docker", lambda: containers.why_not(IMAGE), start_container),
        Source("maven", "Apache Kafka from Maven", why_no_maven, lambda reaper: start_jars(reaper, options)),
        Source("embedded", "the embedded mock of librdkafka", lambda: None, start_embedded, real=False),
    ]


def choose_broker(environment: Mapping[str, str], *, measured: bool = False) -> Source:
    """Choose by TEST_KAFKA_BOOTSTRAP_SERVERS and TEST_BROKER, or else the first source that works here.

    With CI=true the mock is not used: the promises about Kafka are promises about a real broker. A `measured` broker
    runs with Java's defaults.
    """
    offered = sources(environment.get("TEST_KAFKA_BOOTSTRAP_SERVERS"), () if measured else SHORT_LIVED)
    if environment.get("CI") == "true":
        offered = [source for source in offered if source.real]
    return choose(offered, environment.get("TEST_BROKER"), "TEST_BROKER")
