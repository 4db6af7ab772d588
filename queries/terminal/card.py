"""Shows one feature as a page on a terminal, or as JSON. Text from corpora and labels is never read as markup."""

from dataclasses import asdict, replace

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from queries.ask.feature import Context, FeatureCard
from queries.terminal import control_characters
from queries.terminal.cells import cell, fitting
from queries.terminal.console import SafeConsole
from queries.terminal.control_characters import Ink
from queries.terminal.grid import PLAIN, Column, table
from queries.terminal.json_values import plain, safe_json
from queries.terminal.screen import terminal_width

_CONTEXT_LINES = 3
_UNBOUNDED = 100_000
"""A width that nothing reaches: into a pipe or a file no line is broken or cut."""


def card_json(card: FeatureCard) -> str:
    """The card as one JSON object."""
    return safe_json(plain(asdict(card)))


def print_card(card: FeatureCard, console: Console | None = None) -> None:
    """Print statistics, labels, separation, contexts, logit lens and neighbours; on a terminal, no wider than it is."""
    out = console or SafeConsole(soft_wrap=True)
    width = terminal_width() if out.is_terminal else _UNBOUNDED
    row = card.row
    _print(out, Text(f"feature {card.feature} of {visible(card.sae, quoted=False)}", style="bold"), width)
    if not row["firings"]:
        _print(out, Text(f"dead: it fires on none of the tokens that {card.sae} was harvested on"), width)
        return
    statistics = (
        f"fires on {row['firings']} tokens ({row['density']:.3%}), mean {row['mean']:.3g}, "
        f"max {row['maximum']:.3g}, median {card.deciles[4] if card.deciles else 0:.3g}"
    )
    _print(out, Text(statistics), width)
    for found in card.separation:
        concept = visible(found["concept"], quoted=False)
        line = f"separation from {concept}: Cohen's d {found['cohens_d']:.3g}, AUROC {found['auroc']:.3f} "
        line += f"(fires on {found['rate_positive']:.2%} of it, {found['rate_negative']:.2%} elsewhere)"
        _print(out, Text(line), width)
    scorers = {label.get("scorer") for label in card.labels} - {None}
    for label in card.labels:
        _print(out, label_line(label, scorer=len(scorers) > 1), width)
    for score in card.without_label:
        _print(out, feature_line(score), width)
    _print_contexts(out, card, width)
    if card.promoted:
        _print(out, Text("writes for: " + _with_logits(card.promoted)), width, 12)
        _print(out, Text("against:    " + _with_logits(card.suppressed)), width, 12)
    if card.neighbours:
        columns = [
            Column("nearest decoder", [str(number) for number, _, _ in card.neighbours], right=True),
            Column("cosine", [f"{cosine:.3f}" for _, cosine, _ in card.neighbours], right=True),
            Column("label", [cell(text or "") for _, _, text in card.neighbours]),
        ]
        for line in table(columns, width, PLAIN, Ink(on=False)).lines:
            out.print(Text(line))


def _print_contexts(out: Console, card: FeatureCard, width: int) -> None:
    corpora = [visible(context.corpus, quoted=False) for context in card.contexts]
    size = max(map(cell_len, corpora), default=0)
    for context, corpus in zip(card.contexts, corpora, strict=True):
        place = corpus + " " * (size - cell_len(corpus)) + f"  {context.split:>5}  {context.activation:>7.4g}  "
        indent = cell_len(place) if cell_len(place) <= width // 2 else 2
        marks = out.color_system is None
        body = highlighted(_around_peak(context, _CONTEXT_LINES * (width - indent)), marks=marks)
        if indent == 2:
            _print(out, Text(place.rstrip()), width)
            _print(out, Text("  ") + body, width, 2, _CONTEXT_LINES)
        else:
            _print(out, Text(place) + body, width, indent, _CONTEXT_LINES)


def _print(out: Console, text: Text, width: int, indent: int = 2, most: int = 0) -> None:
    """Print a text in lines of the terminal's width, the second and later ones indented; at most `most` of them."""
    lines: list[Text] = []
    while cell_len(text.plain) > width and (not most or len(lines) < most - 1):
        end = fitting(text.plain, width)
        space = text.plain.rfind(" ", indent + 1, end + 1)
        end = space if space > width // 2 else end
        head, text = text.divide([end])
        lines.append(head)
        text = Text(" " * indent) + _without_space(text)
    if cell_len(text.plain) > width:
        text = text.divide([fitting(text.plain, width - 1)])[0] + Text("…")
    for line in [*lines, text]:
        out.print(line)


def _without_space(text: Text) -> Text:
    return text.divide([1])[1] if text.plain.startswith(" ") and len(text.plain) > 1 else text


def _around_peak(context: Context, room: int) -> Context:
    """The window from a token on that has about half of the room before the peak; as it is, if it fits."""
    sizes = [cell_len(visible(token, quoted=False)) for token in context.tokens]
    if sum(sizes) <= room:
        return context
    peak = max(range(len(sizes)), key=context.activations.__getitem__)
    start = peak
    while start > 0 and sum(sizes[start - 1 : peak]) <= room // 2:
        start -= 1
    if start == 0:
        return context
    return replace(context, tokens=("…", *context.tokens[start:]), activations=(0.0, *context.activations[start:]))


def _with_logits(tokens: list[tuple[str, float]]) -> str:
    return ", ".join(f"{visible(token)} {logit:.2f}" for token, logit in tokens)


def label_line(label: dict[str, object], *, scorer: bool = False) -> Text:
    """A label with its score, or the reason why there is none; with `scorer`, who gave the score."""
    explainer = visible(str(label["explainer"]), quoted=False)
    if label["label"] is None:
        return Text(f"{explainer}: no label: {visible(str(label['problem']), quoted=False)}")
    line = Text(f"{explainer}: ") + Text(visible(str(label["label"]), quoted=False), style="bold")
    by = f" by {visible(str(label['scorer']), quoted=False)}" if scorer else ""
    if label["f1"] is None:
        return line + Text(_area(label, by) if label.get("auroc") is not None else "  (not scored)")
    null = "" if label["f1_null"] is None else f", null {label['f1_null']:.2f}"
    return line + Text(
        f"  F1{by} {label['f1']:.2f} ({label['f1_low']:.2f}-{label['f1_high']:.2f}{null}, n {label['n']}, "
        f"failed {label['failed']})" + _balanced(label)
    )


def feature_line(score: dict[str, object]) -> Text:
    """The score of the feature itself, by a scorer that needs no label."""
    scorer = visible(str(score["scorer"]), quoted=False)
    said = " not scored"
    if score.get("accuracy") is not None:
        said = (
            f" intruder found {score['accuracy']:.2f} ({score['accuracy_low']:.2f}-{score['accuracy_high']:.2f}, "
            f"chance {score['chance']:.2f}, trials {score['n']}, failed {score['failed']})"
        )
    elif score["auroc"] is not None:
        said = _area(score, "").removeprefix(" ")
    return Text(f"without a label, by {scorer}:{said}")


def _area(score: dict[str, object], by: str) -> str:
    """AUROC with its interval and null, of a scorer that gives no yes or no."""
    null = "" if score["auroc_null"] is None else f", null {score['auroc_null']:.2f}"
    return (
        f"  AUROC{by} {score['auroc']:.2f} ({score['auroc_low']:.2f}-{score['auroc_high']:.2f}{null}, n {score['n']}, "
        f"failed {score['failed']}), average precision {score['average_precision']:.2f}"
    )


def _balanced(label: dict[str, object]) -> str:
    """Balanced accuracy with its interval and null; the share of windows that fire, and F1 at that rate, if known."""
    said = ""
    if label.get("balanced_accuracy") is not None:
        null = label["balanced_accuracy_null"]
        low, high = label["balanced_accuracy_low"], label["balanced_accuracy_high"]
        beside = "" if null is None else f", null {null:.2f}"
        said = f", balanced accuracy {label['balanced_accuracy']:.2f} ({low:.2f}-{high:.2f}{beside})"
    if label.get("rate") is None:
        return said
    said += f"; fires in {label['rate']:.2%} of windows"
    if label.get("f1_at_rate") is None:
        return said
    low, high = label["f1_at_rate_low"], label["f1_at_rate_high"]
    return f"{said}, F1 at that rate {label['f1_at_rate']:.2f} ({low:.2f}-{high:.2f})"


def highlighted(context: Context, *, marks: bool = True) -> Text:
    """The window's text on one line, the firing tokens between << >>; without `marks` reversed, weak ones underlined.

    Both can be seen on light and dark backgrounds.
    """
    top = max(context.activations) or 1.0
    line = Text()
    for token, activation in zip(context.tokens, context.activations, strict=True):
        piece = visible(token, quoted=False)
        if activation > 0:
            style = "reverse" if activation > top / 2 else "underline"
            line.append(f"<<{piece}>>" if marks else piece, style=style)
        else:
            line.append(piece)
    return line


def visible(text: str, *, quoted: bool = True) -> str:
    """Text that cannot steer a terminal, see `terminal.visible`, in quotes unless it is a sentence."""
    shown = control_characters.visible(text)
    return f'"{shown}"' if quoted else shown
