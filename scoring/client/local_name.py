"""Names a model of this process in the keys of stored answers: by its source, and by what its files are.

The name costs no more than a look at the files, so that a plan can find stored answers. Importing this module loads no
torch.
"""

import hashlib
from functools import cache
from pathlib import Path

from catalog.errors import InputError
from ingest.embedded import MODEL_DIR
from ingest.model.gguf.gguf_files import SHORT, find_gguf

_END = 1 << 16
"""Bytes at each end of a file that count: weights that were trained further differ there."""
_KINDS = (".safetensors", ".bin", ".json", ".jinja", ".model", ".gguf")


def local_name(source: str) -> str:
    """`transformers:SOURCE:DIGEST`; without a digest for a hub id, and for files that cannot be found."""
    if source in SHORT:
        return f"transformers:{source}:{SHORT[source].sha256[:16]}"
    try:
        found = find_gguf(source)
    except InputError:
        return f"transformers:{source}"
    folder = MODEL_DIR if source == "embedded" else Path(source)
    paths = found.parts if found else tuple(p for p in sorted(folder.glob("*")) if p.suffix in _KINDS and p.is_file())
    if not paths:
        return f"transformers:{source}"
    signs = tuple((str(path), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in paths)
    # A catalog that is moved with its model keeps its answers: of a path the name counts alone.
    return f"transformers:{Path(source).name}:{_digest(signs)}"


@cache
def _digest(signs: tuple[tuple[str, int, int], ...]) -> str:
    found = hashlib.blake2b(digest_size=8)
    for name, size, _ in signs:
        found.update(f"{Path(name).name} {size} ".encode())
        with open(name, "rb") as file:
            found.update(file.read(_END))
            file.seek(max(size - _END, 0))
            found.update(file.read(_END))
    return found.hexdigest()
