"""Files as a run leaves them, of an experiment that computes nothing."""

import dataclasses

from experiments._report import runs
from experiments.claims import at_most

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 6"><text>a figure</text></svg>'
CLAIMS = (at_most("small", "trial", 1.0, 0.5, null=2.0),)


@dataclasses.dataclass(frozen=True)
class Config:
    """Of a run that computes nothing."""

    rates: tuple[float, ...] = (0.1, 0.2)
    seeds: int = 10
    adam: bool = False


def make(
    folder,
    name="one",
    claims=CLAIMS,
    text="Does it?\n\nAnswer: yes, it does.\n",
    smoke=False,
    seconds: float | None = 3.04,
):
    """Write what a run writes."""
    said = runs.begin(folder / name, name, text, Config(), Config(), smoke=smoke)
    runs.write_claims(claims, folder / name)
    (folder / name / f"{name}.svg").write_text(SVG)
    if seconds is not None:
        runs.finish(folder / name, said, seconds)
    return folder / name
