"""Which W&B server a run would log to, and whether that could work: asked before `wandb.init`."""

from __future__ import annotations

import json
import netrc
import os
from base64 import b64encode
from typing import Literal
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

Mode = Literal["auto", "online", "offline", "disabled"]
PROBE_S = 3.0  # seconds until a server that does not answer counts as unreachable


def mode_from_environment() -> Mode:
    """What ``auto`` means here: online where a key is set, unless WANDB_MODE says otherwise."""
    forced = os.environ.get("WANDB_MODE")
    if forced in {"online", "disabled"}:
        return forced  # type: ignore[return-value]
    return "online" if not forced and _key(base_url()) else "offline"


def base_url() -> str:
    """The server's address, from the environment or W&B's own."""
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").rstrip("/")


def problem(server: str) -> str | None:
    """Why nothing could be logged there, asked with one small query; None if all is well."""
    key = _key(server)
    if key is None:
        return f"no API key for {server} (wandb login)"
    question = Request(
        f"{server}/graphql",
        data=b'{"query": "query { viewer { id } }"}',
        headers={
            "Content-Type": "application/json",
            "Authorization": "Basic " + b64encode(f"api:{key}".encode()).decode(),
        },
    )
    try:
        with urlopen(question, timeout=PROBE_S) as answer:
            viewer = json.load(answer)["data"]["viewer"]
    except HTTPError as error:
        if error.code in {401, 403}:
            return f"{server} refuses the API key ({error.code})"
        return f"{server} answers {error.code}"
    except OSError as error:
        return f"{server} is not reachable ({brief(getattr(error, 'reason', error))})"
    except (ValueError, KeyError, TypeError):  # a wrong answer can make W&B's own service crash
        return f"{server} is no W&B server"
    return None if viewer else f"{server} does not know the API key"


def brief(error: object) -> str:
    """An error's message on one line."""
    return (" ".join(str(error).split()) or type(error).__name__)[:160]


def _key(server: str) -> str | None:
    """The API key for a server: from the environment, else as `wandb login` left it."""
    if os.environ.get("WANDB_API_KEY"):
        return os.environ["WANDB_API_KEY"]
    try:
        entry = netrc.netrc(os.environ.get("NETRC")).authenticators(urlsplit(server).hostname or "")
    except (OSError, netrc.NetrcParseError):
        return None
    return entry[2] if entry else None
