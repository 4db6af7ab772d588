"""A study file: defaults that work, every mistake reported at once with its key's path."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from catalog.errors import InputError, StudyError
from catalog.study.base import Section
from catalog.study.file import LISTS, Study, template
from catalog.study.labelling import Primary
from catalog.study.tables import configuration_rows


def mistakes(text: str, folder: Path) -> str:
    with pytest.raises(StudyError) as caught:
        Study.parse(text, folder)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_name_alone_is_a_study(tmp_path: Path) -> None:
    study = Study.parse('name = "x"', tmp_path)
    assert study.model.source == "embedded"
    assert [c.kind for c in study.corpora] == ["docstrings"]
    assert study.saes[0].k < study.saes[0].width
    assert study.explainers[0].provider == study.scorers[0].provider == "lexical"
    assert study.primary == Primary(concept="linear-algebra", explainer="lexical", scorer="detection")
    assert study.corpora_of(study.saes[0]) == ("docstrings",)


def test_the_template_is_the_default_study_and_names_every_key(tmp_path: Path) -> None:
    assert Study.parse(template(), tmp_path) == Study.parse('name = "study"', tmp_path)
    keys = set(re.findall(r"^(?:# )?(\w+) = ", template(), re.MULTILINE))
    sections: list[type[Section]] = [*LISTS.values(), Primary, type(Study.parse('name = "x"', tmp_path).model)]
    assert {name for section in sections for name in section.model_fields} <= keys


def uncommented(skip: str) -> str:
    """The template with every commented key in force, except those that match `skip`."""
    return "\n".join(
        re.sub(r"^# (?=\[|\"|\w+ = )", "", line)
        for line in template().splitlines()
        if not re.match(rf"# ({skip}) = ", line)
    )


def test_the_templates_commented_keys_are_valid_too(tmp_path: Path) -> None:
    others = "file|predicate|dataset|config|dataset_split|checkpoint|groups|penalty|bandwidth|target|skip|k_aux|stream"
    others += "|corpora"
    relu = uncommented(others).replace('architecture = "topk" ', 'architecture = "relu" ')
    relu = relu.replace('method = "dense"', 'method = "dense+tracin"').replace('parent = "general"', 'parent = "./a"')
    relu = relu.replace('parent = "sae"', 'parent = "./b"')
    relu = re.sub(r"^(k|rng) = .*$", "", relu, flags=re.MULTILINE)
    study = Study.parse(relu.replace('provider = "lexical"', 'provider = "openai"'), tmp_path)
    assert study.corpora[1].files == (str(tmp_path / "notes/*.jsonl"),)
    assert study.steps == {"contexts_top.k": 20}


@pytest.mark.parametrize(
    ("architecture", "key"),
    [
        ("matryoshka", "groups"),
        ("jumprelu", "penalty"),
        ("jumprelu", "bandwidth"),
        ("topk", "k_aux"),
        ("topk", "target"),
        ("topk", "corpora"),
    ],
)
def test_a_templates_key_of_one_architecture_is_valid_there(tmp_path: Path, architecture: str, key: str) -> None:
    line = next(line for line in template().splitlines() if line.startswith(f"# {key} = ")).removeprefix("# ")
    Study.parse(f'name = "x"\n[[sae]]\nname = "a"\narchitecture = "{architecture}"\n{line}', tmp_path)


def test_sweeps_expand_to_one_sae_per_family_value_and_seed(tmp_path: Path) -> None:
    text = """
    name = "x"
    [[sae]]
    name = "general"
    architecture = "relu"
    [[sae]]
    name = "tuned"
    parent = "general"
    template = true
    [[sweep]]
    name = "l1"
    saes = ["tuned"]
    values = [1, 2.5, 4]
    middle_seeds = [0, 1]
    """
    study = Study.parse(text, tmp_path)
    names = ["general", *(f"tuned-sparsity-{run}" for run in ("1-s0", "2_5-s0", "2_5-s1", "4-s0"))]
    assert [sae.name for sae in study.trained()] == names
    assert [(sae.sparsity, sae.seed) for sae in study.trained()[1:]] == [(1, 0), (2.5, 0), (2.5, 1), (4, 0)]


def test_sweeps_of_one_family_over_two_settings_have_no_run_in_common(tmp_path: Path) -> None:
    own = 'name = "x"\n[[sae]]\nname = "r"\narchitecture = "relu"\n'
    study = Study.parse(own + '[[sweep]]\nname = "mine"\nsaes = ["r"]\nvalues = [0.5, 2]', tmp_path)
    both = study.with_sweep({"name": "r-tilt", "saes": ["r"], "setting": "tilt", "values": [0.5, 2]})
    assert [[sae.name for _, _, sae in both.runs(sweep)] for sweep in both.sweeps] == [
        ["r-sparsity-0_5-s0", "r-sparsity-2-s0"],
        ["r-tilt-0_5-s0", "r-tilt-2-s0"],
    ]


def test_a_sweep_does_not_replace_one_of_the_study_itself(tmp_path: Path) -> None:
    own = 'name = "x"\n[[sae]]\nname = "s"\n[[sweep]]\nname = "mine"\nsaes = ["s"]\nsetting = "k"\nvalues = [4]'
    asked = {"name": "mine", "saes": ["s"], "setting": "lr", "values": [0.01]}
    with pytest.raises(
        StudyError, match=r"the study 'x' has a \[\[sweep\]\] 'mine'.*another name than mine \(--name\)"
    ):
        Study.parse(own, tmp_path).with_sweep(asked)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('saes = ["nobody"]\nvalues = [1]', "there is no sae 'nobody'"),
        ('saes = ["sae"]\nvalues = [1, 2]\nsetting = "sparsity"', "is not read by architecture 'topk'"),
        ('saes = ["sae"]\nvalues = [1.5]\nsetting = "k"', "whole numbers"),
        ('saes = ["sae"]\nvalues = [8, 8]\nsetting = "k"', "names a value twice"),
        ('saes = ["sae"]\nvalues = [8]\nsetting = "k"\nl0_high = 10', "not above l0_low"),
        ('saes = ["sae"]\nvalues = [8]\nsetting = "k"\nbaseline = "other"', "is not one of saes"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(StudyError, match=said):
        Study.parse(f'name = "x"\n[[sae]]\nname = "sae"\n[[sweep]]\nname = "s"\n{line}', tmp_path)


def test_every_key_is_documented() -> None:
    sections: list[type[Section]] = [Study, Primary, *LISTS.values()]
    for section in sections:
        assert section.__doc__
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"


def test_paths_start_at_the_study_files_folder(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "words.txt").write_text("matrix\n\n rank \nmatrix\n")
    (tmp_path / "s.toml").write_text(
        'name = "x"\n[model]\nsource = "weights"\n'
        '[[corpus]]\nname = "a"\nkind = "text"\nfiles = ["*.txt", "/tmp/b.txt"]\n'
        '[[concept]]\nname = "c"\nfile = "words.txt"\nwords = ["trace"]\n'
        '[[sae]]\nname = "s"\ncheckpoint = "sae"\n'
    )
    study = Study.load(tmp_path / "s.toml")
    assert study.model.source == str(tmp_path / "weights")
    assert study.corpora[0].files == (str(tmp_path / "*.txt"), "/tmp/b.txt")
    assert study.saes[0].checkpoint == str(tmp_path / "sae")
    assert study.concepts[0].all_words() == ["trace", "matrix", "rank"]


@pytest.mark.parametrize("source", ["EleutherAI/pythia-70m", "gpt2", "embedded"])
def test_a_hub_id_stays_a_hub_id(source: str, tmp_path: Path) -> None:
    assert Study.parse(f'name = "x"\n[model]\nsource = "{source}"', tmp_path).model.source == source


def test_a_missing_directory_is_still_a_path(tmp_path: Path) -> None:
    study = Study.parse('name = "x"\n[model]\nsource = "./gone"', tmp_path)
    assert study.model.source == str(tmp_path / "gone")


def test_three_mistakes_are_all_reported(tmp_path: Path) -> None:
    said = mistakes(
        'name = "x"\n[[corpus]]\nname = "a"\nkind = "jsnl"\n'
        '[[sae]]\nname = "s"\n[[sae]]\nname = "t"\nk = 4096\nwidth = 2048\nlearning = 3\n',
        tmp_path,
    )
    assert "has 3 mistakes" in said
    assert "corpus[0].kind: 'jsnl' is not one of 'docstrings', 'licences', 'text', 'lines', 'jsonl'" in said
    assert "sae[1].k: 4096 is above width 2048" in said
    assert "sae[1].learning: unknown key; known: name, hookpoint" in said


def test_mistakes_of_one_section_do_not_hide_those_of_another_or_of_itself(tmp_path: Path) -> None:
    said = mistakes(
        'name = "x"\n[[sae]]\nname = "s"\nlr = "fast"\nk = 99\nwidth = 64\nk_aux = 65\ncorpora = ["b"]\n'
        '[[corpus]]\nname = "a"\n[[corpus]]\nname = "a"\n[primary]\nscorer = "z"\n',
        tmp_path,
    )
    for part in (
        "sae[0].lr: 'fast': should be a valid number",
        "sae[0].k: 99 is above width 64",
        "sae[0].k_aux: 65 is above width 64",
        "sae[0].corpora[0]: there is no corpus 'b'; known: a",
        "corpus: the name 'a' is given 2 times",
        "primary.scorer: there is no scorer 'z'; known: detection",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("nam = 1", "nam: unknown key; did you mean 'name'?"),
        ("[model]\ndevic = 'cpu'", "model.devic: unknown key; did you mean 'device'?"),
        ("[model]\ndevice = 'gpu'", "model.device: 'gpu' should be auto, cpu, cuda or cuda:N"),
        ("[[corpus]]\nname = 'a b'", "corpus[0].name: 'a b' should be made of letters, digits, _ and - alone"),
        ("[[corpus]]\nname = 'a'\nkind = 'text'", "corpus[0].files: is missing"),
        ("[[corpus]]\nname = 'a'\nfiles = ['x']", "corpus[0].files: is not read by kind 'docstrings'"),
        ("[[corpus]]\nname = 'a'\nkind = 'dataset'", "corpus[0].dataset: is missing"),
        ("[[corpus]]\nname = 'a'\nval = 0.4\ntest = 0.6", "0.6 and val = 0.4 leave no document to train on"),
        ("[[corpus]]\nname = 'a'\ntest = 0.0", "corpus[0].test"),
        ("[[corpus]]\nname = 'a'\nshard_tokens = 100", "corpus[0].shard_tokens: 100 is below ctx_len 256"),
        ("[[concept]]\nname = 'a'", "concept[0].file: is missing, and so is words"),
        ("[[concept]]\nname = 'a'\nkind = 'predicate'", "concept[0].predicate: is missing"),
        ("[[concept]]\nname = 'a'\nkind = 'spans'", "concept[0].file: is missing"),
        ("[[explainer]]\nname = 'a'\nprovider = 'openai'", "explainer[0].model: is missing"),
        ("[[explainer]]\nname = 'a'\napi_key = 'sk'", "OPENAI_API_KEY"),
        ("[[explainer]]\nname = 'a'\nmax_words = 3", "explainer[0].max_words: 3 is below min_words 8"),
        ("[[scorer]]\nname = 'a'\nbase_url = 'host'", "scorer[0].base_url: 'host' should be an address"),
        ("[[scorer]]\nname = 'a'\nbatch = true", "scorer[0].batch: True: should be a valid integer"),
        ("[[sae]]\nname = 'a'\nlr = nan", "sae[0].lr: nan: should be a finite number"),
        ("[[sae]]\nname = 'a'\ncorpora = []", "sae[0].corpora"),
        ("[sae]\nname = 'a'", "sae: should be a list of sections: write [[sae]], not [sae]"),
        ("[steps]\nk = 3", "steps: 'k' should be \"step.parameter\""),
        ("[steps]\n'a.k' = [1]", "steps.a.k: [1] should be a text, a number or a boolean"),
    ],
)
def test_a_mistake_names_its_key(section: str, said: str, tmp_path: Path) -> None:
    assert said in mistakes(f"name = 'x'\n{section}\n", tmp_path)


def test_step_parameters_may_be_written_with_and_without_quotes(tmp_path: Path) -> None:
    one = Study.parse('name = "x"\n[steps]\n"contexts_top.k" = 5', tmp_path)
    other = Study.parse('name = "x"\n[steps]\ncontexts_top.k = 5', tmp_path)
    assert one.steps == other.steps == {"contexts_top.k": 5}


@pytest.mark.parametrize("value", ["0", "-1", "2.5", "true", "'x'"])
def test_a_step_parameter_that_counts_what_is_kept_is_a_number_from_1(value: str, tmp_path: Path) -> None:
    for key in ("contexts_top.k", "labels.top", "contexts_random.per_split", "logit_lens.k"):
        said = mistakes(f"name = 'x'\n[steps]\n{key} = {value}", tmp_path)
        assert f"steps.{key} is {value.title() if value == 'true' else value}; it is to be a whole number, 1 or" in said
    for section, key in (("scorer", "examples"), ("concept", "shortlist")):
        said = mistakes(f"name = 'x'\n[[{section}]]\nname = 'a'\nwords = ['w']\n{key} = 0", tmp_path)
        assert f"{section}[0].{key}" in said
    assert Study.parse("name = 'x'\n[steps]\nshortlist.min_firings = 0", tmp_path).steps


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("shortlist = 40\nshortlist_quantile = 0.95", "shortlist_quantile: 0.95 stands beside shortlist = 40"),
        ("shortlist_quantile = 1.0", "concept[0].shortlist_quantile: "),
        ("shortlist_quantile = 95.0", "concept[0].shortlist_quantile: "),
        ("before = -1", "concept[0].before: "),
        ("after = 1025", "concept[0].after: "),
        ("rank_by = 'f1'", "concept[0].rank_by: 'f1' is not one of 'separation', 'fisher', 'cohens_d'"),
    ],
)
def test_a_shortlist_that_cannot_be_is_refused_by_its_key(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(StudyError) as raised:
        Study.parse(f'name = "x"\n[[concept]]\nname = "c"\nwords = ["a"]\n{line}', tmp_path)
    assert said in str(raised.value)


def test_the_window_and_the_shortlist_of_a_concept_reach_the_catalog(tmp_path: Path) -> None:
    text = (
        'name = "x"\n[[concept]]\nname = "c"\nwords = ["a"]\nbefore = 2\nafter = 3\nrank_by = "domain"\n'
        'shortlist_quantile = 0.997\n[[concept]]\nname = "d"\nwords = ["a"]\n'
    )
    window, plain = configuration_rows(Study.parse(text, tmp_path))["concepts"]
    assert json.loads(window["definition"]) == {"words": ["a"], "ignore_case": True, "before": 2, "after": 3}
    assert (window["rank_by"], window["shortlist_quantile"]) == ("domain", 0.997)
    # As before there were windows: tokens that a catalog has found stay current.
    assert json.loads(plain["definition"]) == {"words": ["a"], "ignore_case": True}
    assert (plain["rank_by"], plain["shortlist"], plain["shortlist_quantile"]) == ("cohens_d", 50, None)


def test_own_text_without_a_concept_gets_no_concept_that_matches_nothing(tmp_path: Path) -> None:
    study = Study.parse('name = "x"\n[[corpus]]\nname = "a"\npackages = ["click"]', tmp_path)
    assert study.concepts == ()
    assert study.primary.concept is None


def test_files_that_are_no_toml(tmp_path: Path) -> None:
    assert "line 2" in mistakes('name = "x"\nk = = 3', tmp_path)
    path = tmp_path / "s.toml"
    with pytest.raises(StudyError, match="cannot be read"):
        Study.load(path)
    path.write_bytes(b'name = "\xff"')
    with pytest.raises(StudyError, match="not UTF-8 at byte 8"):
        Study.load(path)
    path.write_bytes('\ufeffname = "x"'.encode())
    assert Study.load(path).name == "x"


def test_a_word_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    concept = Study.parse('name = "x"\n[[concept]]\nname = "c"\nfile = "w.txt"', tmp_path).concepts[0]
    with pytest.raises(InputError, match=r"w\.txt cannot be read"):
        concept.all_words()
    (tmp_path / "w.txt").write_bytes(b"ok\n\xff")
    with pytest.raises(InputError, match="not UTF-8 at byte 3"):
        concept.all_words()
    (tmp_path / "w.txt").write_text("\n \n")
    with pytest.raises(InputError, match="holds no word"):
        concept.all_words()


def test_pydantic_is_not_on_the_path_of_the_catalog() -> None:
    code = "import sys; from catalog import Catalog; "
    code += "assert not {'pydantic', 'lancedb', 'lance', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
