"""Models of three random layers, made once; one thread, so that sums repeat to the bit."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from catalog import Catalog
from ingest.dictionaries import wave
from ingest.model.language_model import LanguageModel
from ingest.sae.config import Objective
from ingest.sae.training.job import Job
from tests.empty import make_empty
from tests.ingest.tiny import loaded, save_model


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="session")
def neox_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its tokenizer adds no BOS."""
    return save_model(tmp_path_factory.mktemp("neox"), "neox", bos=False)


@pytest.fixture(scope="session")
def llama(llama_folder: Path) -> LanguageModel:
    return loaded(llama_folder)


@pytest.fixture(scope="session")
def neox(neox_folder: Path) -> LanguageModel:
    return loaded(neox_folder)


@pytest.fixture(scope="session")
def empty_catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("empty") / "catalog"
    make_empty(root).close()
    return root


@pytest.fixture
def new_catalog(empty_catalog: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Makes the directory of an empty catalog of that name: a copy, since making one takes a second."""
    return lambda name: Path(shutil.copytree(empty_catalog, tmp_path / name))


@pytest.fixture
def catalog(new_catalog: Callable[[str], Path]) -> Iterator[Catalog]:
    """An empty catalog."""
    with Catalog(new_catalog("catalog")) as made:
        yield made


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> dict[str, Objective]:
    """The objectives of the trainings so far, by the name of the SAE."""
    found: dict[str, Objective] = {}
    real = wave.train_saes

    def train(jobs: list[Job], *args: Any, **kwargs: Any) -> Any:
        found.update({job.out_dir.name.rpartition("-")[0]: job.config.objective for job in jobs})
        return real(jobs, *args, **kwargs)

    monkeypatch.setattr(wave, "train_saes", train)
    return found
