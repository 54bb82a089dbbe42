"""Command line: ``biasjax audit package.module:factory`` audits a model; ``biasjax sweep show`` a store."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from biasjax._audit import commands as audits
from biasjax._sweep import commands as sweeps

__all__ = ["main"]


def __dir__() -> list[str]:
    return __all__


@dataclass(frozen=True)
class Version:
    """Print the version."""


Command = (
    Annotated[audits.Audit, tyro.conf.subcommand("audit")]
    | Annotated[sweeps.Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[Version, tyro.conf.subcommand("version")]
)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit status: 1 for a verdict of --fail-on, 2 for a mistake."""
    # Annotated unions are no type to a checker
    plain = (tyro.conf.OmitSubcommandPrefixes,)
    command: audits.Audit | sweeps.Sweep | Version = tyro.cli(
        Command, args=arguments, prog="biasjax", config=plain
    )  # pyright: ignore
    if isinstance(command, Version):
        import biasjax

        print(biasjax.__version__)
        return 0
    name = "audit" if isinstance(command, audits.Audit) else "sweep"
    try:
        return audits.run(command) if isinstance(command, audits.Audit) else sweeps.run(command.command)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"biasjax {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"biasjax {name}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
