"""Shows one feature as a page on a terminal, or as JSON. Text from corpora and labels is never read as markup."""

from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from queries.session import Context, FeatureCard
from queries.terminal import control_characters
from queries.terminal.console import SafeConsole
from queries.terminal.output import plain, safe_json


def card_json(card: FeatureCard) -> str:
    """The card as one JSON object."""
    return safe_json(plain(asdict(card)))


def print_card(card: FeatureCard, console: Console | None = None) -> None:
    """Print statistics, labels, separation, contexts, logit lens and neighbours."""
    out = console or SafeConsole(soft_wrap=True)
    row = card.row
    out.print(Text(f"feature {card.feature} of {card.sae}", style="bold"))
    if not row["firings"]:
        out.print(f"dead: it fires on none of the tokens that {card.sae} was harvested on")
        return
    out.print(
        f"fires on {row['firings']} tokens ({row['density']:.3%}), mean {row['mean']:.3g}, "
        f"max {row['maximum']:.3g}, median {card.deciles[4] if card.deciles else 0:.3g}"
    )
    for found in card.separation:
        out.print(
            Text(f"separation from {found['concept']}: {found['separation']:.4g}, AUROC {found['auroc']:.3f} ")
            + Text(f"(fires on {found['rate_positive']:.2%} of it, {found['rate_negative']:.2%} elsewhere)")
        )
    for label in card.labels:
        out.print(label_line(label))
    width = max((len(visible(context.corpus, quoted=False)) for context in card.contexts), default=0)
    for context in card.contexts:
        place = f"{visible(context.corpus, quoted=False):<{width}}  {context.split:>5}  {context.activation:>7.4g}  "
        out.print(Text(place) + highlighted(context))
    if card.promoted:
        out.print(Text("writes for: " + ", ".join(visible(token) for token, _ in card.promoted)))
        out.print(Text("against:    " + ", ".join(visible(token) for token, _ in card.suppressed)))
    if card.neighbours:
        table = Table("nearest decoder", "cosine", "label", box=None, pad_edge=False)
        for number, cosine, text in card.neighbours:
            table.add_row(str(number), f"{cosine:.3f}", Text(visible(text or "", quoted=False)))
        out.print(table)


def label_line(label: dict[str, object]) -> Text:
    """A label with its score, or the reason why there is none."""
    if label["label"] is None:
        return Text(f"{label['explainer']}: no label: {visible(str(label['problem']), quoted=False)}", style="yellow")
    line = Text(f"{label['explainer']}: ") + Text(visible(str(label["label"]), quoted=False), style="bold cyan")
    if label["f1"] is None:
        return line + Text("  (not scored)")
    null = "" if label["f1_null"] is None else f", null {label['f1_null']:.2f}"
    return line + Text(
        f"  F1 {label['f1']:.2f} ({label['f1_low']:.2f}-{label['f1_high']:.2f}{null}, n {label['n']}, "
        f"failed {label['failed']})"
    )


def highlighted(context: Context) -> Text:
    """The window's text on one line, the firing tokens in colour, the brighter the stronger; << >> without colour."""
    top = max(context.activations) or 1.0
    line = Text()
    for token, activation in zip(context.tokens, context.activations, strict=True):
        piece = visible(token, quoted=False)
        if activation > 0:
            style = "bold black on yellow" if activation > top / 2 else "black on bright_white"
            line.append(f"<<{piece}>>", style=style)
        else:
            line.append(piece, style="dim")
    return line


def visible(text: str, *, quoted: bool = True) -> str:
    """Text that cannot steer a terminal, see `terminal.visible`, in quotes unless it is a sentence."""
    shown = control_characters.visible(text)
    return f'"{shown}"' if quoted else shown
