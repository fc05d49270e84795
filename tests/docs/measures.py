"""The table of audio measures for the docs: `python -m tests.docs.measures` prints it."""

from pipeline.audio.measures_table import MEASURES, Measure


def measures_table() -> str:
    """Markdown: every measure with its unit, its meaning and the limits that `qc:` takes."""
    lines = ["| measure | unit | is | limits |", "|---|---|---|---|"]
    lines += [
        f"| `{name}` | {measure.unit} | {measure.text} | {_limits(measure)} |"
        for name, measure in MEASURES.items()
    ]
    return "\n".join(lines) + "\n"


def _limits(measure: Measure) -> str:
    named = ", ".join(f"`{limit.name(measure.name)}`" for limit in measure.limits)
    return f"{named} (either sign)" if measure.absolute else named or "none"


if __name__ == "__main__":
    print(measures_table(), end="")  # noqa: T201
