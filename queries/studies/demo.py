"""Builds the demo: text of installed packages -> SmolLM2 -> an SAE -> labelled, searchable features.

Where the package that carries SmolLM2 is not installed, the small model that comes with saeql stands for it. It runs
the same functions as `ingest`, `refresh`, `search` and `sql`, and prints what a person can do next.
"""

from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.text import Text

from catalog import Catalog, Location
from catalog.errors import InputError, StepError
from catalog.study.file import Study
from queries.session import Session
from queries.terminal.card import highlighted, label_line, visible
from queries.terminal.console import SafeConsole
from queries.terminal.progress import say
from queries.terminal.work import STUDY, run_ingest, run_refresh

SEARCH = {"demo.toml": "people killed in an attack", "demo_embedded.toml": "string formatting"}
"""What is searched for, by study."""
TOP = 8
NEWS = "gensim"
"""Package that carries the demo's news."""
_QUERY = "SELECT feature, label, f1 FROM features WHERE f1 > 0.7 ORDER BY cohens_d DESC LIMIT 10"


def run_demo(place: Path | Location, embedded: bool = False) -> None:
    """Build the demo's catalog in a folder or at an address, or bring it up to date, and print a tour of it.

    `embedded` builds it of the embedded model also where SmolLM2 is at hand; a study that is there stays.

    Raises StepError if a step of the refresh failed.
    """
    location = Location.parse(place)
    root = location.root
    root.mkdir(parents=True, exist_ok=True)
    path = root / STUDY
    if not path.exists():
        path.write_text(_study(embedded), encoding="utf-8")
    study = Study.load(path)
    run_ingest(location, study)
    failed = [result for result in run_refresh(root) if result.state == "failed"]
    if failed:
        raise StepError(f"step {failed[0].step} failed: {failed[0].error}")
    out = SafeConsole(soft_wrap=True)
    with Session(root) as session:
        with session.reading() as catalog:
            _print_figures(out, catalog)
            features = best_features(catalog)
        _print_features(out, session, study, features)
        _print_search(out, session, SEARCH["demo_embedded.toml" if study.model.source == "embedded" else "demo.toml"])
    where = "" if root == Path("demo") else f"-C {root} "
    out.print("\nNext:", style="bold")
    lines = [f'saeql {where}sql "{_QUERY}"']
    if features:
        sae, number = features[0]
        lines.append(f"saeql {where}show {number}" + (f" --sae {sae}" if len(study.trained()) > 1 else ""))
    for line in lines:
        out.print(f"  {line}", markup=False, soft_wrap=True)


def _study(embedded: bool) -> str:
    """The study of the demo, as what is installed here allows it; on stderr what it lacks."""
    from ingest.model.gguf.gguf_files import find_gguf

    packaged = resources.files("queries.studies")
    if not embedded:
        try:
            find_gguf("smollm2")
            version("gguf"), version("accelerate")
        except (InputError, PackageNotFoundError) as error:
            say(f"{error}. Until then the demo has a small model that comes with saeql.")
            embedded = True
    if embedded:
        return (packaged / "demo_embedded.toml").read_text()
    study = (packaged / "demo.toml").read_text()
    try:
        version(NEWS)
    except PackageNotFoundError:
        say(
            f"without the package {NEWS}, which carries news, the demo reads Python's language reference in their place"
        )
        begin, end = study.index('[[corpus]]\nname = "news"'), study.index("[[sae]]")
        reference = 'name = "reference"\nkind = "docstrings"\npackages = ["pydoc_data"]\nctx_len = 128\n'
        study = f"{study[:begin]}[[corpus]]\n{reference}max_tokens = 45_000\n\n{study[end:]}"
    return study


def _print_figures(out: Console, catalog: Catalog) -> None:
    model, layers, d = catalog.rows("SELECT model, layers, d_model FROM models")[0]
    documents, tokens = catalog.rows("SELECT sum(documents), sum(tokens) FROM corpora")[0]
    activations, size = catalog.rows(
        "SELECT sum(rows)::BIGINT, sum(bytes)::BIGINT FROM shards WHERE relation = 'activations'"
    )[0]
    out.print(f"\nmodel {model}: {layers} layers, d {d}; text: {documents} documents, {tokens} tokens")
    for sae, hookpoint, width, k, l0, fve, dead, held_out in catalog.rows(
        "SELECT sae, hookpoint, width, k, l0, fve, dead, held_out FROM saes ORDER BY sae"
    ):
        out.print(
            f"SAE {sae} on {hookpoint}: {width} latents, k {k}; on {held_out} held-out tokens "
            f"L0 {l0:.1f}, FVE {fve:.3f}, dead {dead} ({dead / width:.1%})",
            markup=False,
        )
    out.print(f"{activations} activations in {size / 1e6:.1f} MB ({size / activations:.2f} bytes each)")
    windows, leaked = catalog.rows(
        "SELECT sum(windows)::BIGINT, sum(leaked_windows)::BIGINT FROM splits WHERE split <> 'train'"
    )[0]
    out.print(f"{leaked} of {windows} val and test windows repeat train text and score nothing")
    scored, good, mean, null = catalog.rows(
        "SELECT count(f1), count(*) FILTER (f1 > 0.7), avg(f1), avg(f1_null) FROM features"
    )[0]
    shares = catalog.rows("SELECT count(*), count(*) FILTER (problem IS NOT NULL) FROM labels")[0]
    out.print(
        f"labels: {shares[0]} asked, {shares[1]} without an answer; {scored} scored, {good} with F1 > 0.7, "
        f"mean F1 {mean or 0:.2f}, of another feature's label {null or 0:.2f}"
    )


def best_features(catalog: Catalog, most: int = TOP) -> list[tuple[str, int]]:
    """(SAE, feature) of those that separate the study's concept best, by their ranks in each SAE."""
    rows = catalog.rows(
        "SELECT l.sae, l.feature FROM shortlist AS l JOIN study AS y ON y.concept = l.concept "
        "ORDER BY l.rank, l.sae LIMIT ?",
        [most],
    )
    return [(str(sae), int(feature)) for sae, feature in rows]


def _print_features(out: Console, session: Session, study: Study, features: list[tuple[str, int]]) -> None:
    concept = study.primary.concept
    out.print(f"\nThe {len(features)} features that separate {concept} best", style="bold", markup=False)
    several = len({sae for sae, _ in features}) > 1
    for sae, number in features:
        card = session.feature(number, sae, contexts=1)
        (found,) = (one for one in card.separation if one["concept"] == concept)
        out.print(
            Text(f"{f'{visible(sae, quoted=False)} ' if several else ''}{number:>5}", style="bold")
            + Text(f"  Cohen's d {found['cohens_d']:.2f}, AUROC {found['auroc']:.3f}")
        )
        for label in card.labels:
            out.print(Text("       ") + label_line(label))
        for context in card.contexts:
            out.print(Text("       ") + highlighted(context, marks=out.color_system is None))


def _print_search(out: Console, session: Session, words: str) -> None:
    out.print(f'\nsaeql search "{words}"', style="bold", markup=False)
    for row in session.search(words, 3):
        f1 = "not scored" if row["f1"] is None else f"F1 {row['f1']:.2f}"
        out.print(Text(f"{row['feature']:>5}  {row['similarity']:.2f}  {visible(row['label'], quoted=False)}  ({f1})"))
