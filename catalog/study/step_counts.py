"""Lists the parameters of refresh steps that count what is kept: a study gives each 1 or more."""

COUNTS = frozenset(
    f"{step}.{name}"
    for step, names in {
        "contexts_top": ("k", "window"),
        "contexts_stratum": ("strata", "per_stratum", "window"),
        "contexts_random": ("per_split", "pool", "window"),
        "firing_windows": ("window",),
        "labels": ("top",),
        "logit_lens": ("k",),
        "covered_tokens": ("k",),
        "tail_curve": ("points",),
    }.items()
    for name in names
)
"""Parameters of steps that count what is kept: of 0 nothing would be, and no step would say so."""
