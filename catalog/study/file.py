"""Reads a study file (TOML): model, text, SAEs, concepts, explainers, scorers. It reports all mistakes at once."""

import difflib
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from catalog.errors import InputError, StudyError
from catalog.study.base import Name, Section, is_folder
from catalog.study.concept import Concept
from catalog.study.inheritance import mistakes_of_runs, mistakes_of_saes
from catalog.study.labelling import Explainer, Primary, Scorer
from catalog.study.sae import WIDTH, K, Measuring, Sae
from catalog.study.selection import Selection
from catalog.study.small_file import read_small
from catalog.study.step_counts import COUNTS
from catalog.study.sweep import Sweep
from catalog.study.text import Corpus, Model

LISTS: dict[str, type[Section]] = {
    "corpus": Corpus,
    "sae": Sae,
    "selection": Selection,
    "sweep": Sweep,
    "concept": Concept,
    "explainer": Explainer,
    "scorer": Scorer,
}
MAY_BE_EMPTY = ("concept", "selection", "sweep")
_MOST_BYTES = 4 * 1024 * 1024
_WORDS = ("matrix", "matrices", "eigenvalue", "eigenvalues", "eigenvector", "eigenvectors", "determinant", "orthogonal")
_REFERENCES = (
    ("sae", "corpora", "corpus"),
    ("sae", "harvest", "corpus"),
    ("sae", "evaluate", "corpus"),
    ("sae", "selection", "selection"),
    ("sae", "parent", "sae"),
    ("concept", "corpora", "corpus"),
    ("selection", "pool", "corpus"),
    ("selection", "seed", "corpus"),
    ("selection", "parent", "sae"),
    ("sweep", "saes", "sae"),
    ("sweep", "harvest", "corpus"),
)
"""(section, its key, the kind of section that the key names)."""
# What a study without a [[section]] gets. A concept of the default text would match nothing in other text.
_DEFAULTS: dict[str, list[dict[str, Any]]] = {
    "corpus": [{"name": "docstrings", "max_tokens": 1_000_000}],
    "sae": [{"name": "sae", "architecture": "topk", "width": WIDTH, "k": K}],
    "selection": [],
    "sweep": [],
    "concept": [{"name": "linear-algebra", "words": list(_WORDS)}],
    "explainer": [{"name": "lexical"}],
    "scorer": [{"name": "detection"}],
}


class Study(Section):
    """A checked study. Made by `load` or `parse`; file paths in it are absolute."""

    name: Name
    """Name of the study."""
    model: Model = Model()
    """[model]"""
    corpora: Annotated[tuple[Corpus, ...], Field(alias="corpus", strict=False)]
    """[[corpus]]"""
    saes: Annotated[tuple[Sae, ...], Field(alias="sae", strict=False)]
    """[[sae]]"""
    selections: Annotated[tuple[Selection, ...], Field(alias="selection", strict=False)]
    """[[selection]]"""
    sweeps: Annotated[tuple[Sweep, ...], Field(alias="sweep", strict=False)]
    """[[sweep]]"""
    concepts: Annotated[tuple[Concept, ...], Field(alias="concept", strict=False)]
    """[[concept]]"""
    explainers: Annotated[tuple[Explainer, ...], Field(alias="explainer", strict=False)]
    """[[explainer]]"""
    scorers: Annotated[tuple[Scorer, ...], Field(alias="scorer", strict=False)]
    """[[scorer]]"""
    evaluation: Measuring = Measuring()
    """[evaluation]"""
    primary: Primary = Primary()
    """[primary], the first of each filled in; a concept of None means that the study has none."""
    steps: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """[steps]: parameters of refresh steps, as "step.parameter" -> value."""

    @classmethod
    def load(cls, path: str | Path) -> "Study":
        """Read a study file. Raises StudyError with every mistake in it."""
        path = Path(path)
        try:
            text = read_small(path, "the study", _MOST_BYTES).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise StudyError(f"{path} is not UTF-8 at byte {error.start}: save it as UTF-8") from error
        except InputError as error:
            raise StudyError(str(error)) from error
        return cls.parse(text, path.absolute().parent, source=str(path))

    @classmethod
    def parse(cls, text: str, folder: str | Path, *, source: str = "the study") -> "Study":
        """Check the text of a study file; relative paths in it start at `folder`.

        Raises StudyError with every mistake, each with its key's path; a TOML error has line and column.
        """
        try:
            raw = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise StudyError(f"{source} is not TOML: {error}") from error
        except (RecursionError, ValueError) as error:
            # Thousands of brackets in brackets; a number of thousands of digits.
            raise StudyError(f"{source} nests too deeply, or has a number that is too long, for a study") from error
        filled = _filled(raw)
        mistakes = list(_conflicts(filled))
        try:
            study = cls.model_validate(filled, context={"folder": Path(folder)})
        except ValidationError as error:
            # A union reports one error per member: as text they are the same mistake.
            mistakes = list(dict.fromkeys(_described(detail) for detail in error.errors())) + mistakes
        else:
            if not mistakes:
                mistakes = [*mistakes_of_saes(study.saes, study.selections), *study._sweep_mistakes()]
        if mistakes:
            count = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
            raise StudyError(f"{source} has {count}:\n" + "\n".join(f"  {line}" for line in mistakes))
        return study

    def trained(self) -> list[Sae]:
        """The SAEs that the catalog holds: those that stand alone, and every run of every sweep."""
        alone = [sae for sae in self.saes if not sae.template]
        return alone + [sae for sweep in self.sweeps for _, _, sae in self.runs(sweep)]

    def runs(self, sweep: Sweep) -> list[tuple[str, float, Sae]]:
        """(family, value, SAE) of each run of a sweep."""
        return sweep.expanded({sae.name: sae for sae in self.saes})

    def with_sweep(self, asked: dict[str, Any]) -> "Study":
        """This study and one more sweep. Raises StudyError if the sweep cannot be, or its name is taken."""
        known = [sae.name for sae in self.saes]
        unknown = [name for name in asked["saes"] if name not in known]
        if unknown:
            raise StudyError(f"there is no sae {unknown[0]!r}; known: {', '.join(known)}")
        taken = [sweep.name for sweep in self.sweeps]
        if asked["name"] in taken:
            raise StudyError(
                f"the study {self.name!r} has a [[sweep]] {asked['name']!r}, which this one would replace: "
                f"give it another name than {', '.join(taken)} (--name)"
            )
        try:
            found = self.model_copy(update={"sweeps": (*self.sweeps, Sweep.model_validate(asked))})
            mistakes = found._sweep_mistakes()
        except ValidationError as error:
            mistakes = [_described(detail) for detail in error.errors()]
        if mistakes:
            raise StudyError(f"the sweep has {len(mistakes)} mistakes:\n" + "\n".join(f"  {line}" for line in mistakes))
        return found

    def _sweep_mistakes(self) -> list[str]:
        """Sweeps over a setting that their SAEs do not read, and runs that have the name of another SAE."""
        mistakes, names = [], Counter(sae.name for sae in self.saes)
        by_name = {sae.name: sae for sae in self.saes}
        for i, sweep in enumerate(self.sweeps):
            try:
                runs = self.runs(sweep)
            except ValidationError as error:
                mistakes.append(f"sweep[{i}].values: {_described(error.errors()[0])}")
                continue
            names.update(sae.name for _, _, sae in runs)
            mistakes += [f"sweep[{i}].values: {wrong}" for wrong in mistakes_of_runs(runs, by_name)]
        return mistakes + [f"sweep: a run has the name {name!r} of another SAE" for name, n in names.items() if n > 1]

    def corpora_of(self, part: Sae | Concept) -> tuple[str, ...]:
        """Names of the corpora that an SAE is trained on, or a concept defined on."""
        if isinstance(part, Sae) and part.selection is not None:
            chosen = next(selection for selection in self.selections if selection.name == part.selection)
            return (chosen.seed if chosen.method == "seed" and chosen.seed else chosen.pool,)
        return part.corpora if part.corpora is not None else tuple(corpus.name for corpus in self.corpora)

    @field_validator("steps", mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        """TOML reads `step.parameter = 1` as a table in a table, and `"step.parameter" = 1` as one key."""
        if not isinstance(value, dict):
            return value
        flat: dict[str, Any] = {}
        for key, inner in value.items():
            flat.update({f"{key}.{name}": v for name, v in inner.items()} if isinstance(inner, dict) else {key: inner})
        for key in flat:
            if key.count(".") != 1:
                raise ValueError(f'{key!r} should be "step.parameter", such as "contexts_top.k"')
            if key in COUNTS and (type(flat[key]) is not int or flat[key] < 1):
                raise ValueError(f"steps.{key} is {flat[key]!r}; it is to be a whole number, 1 or more")
        return flat


def template() -> str:
    """The commented study file that `saeql init` writes: every key with its default."""
    return (resources.files("catalog.study") / "template.toml").read_text()


def _filled(raw: dict[str, Any]) -> dict[str, Any]:
    """`raw` with the default of each section that it leaves out, and the first of each as the primary."""
    filled = dict(raw)
    for key, sections in _DEFAULTS.items():
        filled.setdefault(key, [] if key == "concept" and "corpus" in raw else sections)
    primary = filled.get("primary", {})
    if isinstance(primary, dict):
        first = {key: next(iter(_names(filled, key)), None) for key in Primary.model_fields}
        filled["primary"] = {key: name for key, name in first.items() if name is not None} | primary
    return filled


def _names(raw: Mapping[str, Any], key: str) -> list[str]:
    """The names of the sections under `key`, also of those that have other mistakes."""
    sections = raw.get(key)
    named = [s.get("name") for s in sections if isinstance(s, dict)] if isinstance(sections, list) else []
    return [name for name in named if isinstance(name, str)]


def _conflicts(raw: dict[str, Any]) -> Iterator[str]:
    """Names that stand twice, and references to names that are not there."""
    for key in LISTS:
        if raw[key] == [] and key not in MAY_BE_EMPTY:
            yield f"{key}: is empty; leave it out to get the default"
        for name, times in Counter(_names(raw, key)).items():
            if times > 1:
                yield f"{key}: the name {name!r} is given {times} times; names must differ"
    for key, field, target in _REFERENCES:
        sections = raw[key] if isinstance(raw[key], list) else []
        for i, section in enumerate(sections):
            asked = section.get(field) if isinstance(section, dict) else None
            if isinstance(asked, str):
                # An SAE's parent may be a path as well.
                if not (field == "parent" and is_folder(asked)):
                    yield from _unknown(raw, f"{key}[{i}].{field}", target, asked)
                continue
            for j, name in enumerate(asked if isinstance(asked, list) else []):
                yield from _unknown(raw, f"{key}[{i}].{field}[{j}]", target, name)
    primary = raw["primary"] if isinstance(raw["primary"], dict) else {}
    for key in Primary.model_fields:
        if key in primary:
            yield from _unknown(raw, f"primary.{key}", key, primary[key])


def _unknown(raw: dict[str, Any], where: str, key: str, name: Any) -> Iterator[str]:
    known = list(dict.fromkeys(_names(raw, key)))
    if isinstance(name, str) and name not in known:
        yield f"{where}: there is no {key} {name!r}; known: {', '.join(known) or 'none'}"


def _described(error: ErrorDetails) -> str:
    """One mistake as `path: what is wrong, with which value, what is right`."""
    location, value, context = error["loc"], error["input"], error.get("ctx", {})
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    last = location[-1] if location else None
    match error["type"]:
        case _ if location[0] == "steps" and len(location) > 1:
            return f"steps.{location[1]}: {value!r} should be a text, a number or a boolean"
        case "extra_forbidden":
            return f"{where}: unknown key; {_hint(location)}"
        case "missing":
            return f"{where}: is missing"
        case "literal_error":
            said = f"{value!r} is not one of {context['expected'].replace(' or ', ', ')}"
        case "value_error":
            said = str(context["error"])
        case "tuple_type" if last in LISTS and len(location) == 1:
            said = f"should be a list of sections: write [[{last}]], not [{last}]"
        case "string_pattern_mismatch" if last == "device":
            said = f"{value!r} should be auto, cpu, cuda or cuda:N"
        case "string_pattern_mismatch":
            said = f"{value!r} should be made of letters, digits, _ and - alone"
        case "model_type":
            said = f"{value!r} should be a section with keys"
        case _:
            said = f"{value!r}: {error['msg'][0].lower()}{error['msg'][1:]}".replace("input should", "should")
    return f"{where}: {said}"


def _hint(location: tuple[int | str, ...]) -> str:
    """What an unknown key may have meant: the nearest known one, else all of them."""
    section: type[BaseModel] = Study
    for part in location[:-1]:
        if isinstance(part, str):
            section = LISTS.get(part) or _section(part)
    known = [field.alias or name for name, field in section.model_fields.items()]
    if location[-1] == "api_key":
        return "the key is read from OPENAI_API_KEY, so that no study file holds a secret"
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def _section(key: str) -> type[BaseModel]:
    annotation = Study.model_fields[key].annotation
    found = annotation if isinstance(annotation, type) else next(iter(get_args(annotation)))
    return found if issubclass(found, BaseModel) else Study
