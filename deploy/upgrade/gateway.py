"""Drains replicas: the shipped gateway sends new requests to the other ones."""

from collections.abc import Sequence

from deploy.upgrade.containers import Project, run, shared_address

# The gateway finds these services by the beginning of the path, and at this port (deploy/gateway/nginx.conf).
PUBLIC = {
    "order": ("/(v1/orders|problems)", 8001),
    "product": ("/v1/products", 8002),
    "coupon": ("/v1/coupons", 8003),
    "balance": ("/v1/accounts", 8004),
}


class Gateway:
    """Takes replicas out of use in the shipped gateway.

    nginx includes what is in /tmp/drained. The folder is empty after its start, so nothing stays drained by mistake.
    """

    def __init__(self, project: Project) -> None:
        self._containers = project.containers("gateway")

    def use_only(self, service: str, replicas: Sequence[str]) -> None:
        """Send new requests to these replicas of the service only."""
        for gateway in self._containers:
            addresses = [shared_address(gateway, one) for one in replicas]
            for name, text in drained(service, addresses).items():
                script = f"mkdir -p /tmp/drained && cat >/tmp/drained/{name} <<'END'\n{text}END"
                run("docker", "exec", gateway, "sh", "-ec", script)
            self._reload(gateway)

    def use_all(self, service: str) -> None:
        """Send new requests to every replica that the service's name leads to."""
        for gateway in self._containers:
            run("docker", "exec", gateway, "sh", "-ec", f"rm -f /tmp/drained/{service}.*")
            self._reload(gateway)

    def _reload(self, gateway: str) -> None:
        run("docker", "exec", gateway, "nginx", "-t")
        run("docker", "exec", gateway, "nginx", "-s", "reload")


def drained(service: str, addresses: Sequence[str]) -> dict[str, str]:
    """Return the files, by name, with which the gateway uses only these addresses for a service."""
    path, port = PUBLIC[service]
    servers = "".join(f"  server {address}:{port};\n" for address in addresses)
    return {
        f"{service}.upstream": f"upstream only-{service} {{\n{servers}}}\n",
        f"{service}.map": f"~^{path} http://only-{service};\n",
    }
