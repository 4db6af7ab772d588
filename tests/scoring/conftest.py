"""Fixtures of the scoring tests; no model is fetched from the network."""

import os

from tests.scoring.chat_server import endpoint

__all__ = ["endpoint"]

os.environ["HF_HUB_OFFLINE"] = "1"
