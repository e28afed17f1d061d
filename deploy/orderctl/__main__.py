"""`orderctl`: one command line over the services' APIs, for operators."""

import traceback

import aiohttp
import click
from click.exceptions import NoArgsIsHelpError
from click.shell_completion import get_completion_class

from deploy.client import ClientError, NoFinalAnswer
from deploy.orderctl.audit import audit, repair
from deploy.orderctl.catalogue import accounts, coupons, stock
from deploy.orderctl.merging import complaint
from deploy.orderctl.orders import orders
from deploy.orderctl.outbox import outbox, replays
from deploy.orderctl.output import write
from deploy.orderctl.places import MisconfiguredError
from deploy.orderctl.sagas import sagas
from shared.process.exits import Exit, end

NAME = "orderctl"
SHELLS = ("bash", "zsh", "fish")
SETTINGS = """\b
Settings, from the environment:
  ORDERCTL_URL              the gateway, for orders, stock, coupons and accounts
  ORDERCTL_ORDER_URL …      or the service itself; also PRODUCT, COUPON, BALANCE
  ORDERCTL_ORDER_ADMIN_URL  the operators' listener of the order service
  ORDERCTL_RELAY_ADMIN_URL  the same of the relay
  ORDERCTL_CELLS            where there are several cells: the operators' listeners of their
                            order services, with spaces between the addresses
  ORDERCTL_RELAY_CELLS      the same of their relays
  ORDERCTL_ORDER_CELLS      the order services of all cells, and
  ORDERCTL_COUPON_CELLS     their coupon services, for lists
  ORDERCTL_PRODUCT_SHARDS   all product shards, for lists
  ORDERCTL_TOKEN_FILE       a file with your token, or the token in ORDERCTL_TOKEN
  ORDERCTL_CA_FILE          certificate authorities to trust, as PEM
  ORDERCTL_BY               who you are, where there are no tokens
  ORDERCTL_DEADLINE_SECONDS how long to wait for the services: 15
Without any address, it speaks to `make run`.

\b
Exit statuses: 0 done; 1 refused, or a service can't be reached; 2 a wrong argument
or setting; 3 sagas of that version are live; 4 the audit found something; 130 Ctrl-C.
"""


@click.group(NAME, epilog=SETTINGS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def orderctl() -> None:
    """See and repair orders, sagas, stock, coupons, accounts, the outbox, replays and the books."""


@orderctl.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what completes commands in a shell.

    For example: eval "$(orderctl completion bash)"
    """
    kind = get_completion_class(shell)
    assert kind is not None
    write(kind(orderctl, {}, NAME, f"_{NAME.upper()}_COMPLETE").source())


for command in (orders, sagas, stock, coupons, accounts, outbox, replays, audit, repair):
    orderctl.add_command(command)


def main() -> None:
    """Run one command and exit with a status of shared/process/exits.py."""
    try:
        raise SystemExit(orderctl.main(prog_name=NAME, standalone_mode=False) or Exit.DONE)
    except click.Abort:
        end(Exit.INTERRUPTED, "interrupted")
    except NoArgsIsHelpError as error:
        end(Exit.MISCONFIGURED, error.format_message())
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else NAME
        end(Exit.MISCONFIGURED, f"{path}: {error.format_message()} (see {path} --help)")
    except MisconfiguredError as error:
        end(Exit.MISCONFIGURED, str(error))
    except (ClientError, aiohttp.ClientError) as error:
        key = error.key if isinstance(error, NoFinalAnswer) else None
        end(Exit.FAILED, complaint(error), *([f"repeat it with --key {key}"] if key else []))
    except Exception:  # noqa: BLE001 - a bug: the operator gets its trace
        end(Exit.CRASHED, traceback.format_exc().rstrip())


if __name__ == "__main__":
    main()
