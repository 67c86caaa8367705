"""W&B's server: where it is, whether there is a key for it, and whether it answers."""

import netrc
import os
import ssl
import threading
import urllib.error
import urllib.request
from urllib.parse import urlparse

LOG_IN = "get a key at {}/authorize and run `wandb login`, or set WANDB_API_KEY"


def address() -> str:
    """The address of the server, as wandb's settings have it."""
    from wandb.sdk import wandb_setup

    return str(wandb_setup.singleton().settings.base_url).rstrip("/")


def no_key(server: str) -> str | None:
    """A line that says how to get a key for the server, where there is none."""
    from wandb.sdk import wandb_setup

    settings, host = wandb_setup.singleton().settings, urlparse(server).hostname or ""
    known = settings.api_key or os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE")
    if known or _in_netrc(host):
        return None
    site = "https://wandb.ai" if host == "api.wandb.ai" else server
    return f"wandb has no key for {server}: {LOG_IN.format(site)}"


def _in_netrc(host: str) -> bool:
    """Whether a netrc file holds the host's key."""
    for path in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        try:
            if path and netrc.netrc(os.path.expanduser(path)).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def no_answer(server: str, seconds: float) -> str | None:
    """Why the server does not answer within so many seconds; None where it does.

    wandb itself would go on asking for minutes, and `wandb sync` for days.
    """
    found: list[str | None] = []
    # In a thread, since no time limit holds for the look-up of a name.
    asking = threading.Thread(target=lambda: found.append(_ask(server, seconds)), daemon=True)
    asking.start()
    asking.join(seconds)
    return found[0] if found else f"nothing within {seconds:.0f} s"


def _ask(server: str, seconds: float) -> str | None:
    try:
        urllib.request.urlopen(server, timeout=seconds).close()
    except urllib.error.HTTPError:
        return None  # an answer all the same
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        # The server is there; whether its certificate will do is for wandb to say, which may have one of its own.
        return None if isinstance(reason, ssl.SSLError) else str(reason)
    return None
