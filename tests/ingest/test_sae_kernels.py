"""The kernels of a GPU against dense products in float64, and a whole step with them against one without.

Without a GPU they run in Triton's interpreter, which executes each kernel's program on numpy arrays; what the compiler
makes of them is then checked as machine code that no one runs.
"""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is built for Linux alone")

from ingest.sae.architecture import Architecture, Batch, Outcome, Weights
from ingest.sae.codes import SparseCode, by_latent, fixed, ragged
from ingest.sae.config import Objective, SAEConfig
from ingest.sae.products import triton_sums, triton_use
from ingest.sae.products.precision import products_in
from ingest.sae.registry import architecture_of
from ingest.sae.training.adam import UnitDecoderAdam
from tests.benchmarks.train_gpu import PARTS, Size, measured
from tests.ingest.test_sae_step import dense

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LATENTS = 60
FLOAT32 = 2e-6
"""Relative error of a product that sums a few hundred float32 terms."""


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def some_code(n: int, kind: str) -> SparseCode:
    """`fixed`: 5 pairs a row. `ragged`: 0 to 150, more than a tile takes. `skewed`: one latent has every row."""
    g = torch.Generator().manual_seed(n)
    if kind == "fixed":
        indices = torch.stack([torch.randperm(LATENTS, generator=g)[:5] for _ in range(n)])
        return fixed(drawn(n, 5, seed=1).abs(), indices.to(DEVICE))
    counts = torch.full((n,), 1) if kind == "skewed" else torch.randint(0, LATENTS, (n,), generator=g)
    if kind == "ragged":
        counts[0], counts[1] = 0, LATENTS
    rows = [torch.zeros(1, dtype=torch.int64)] * n
    if kind == "ragged":
        rows = [torch.randperm(LATENTS, generator=g)[: int(count)] for count in counts]
    indices = torch.cat(rows)
    return ragged(drawn(len(indices), seed=1).abs(), indices.to(DEVICE), counts.to(DEVICE))


def near(found: Tensor, exact: Tensor, relative: float = FLOAT32) -> None:
    assert found.dtype == torch.float32
    assert float((found.double() - exact).norm()) <= relative * float(exact.norm())


KINDS = ["fixed", "ragged", "skewed"]
WIDTHS = [1, 128, 300]
"""Less than a stretch of columns, exactly one, not whole ones."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("d", "partial_sums"), [*((d, 1 << 28) for d in WIDTHS), (300, 0)])
def test_decoding_and_comparing(kind: str, d: int, partial_sums: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_sums, "PARTIAL_SUMS", partial_sums)
    code, decoder, target = some_code(23, kind), drawn(LATENTS, d, seed=2), drawn(23, d, seed=3)
    error, products = triton_sums.decode_and_compare(code, decoder, target)
    exact = target.double() - dense(code, LATENTS).double() @ decoder.double()
    near(error, exact)
    near(products, (exact @ decoder.double().T)[code.rows(), code.indices])
    step = drawn(23, d, seed=4)
    expected = (step.double() @ decoder.double().T)[code.rows(), code.indices]
    near(triton_sums.products_at_pairs(code, decoder, step), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("d_in", "d_out"), [(1, 700), (100, 100), (512, 512), (600, 20)])
def test_products_of_latents(kind: str, d_in: int, d_out: int) -> None:
    code = some_code(41, kind)
    x, step, by_pre = drawn(41, d_in, seed=2), drawn(41, d_out, seed=3), drawn(len(code.values), seed=4)
    encoder, bias, decoder = triton_sums.latent_products(by_latent(code, LATENTS), by_pre, x, code.values, step)
    slopes = dense(code._replace(values=by_pre), LATENTS).double()
    near(encoder, slopes.T @ x.double())
    near(bias, slopes.sum(0))
    near(decoder, dense(code, LATENTS).double().T @ step.double())
    # A latent without a pair has a gradient of zero, not whatever stood in memory.
    silent = dense(code, LATENTS).count_nonzero(0) == 0
    assert not encoder[silent].any()
    assert not bias[silent].any()
    assert not decoder[silent].any()


def test_factors_in_bfloat16_are_multiplied_exactly() -> None:
    code, target = some_code(23, "ragged"), drawn(23, 300, seed=3)
    decoder, step = drawn(LATENTS, 300, seed=2).bfloat16(), drawn(23, 300, seed=4).bfloat16()
    error, products = triton_sums.decode_and_compare(code, decoder, target)
    exact = target.double() - dense(code, LATENTS).double() @ decoder.double()
    near(error, exact)
    near(products, (exact @ decoder.double().T)[code.rows(), code.indices])
    found = triton_sums.latent_products(by_latent(code, LATENTS), code.values, step, code.values, step)
    near(found[0], dense(code, LATENTS).double().T @ step.double())
    assert torch.equal(found[0], found[2])


def test_no_rows_and_no_pairs() -> None:
    nothing = ragged(drawn(0), torch.zeros(0, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))
    nothing = SparseCode(*(part.to(DEVICE) for part in nothing))
    target = drawn(3, 10)
    error, products = triton_sums.decode_and_compare(nothing, drawn(LATENTS, 10), target)
    assert torch.equal(error, target)
    assert products.shape == (0,)
    gradients = triton_sums.latent_products(by_latent(nothing, LATENTS), products, target, products, target)
    assert not any(gradient.any() for gradient in gradients)


def test_the_same_input_gives_the_same_bits() -> None:
    code, decoder, target = some_code(23, "ragged"), drawn(LATENTS, 300, seed=2), drawn(23, 300, seed=3)
    first, second = (triton_sums.decode_and_compare(code, decoder, target) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "matryoshka", "relu", "jumprelu"])
@pytest.mark.parametrize(("precision", "transcoder"), [("float32", True), ("bfloat16", False)])
def test_a_step_is_that_of_torch(
    architecture: str, precision: str, transcoder: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it: choice of pairs, nested dictionaries, AuxK, tilt, a skip path."""
    monkeypatch.setattr("ingest.sae.losses.penalty_family.SPARSE_BELOW", 1.0)
    d, d_out, width, n = 40, 56 if transcoder else 40, 96, 33
    groups = (24, 50, width) if architecture == "matryoshka" else ()
    k = 6 if architecture in ("topk", "batchtopk", "matryoshka") else None
    reads = {"target_hookpoint": "other", "d_out": d_out, "centred": False} if transcoder else {}
    config = SAEConfig(d, width, k, "none", "none", architecture, groups=groups, **reads)
    made: Architecture = architecture_of(config, Objective(k_aux=8) if k else Objective())
    weights = Weights(drawn(width, d, seed=1), -8 + drawn(width, seed=2), drawn(width, d_out, seed=3), drawn(d_out))
    if k:
        weights = replace(weights, encoder_bias=drawn(width, seed=2))
    if architecture == "jumprelu":
        weights = replace(weights, threshold=torch.full((width,), 0.5, device=DEVICE))
    elif k and architecture != "topk":
        weights = replace(weights, threshold=torch.tensor(-1.0, device=DEVICE))
    if transcoder:
        weights = replace(weights, skip=0.1 * drawn(d_out, d, seed=4))
    x = drawn(n, d, seed=5)
    target = drawn(n, d_out, seed=6) if transcoder else x
    batch = Batch(x, target, torch.arange(width, device=DEVICE) % 5 == 0, sparsity=0.1, tilt=0.5)

    def outcome(have: bool) -> Outcome:
        monkeypatch.setattr(triton_use, "_have_kernels", lambda _device: have)
        with products_in(precision):
            return made.loss(weights, batch)

    calls = []
    real = triton_sums.latent_products
    monkeypatch.setattr(triton_sums, "latent_products", lambda *given: (calls.append(1), real(*given))[1])
    found, expected = outcome(True), outcome(False)
    assert calls, "the kernels were not used"
    assert torch.equal(found.fired, expected.fired)
    # Torch's own products take float32 factors: what is gathered differs by a rounding to 8 bits.
    relative = 1e-5 if precision == "float32" else 2**-7
    torch.testing.assert_close(found.loss, expected.loss, rtol=relative, atol=0)
    for name, slope in found.gradient.named().items():
        near(slope, expected.gradient.named()[name].double(), relative)


@pytest.mark.parametrize(("d", "d_out"), [(40, 40), (130, 56)])
def test_the_optimisers_steps_are_those_of_torch(d: int, d_out: int, monkeypatch: pytest.MonkeyPatch) -> None:
    width = 30
    decoder = torch.nn.functional.normalize(drawn(width, d_out, seed=1))
    decoder[4] = 0
    begun = Weights(drawn(width, d, seed=2), drawn(width, seed=3), decoder, drawn(d_out, seed=4))
    begun = replace(begun, threshold=drawn(width, seed=5).abs(), skip=drawn(d_out, d, seed=6))
    ends = []
    for have in (True, False):
        monkeypatch.setattr(triton_use, "_have_kernels", lambda _device, have=have: have)
        weights = Weights(**{name: tensor.clone() for name, tensor in begun.named().items()})
        optimiser = UnitDecoderAdam(weights)
        for step in range(6):
            if step == 3:
                # As after a kill: another optimiser takes over the state, and some latents are given new weights.
                state = {name: tensor.clone() for name, tensor in optimiser.state("adam.").items()}
                optimiser = UnitDecoderAdam(weights)
                optimiser.restore(state, "adam.")
                optimiser.forget(torch.tensor([2, 7], device=DEVICE))
            slopes = {name: drawn(*t.shape, seed=10 * step + i) for i, (name, t) in enumerate(begun.named().items())}
            # As if most of it were along the rows: what is left is a small difference of large numbers.
            slopes["decoder"] += 100 * weights.decoder
            optimiser.step(Weights(**slopes), 0.01 * (step + 1))
        ends.append((weights.named(), optimiser.state("")))
    (found, state), (expected, other) = ends
    assert state.keys() == other.keys()
    for name, tensor in {**expected, **other}.items():
        torch.testing.assert_close({**found, **state}[name].to(tensor.device), tensor, rtol=1e-4, atol=1e-6, msg=name)
    norms = found["decoder"].norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_the_benchmark_measures_every_part() -> None:
    found = measured(Size(d=32, width=128, k=4, batch=64, rounds=2))
    parts = [(row["part"], row["kernels"]) for row in found["steps"]]
    used = (True, False) if DEVICE == "cuda" else (False,)
    assert parts == [(part, triton_sums) for triton_sums in used for part in PARTS]
    for row in found["steps"]:
        assert row["tokens_per_s"] == pytest.approx(1000 * 64 / row["ms"], rel=0.01)
        assert row["share_of_gemm"] == pytest.approx(found["gemm"]["ms"] / row["ms"], abs=1e-3)
    assert found["steps"][0]["l0"] == 4
    assert all(ms > 0 for ms in found["stages"].values())


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from ingest.sae.products import triton_sums

from ingest.sae.products import triton_adam
ROW = {"COLUMNS": 4096}
FACTORS = {"fp32": (), "bf16": ("decoder", "x_in", "step")}
NUMBERS = {"d", "pairs", "span", "d_in", "d_out"}
SCALARS = {"rate", "first", "second", "correction", "epsilon"}
WHOLE = {"indices", "offsets", "turn", "order", "rows"}

def kind(name, factor):
    if name in NUMBERS:
        return "i32"
    if name in SCALARS:
        return "fp32"
    if name in WHOLE:
        return "*i64"
    return f"*{factor}" if name in FACTORS[factor] else "*fp32"

BLOCK = {"PAIRS": triton_sums.PAIRS, "COLUMNS": triton_sums.COLUMNS}
LATENTS = {"PAIRS": triton_sums.LATENT_PAIRS, "COLUMNS": triton_sums.LATENT_COLUMNS}
for capability in (80, 90):
    for factor in FACTORS:
        for kernel, constants, warps in [
            (triton_sums._decode_and_compare, {"COMPARE": True, **BLOCK}, 4),
            (triton_sums._decode_and_compare, {"COMPARE": False, **BLOCK}, 4),
            (triton_sums._latent_products, LATENTS, 8),
            (triton_adam._unit_parts, ROW, 8),
            (triton_adam._adam, {"UNIT": True, **ROW}, 8),
            (triton_adam._adam, {"UNIT": False, **ROW}, 8),
        ]:
            signature = {name: "constexpr" if name in constants else kind(name, factor) for name in kernel.arg_names}
            source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
            made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})
            print(kernel.__name__, capability, factor, len(made.asm["cubin"]), made.asm["ptx"].count("ld.local"))
"""


def test_they_compile_for_real_gpus() -> None:
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 24
    assert all(int(size) > 0 and int(spilled) == 0 for *_, size, spilled in lines)
