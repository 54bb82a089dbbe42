"""What a method of judging biases hands over: the same from the exact one and from local proofs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from biasjax._audit.findings import Shifted

# Others that must move this many times as far as a bias do not stand in for it: float32 has seven digits
USABLE = 1e6


class Joint(NamedTuple):
    """What other biases can do of each.

    Attributes
    ----------
    unique
        Number of directions that no others reproduce.
    absorbers
        Paths of others that suffice for the rest.
    compensation
        How far the farthest entry of the others moves for a shift whose farthest entry moves by one; None
        where they do nothing.
    exact
        Whether all that others can do was taken into account.
    """

    unique: list[int]
    absorbers: list[tuple[str, ...]]
    compensation: list[float | None]
    exact: bool


class Evidence(NamedTuple):
    """What is known of each bias.

    Attributes
    ----------
    dead
        Orthonormal basis (size, dimension) of the directions that change no output.
    shifted
        What shifting the whole of it does.
    joint
        What others can do of it, if asked for.
    """

    dead: list[np.ndarray]
    shifted: list[Shifted]
    joint: Joint | None
