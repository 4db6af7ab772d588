"""Keys that say nothing are refused when a study is loaded: those that an inherited architecture does not read too."""

from pathlib import Path

import pytest

from catalog.errors import StudyError
from catalog.lineage import architecture_of
from catalog.sae_section import Sae
from catalog.study import Study

FAMILY = """
name = "x"
[[sae]]
name = "general"
k = 4
[[sae]]
name = "jump"
architecture = "jumprelu"
[[sae]]
name = "child"
parent = "general"
[[sae]]
name = "grandchild"
parent = "child"
"""


def mistakes(text: str) -> list[str]:
    with pytest.raises(StudyError) as raised:
        Study.parse(text, Path())
    return [line.strip() for line in str(raised.value).splitlines()[1:]]


@pytest.mark.parametrize(
    ("parent", "line", "said"),
    [
        ("general", "sparsity = 2.0", "sparsity: is not read by architecture 'topk', only by relu, jumprelu, gated"),
        ("general", 'penalty = "tanh"', "penalty: is not read by architecture 'topk', only by jumprelu"),
        ("general", "bandwidth = 0.5", "bandwidth: is not read by architecture 'topk', only by jumprelu"),
        ("general", "sparsity_warmup = 5", "sparsity_warmup: is not read by architecture 'topk'"),
        ("general", "l0_range = [1, 2]", "l0_range: is not read by architecture 'topk'"),
        ("general", "groups = [2, 4]", "groups: is not read by architecture 'topk', only by matryoshka"),
        ("grandchild", "sparsity = 2.0", "sparsity: is not read by architecture 'topk'"),
        ("jump", "k_aux = 8", "k_aux: is not read by architecture 'jumprelu', only by topk, batchtopk, matryoshka"),
        ("jump", "k = 8", "k: is not read by architecture 'jumprelu', only by topk, batchtopk, matryoshka"),
        ("jump", "resample_every = 8", "resample_every: is not read by architecture 'jumprelu', only by relu"),
    ],
)
def test_a_key_that_the_parents_architecture_does_not_read_is_refused(parent: str, line: str, said: str) -> None:
    (found,) = mistakes(f'{FAMILY}[[sae]]\nname = "s"\nparent = "{parent}"\n{line}')
    assert found.startswith(f"sae[4].{said}")
    assert found.endswith(f"it has the architecture of its parent '{parent}'")


@pytest.mark.parametrize(
    "lines",
    [
        'parent = "general"\nk_aux = 8',
        'parent = "jump"\nbandwidth = 0.5\nsparsity = 2.0',
        'parent = "general"\narchitecture = "relu"\nsparsity = 2.0',
        # What is in a folder only its files tell.
        'parent = "./folder"\nsparsity = 2.0\nk_aux = 8',
    ],
)
def test_a_key_that_is_read_or_may_be_passes(lines: str) -> None:
    Study.parse(f'{FAMILY}[[sae]]\nname = "s"\n{lines}', Path())


@pytest.mark.parametrize(
    ("family", "setting", "key"),
    [("grandchild", "sparsity", "sparsity"), ("grandchild", "l0", "l0_range"), ("other", "k", "k")],
)
def test_a_sweep_over_what_an_inherited_architecture_does_not_read_is_refused(
    family: str, setting: str, key: str
) -> None:
    other = '[[sae]]\nname = "other"\nparent = "jump"\n'
    sweep = f'[[sweep]]\nname = "w"\nsaes = ["{family}"]\nsetting = "{setting}"\nvalues = [1, 2]'
    (found,) = mistakes(FAMILY + other + sweep)
    assert found.startswith(f"sweep[0].values: {key}: is not read by architecture")
    assert found.endswith(f"; '{family}' has the architecture of its parent")


def test_parents_in_a_circle_have_no_architecture() -> None:
    saes = {name: Sae(name=name, parent=parent) for name, parent in (("a", "b"), ("b", "a"))}
    assert architecture_of(saes["a"], saes) == (None, None)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("stream = true\nprocesses = 2", "sae[0].processes: 2 processes train from the cache alone: leave out stream"),
        ("processes = 3", "sae[0].batch: 2048 does not divide among 3 processes: choose a multiple of 3"),
        ("processes = 2\nbatch = 65", "sae[0].batch: 65 does not divide among 2 processes: choose a multiple of 2"),
        ('corpora = ["docstrings"]\nselection = "f"', "sae[0].selection: does not go with corpora: the selection says"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(lines: str, said: str) -> None:
    selection = '[[selection]]\nname = "f"\nmethod = "full"\npool = "docstrings"\n'
    (found,) = mistakes(f'name = "x"\n{selection}[[sae]]\nname = "s"\n{lines}')
    assert found.startswith(said)


def test_processes_that_share_a_batch_pass() -> None:
    Study.parse('name = "x"\n[[sae]]\nname = "s"\nprocesses = 3\nbatch = 66', Path())
