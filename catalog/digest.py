"""The digest of a value: by it, inputs, requests and definitions are told from each other."""

import hashlib
import json
from typing import Any


def digest(said: Any) -> str:
    """BLAKE2b-128, 32 hexadecimal digits, of anything that JSON holds; the order of an object's keys does not count.

    >>> digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    True
    """
    return digest_of_text(json.dumps(said, sort_keys=True))


def digest_of_text(text: str) -> str:
    """BLAKE2b-128, 32 hexadecimal digits, of a text as it stands."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
