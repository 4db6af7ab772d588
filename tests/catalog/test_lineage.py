"""Keys that say nothing are refused when a study is loaded: those that an inherited architecture does not read too."""

from pathlib import Path

import pytest

from catalog.errors import StudyError
from catalog.study.file import Study
from catalog.study.inheritance import architecture_of
from catalog.study.sae import Sae

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


CHILD = '[[sae]]\nname = "{}"\nparent = "{}"\n'
SELECTION = '[[selection]]\nname = "s"\nmethod = "bm25+tracin"\npool = "docstrings"\nseed = "docstrings"\ntokens = 10\n'


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            CHILD.format("a", "b") + CHILD.format("b", "a"),
            "sae: 'a', 'b' wait for each other, as parents or as parents",
        ),
        # Who only waits for a circle is in none.
        (CHILD.format("a", "b") + CHILD.format("b", "a") + CHILD.format("c", "a"), "sae: 'a', 'b' wait for each other"),
        (
            CHILD.format("a", "g") + 'selection = "s"\n' + CHILD.format("g", "./x") + f'{SELECTION}parent = "a"',
            "sae: 'a' wait for each other",
        ),
        (
            CHILD.format("t", "./x") + "template = true\n" + CHILD.format("c", "t"),
            "sae[1].parent: 't' is a template, of",
        ),
        (
            CHILD.format("t", "./x") + f'template = true\n{SELECTION}parent = "t"',
            "selection[0].parent: 't' is a template, of which only the runs of a [[sweep]] are made: name another SAE",
        ),
        (
            '[[sae]]\nname = "g"\nwidth = 64\nk = 4\n' + CHILD.format("c", "g") + "width = 32",
            "sae[1].width: 32 is not that of its parent 'g', 64: leave it out",
        ),
        (
            '[[sae]]\nname = "g"\nwidth = 64\nk = 4\n' + CHILD.format("c", "g") + "k = 65",
            "sae[1].k: 65 is above width 64",
        ),
        ('[[sae]]\nname = "g"\nwidth = 64\nk = 65', "sae[0].k: 65 is above width 64"),
        (
            '[[sae]]\nname = "g"\narchitecture = "relu"\nl0_range = [60, 3000]',
            "sae[0].l0_range: 3000 is above width 2048",
        ),
        (
            '[[sae]]\nname = "g"\narchitecture = "matryoshka"\nwidth = 64\ngroups = [8, 32]',
            "sae[0].groups: [8, 32] must end with the width, 64",
        ),
    ],
)
def test_what_an_sae_cannot_have_from_its_parents_is_a_mistake_of_the_study(lines: str, said: str) -> None:
    (found,) = mistakes('name = "x"\n' + lines)
    assert found.startswith(said)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("steps = 20\ndecay = 30", "sae[0]: a warm-up of 0 and a decay of 30 steps do not fit in 20 steps"),
        ("steps = 20\nwarmup = 15\ndecay = 6", "sae[0]: a warm-up of 15 and a decay of 6 steps do not fit in 20 steps"),
        ("l0_range = [20, 10]", "sae[0].l0_range: [20, 10] must ascend"),
        (
            "sparsity = 0.0\nl0_range = [10, 20]",
            "sae[0].l0_range: adjusts the coefficient, which cannot begin at spars",
        ),
        (
            'harvest = ["docstrings"]\ntemplate = true',
            "sae[0].template: has no activations of its own: name the corpora",
        ),
    ],
)
def test_a_relu_sae_that_cannot_be_trained_so_is_a_mistake_of_the_study(lines: str, said: str) -> None:
    (found,) = mistakes(f'name = "x"\n[[sae]]\nname = "s"\narchitecture = "relu"\n{lines}')
    assert found.startswith(said)


@pytest.mark.parametrize(
    ("steps", "keys", "expected"),
    [
        (1000, {}, (50, 300)),
        (40, {}, (10, 20)),
        (20, {"decay": 18}, (2, 18)),
        (20, {"warmup": 15}, (15, 5)),
        (1, {}, (0, 0)),
    ],
)
def test_the_steps_of_warm_up_and_decay_that_are_left_out_fit(
    steps: int, keys: dict[str, int], expected: tuple[int, int]
) -> None:
    sae = Sae(name="s", steps=steps, **keys)  # type: ignore[arg-type]
    assert (sae.warmup_steps, sae.decay_steps) == expected


@pytest.mark.parametrize(
    ("family", "setting", "values", "said"),
    [
        ('checkpoint = "./theirs"', "lr", "[0.1, 0.2]", "'f' is loaded from its checkpoint as it is: name that folder"),
        ('architecture = "relu"\nwidth = 64', "l0", "[10, 100]", "'f-l0-100-s0': l0_range 105 is above width 64"),
    ],
)
def test_a_sweep_that_cannot_be_run_is_refused(family: str, setting: str, values: str, said: str) -> None:
    sweep = f'[[sweep]]\nname = "w"\nsaes = ["f"]\nsetting = "{setting}"\nvalues = {values}'
    (found,) = mistakes(f'name = "x"\n[[sae]]\nname = "f"\ntemplate = true\n{family}\n{sweep}')
    assert found.startswith(f"sweep[0].values: {said}")
