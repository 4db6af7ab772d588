"""What all tests share: no hub, and one small real catalog, built once for the whole run."""

import gc
import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# With one thread, the many small statements of a test cost half of what they cost with two. A refresh then has no steps
# side by side: tests for which it should take `two_threads`.
os.environ.setdefault("SAEQL_THREADS", "1")
# What tests allow, they allow themselves: the list of the person who runs them is neither read nor changed.
os.environ["SAEQL_CONFIG"] = os.path.join(tempfile.gettempdir(), f"saeql-tests-{os.getpid()}")

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # The GPU's kernels run in an interpreter. Triton reads this when it is imported, which torch does when it likes.
    os.environ["TRITON_INTERPRET"] = "1"

from tests.no_pandas import without_pandas
from tests.once import once
from tests.postgres import Postgres, programs, running

without_pandas()

STUDY = """
name = "small"

[[corpus]]
name = "docs"
packages = ["numpy"]
max_tokens = 40_000
shard_tokens = 15_000

[[sae]]
name = "sae"
hookpoint = "layers.1"
width = 256
k = 8
steps = 60
batch = 1024

[evaluation]
tokens = 4_000

[[concept]]
name = "linear-algebra"
words = ["matrix", "matrices", "eigenvalue", "eigenvalues", "linear", "diagonal"]
shortlist = 12
"""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what slow.txt lists, what takes the catalog `built`, and what runs once more with PostgreSQL."""
    listed = set(Path(__file__).with_name("slow.txt").read_text().split("\n"))
    for item in items:
        name = item.nodeid.partition("[")[0]
        dear = "built" in getattr(item, "fixturenames", ())
        params = getattr(getattr(item, "callspec", None), "params", {})
        again = params.get("metadata") == "postgres"
        # A fixture with a made and a real catalog takes `built` for the real one.
        dear = dear or "real" in params.values()
        if dear or again or not listed.isdisjoint((name, name.partition("::")[0])):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """What is there by now stays to the end: no collection looks at a million objects of torch and of the tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server for the whole run."""
    bin = programs()
    if bin is None:
        pytest.skip("no PostgreSQL server is installed here: apt-get install postgresql")
    with running(bin) as server:
        yield server


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
def metadata(request: pytest.FixtureRequest) -> Postgres | None:
    """Both kinds of metadata: what uses it runs twice. None for SQLite."""
    return None if request.param == "sqlite" else request.getfixturevalue("postgres")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of 40,000 tokens of numpy docstrings and a 256-latent SAE, refreshed. Not to be written to."""
    from catalog import Catalog
    from catalog.study.file import Study
    from ingest.pipeline import ingest_study
    from queries.refresh.engine import refresh

    def build(root: Path) -> None:
        (root / "study.toml").write_text(STUDY)
        with Catalog.create(root) as catalog:
            ingest_study(catalog, Study.load(root / "study.toml"))
            results = refresh(catalog)
            assert [r.error for r in results if r.error] == []

    return once(tmp_path_factory, "built", build)


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catalogs opened in the test have an engine of two threads."""
    monkeypatch.setenv("SAEQL_THREADS", "2")


@pytest.fixture
def own(built: Path, tmp_path: Path) -> Path:
    """A copy of `built` that a test may change."""
    return Path(shutil.copytree(built, tmp_path / "own"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system of a given size; only root can."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(size: str) -> Path:
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True)
        if made.returncode:
            pytest.skip("a small disk cannot be mounted here")
        return place

    yield mount
    subprocess.run(["umount", "-l", str(place)], capture_output=True)
