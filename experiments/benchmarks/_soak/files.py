"""Faults of a store's files, between two runs of its sweep."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

from experiments.benchmarks._soak.subjects import Fault, Whole, any_chunk, begun, flip


def flipped(whole: Whole, path: Path, rng: random.Random) -> Fault:
    """Flip a bit of a chunk."""
    file = rng.choice(begun(whole, path, rng))
    flip(file, rng)
    return Fault([file.name])


def truncated(whole: Whole, path: Path, rng: random.Random) -> Fault:
    """Cut off a chunk's end."""
    file = rng.choice(begun(whole, path, rng))
    os.truncate(file, rng.randrange(file.stat().st_size))
    return Fault([file.name])


def copied(whole: Whole, path: Path, rng: random.Random) -> Fault:
    """Copy a chunk over another: over its file, or under its number."""
    source, target = rng.sample(begun(whole, path, rng), 2)
    if rng.random() < 0.5:
        target.unlink()
        target = target.with_name(target.name[:6] + source.name[6:])
    shutil.copy(source, target)
    return Fault([target.name])


def renamed(whole: Whole, path: Path, rng: random.Random) -> Fault:
    """Give a chunk another's number, or one that no chunk has."""
    file = rng.choice(begun(whole, path, rng))
    number = rng.choice([n for n in range(2 * len(whole.files)) if n != int(file.name[:6])])
    target = file.rename(file.with_name(f"{number:06d}{file.name[6:]}"))
    return Fault([target.name])


def from_another(whole: Whole, path: Path, rng: random.Random) -> Fault:
    """Put another sweep's chunk in the place of the same one: under its name, in its place, or beside it."""
    file = rng.choice(begun(whole, path, rng))
    (source,) = whole.other.glob(f"chunks/{file.name[:6]}*")
    way = rng.randrange(3)
    if way == 0:
        file.unlink()
    target = file if way == 1 else file.with_name(source.name)
    shutil.copy(source, target)
    return Fault([target.name])


def foreign(whole: Whole, path: Path, rng: random.Random) -> Fault:
    """Put a file among the chunks that is none, whatever it is called."""
    begun(whole, path, rng)
    number = any_chunk(whole, rng)
    chunk = f"{number:06d}-0123456789abcdef-{rng.randrange(4, 6)}.nc"
    name = rng.choice(["notes.txt", f"{number:06d}.txt", chunk])
    (path / "chunks" / name).write_text("notes")
    return Fault([name] if name == chunk else [])


def edited_manifest(whole: Whole, path: Path, rng: random.Random) -> Fault:
    """Change a digit of the manifest."""
    begun(whole, path, rng)
    text = list((path / "manifest.json").read_text())
    at = rng.choice([i for i, character in enumerate(text) if character.isdigit()])
    text[at] = rng.choice([digit for digit in "0123456789" if digit != text[at]])
    (path / "manifest.json").write_text("".join(text))
    return Fault([f"store {path}"])


def truncated_manifest(whole: Whole, path: Path, rng: random.Random) -> Fault:
    """Cut off the manifest's end."""
    begun(whole, path, rng)
    file = path / "manifest.json"
    os.truncate(file, rng.randrange(file.stat().st_size))
    return Fault([f"store {path}", "manifest.json"])
