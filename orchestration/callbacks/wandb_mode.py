"""Whether a sweep uses Weights & Biases: command line, environment and the user's key decide."""

from __future__ import annotations

import netrc
import os
from typing import Literal
from urllib.parse import urlsplit

from dfml.errors import InvalidInput

Mode = Literal["online", "offline", "off"]
MODES: tuple[Mode, ...] = ("online", "offline", "off")


def mode_for(asked: Mode | None) -> Mode:
    """Return the requested mode; if None, WANDB_MODE's, else "online" if there is a key.

    Raises:
        InvalidInput: "online" is requested without a key, or W&B rejects its settings or WANDB_*.
    """
    if asked == "off" or (asked is None and os.environ.get("WANDB_MODE") == "disabled"):
        return "off"  # without importing wandb, which takes a second
    import wandb

    settings = wandb.Settings()  # not `wandb.setup()`, which starts a process
    try:
        settings.update_from_system_settings()  # `wandb offline` and the like
        settings.update_from_env_vars(dict(os.environ))
        key = bool(settings.api_key or settings.identity_token_file) or _in_netrc(settings.base_url)
    except (wandb.Error, ValueError) as error:
        raise InvalidInput(
            f"Weights & Biases rejects its settings or the WANDB_* variables ({type(error).__name__}): fix them, or "
            "give --wandb off"
        ) from error
    said = (
        {"disabled": "off", "dryrun": "offline"}.get(settings.mode, settings.mode)
        if "WANDB_MODE" in os.environ
        else None
    )
    wanted = asked or said
    if wanted == "online" and not key:
        raise InvalidInput(
            "Weights & Biases needs a key to be online: run `wandb login`, set WANDB_API_KEY, or give --wandb offline"
        )
    if wanted in MODES:
        return wanted
    return "online" if key and settings.mode == "online" else "offline"


def _in_netrc(url: str) -> bool:
    """Return whether `wandb login` has stored a key for this server."""
    try:
        return netrc.netrc().authenticators(urlsplit(url).hostname or url) is not None
    except (OSError, netrc.NetrcParseError):
        return False
