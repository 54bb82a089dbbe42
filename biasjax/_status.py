"""What can become of a configuration, coded as in the CF conventions: diverging is data."""

from __future__ import annotations

STATUS = ("finite", "overflow", "nan", "underflow")
FINITE, OVERFLOW, NAN, UNDERFLOW = range(len(STATUS))
ATTRS = {"flag_values": list(range(len(STATUS))), "flag_meanings": " ".join(STATUS)}
