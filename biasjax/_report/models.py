"""The page on a user's own model: what its biases do, what can go, and at which line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax

import biasjax
from biasjax import check
from biasjax._audit import plan as planning
from biasjax._audit import tables
from biasjax._audit.findings import Finding
from biasjax._audit.tolerance import Tolerances
from biasjax._report import checks, depths
from biasjax._report.biases import all_biases, by_pattern, surgery, tolerance
from biasjax._report.depths import Bias, Biases
from biasjax._report.pages import Section, page, template
from biasjax._surgery.receipts import Receipt

if TYPE_CHECKING:
    from biasjax._audit.findings import BiasAudit
    from biasjax._audit.modes import ModesAudit
    from biasjax._audit.plan import Plan

_SURGERY = "smaller, receipt = biasjax.surgery.remove_biases(pure, x)"
_RANK = "directions of a bias whose shift changes an output; the size has all."
_UNIQUE = "directions that no shift of other biases stands in for, in training if there are two modes."
_EXACT = (
    "shifts are evaluated in float64, at random parameters and inputs around the given ones; a verdict is on "
    "the architecture, not on the given values."
)


def model(
    audit: BiasAudit | ModesAudit,
    *,
    title: str = "Biases of the model",
    tolerances: Tolerances | None = None,
    receipts: Sequence[Receipt] = (),
) -> str:
    """Write a page on a model: what each bias does, which can go, at which lines, and a map by depth.

    One file that needs neither network nor JavaScript, to be kept beside a build or sent to a colleague. The
    same audit gives the same bytes; of files it names the last folder.

    Parameters
    ----------
    audit
        Of one mode or of both.
    title
        Of the page.
    tolerances
        Of `biasjax.audit.tolerance`: from which size dead biases do harm.
    receipts
        Of `biasjax.surgery`: what was done. Neither these nor tolerances need be of the biases audited.

    Returns
    -------
    str
        HTML.

    Examples
    --------
    >>> from biasjax.audit import BiasAudit, Finding, Shifted
    >>> still = Finding("conv/bias", 8, 0, 0, "cancelled", True, Shifted(0, 1e-16), None, (), ())
    >>> html = model(BiasAudit((still,)))
    >>> "1 of 1 bias can go, 8 of 8 parameters" in html, "conv/<wbr>bias" in html
    (True, True)
    """
    checks.text("title", title)
    if tolerances is not None and not isinstance(tolerances, Tolerances):
        got = type(tolerances).__name__
        check.fail("tolerances", "Tolerances or None", got, "Give what audit.tolerance returns.", TypeError)
    checks.several("receipts", receipts, Receipt)
    biases = depths.read(audit)
    plan = audit.plan()
    ids = {bias.path: bias.id for bias in biases.each}
    sections = [
        Section("numbers", "At a glance", _call("headline", numbers=_numbers(biases, plan, tolerances)))
    ]
    if biases.each:
        sections += [
            Section("plan", "What to change", _plan(biases, plan)),
            Section("map", "Map by depth", _map(biases)),
            Section("groups", "Biases by pattern", by_pattern(biases)),
            Section("biases", "All biases", all_biases(biases)),
        ]
    if tolerances is not None:
        sections.append(Section("tolerance", "Sizes that harm a dtype", tolerance(tolerances, ids)))
    if receipts:
        sections.append(Section("surgery", "What was done", surgery(receipts, ids)))
    sections.append(Section("words", "How to read it", _words(biases)))
    style = template("model.css").render(signs=depths.SIGNS)
    foot = f"Written by biasjax {biasjax.__version__} with jax {jax.__version__}."
    return page(title, sections, lead=_sentence(biases, plan), foot=foot, style=style)


def _call(macro: str, **data: Any) -> Any:
    return getattr(template("model.html").module, macro)(**data)


def _sentence(biases: Biases, plan: Plan) -> str:
    many = _counted(len(biases.each))
    if not biases.each:
        return "The model has no biases."
    if not plan.remove:
        return f"0 of {many} can go: without any of them the outputs would be others."
    gone, total = set(plan.remove), sum(f.size for f in biases.audits[0].findings)
    moved = any(f.rank for bias in biases.each if bias.path in gone for f in bias.findings)
    outputs = "outputs stay what they are" + (", once others make up for them" if moved else "")
    return f"{len(gone)} of {many} can go, {plan.parameters:,} of {total:,} parameters; {outputs}."


def _numbers(biases: Biases, plan: Plan, tolerances: Tolerances | None) -> list[tuple[str, str, str]]:
    """What stands at the top: a name, a number, and what is said below it."""
    total = sum(f.size for f in biases.audits[0].findings)
    found = [
        ("biases", str(len(biases.each)), ""),
        ("bias parameters", f"{total:,}", ""),
        ("can go together", str(len(plan.remove)), f"{len(plan.keep)} stay for them" if plan.keep else ""),
        ("parameters saved", f"{plan.parameters:,}", f"of {total:,}"),
    ]
    for mode, audit in zip(biases.modes, biases.audits, strict=True):
        dead = sum(f.rank == 0 for f in audit.findings)
        entries = sum(f.size - f.rank for f in audit.findings)
        name = f"do nothing in {mode}" if mode else "do nothing"
        found.append((name, str(dead), f"{entries:,} parameters"))
    if len(biases.modes) > 1:
        found.append(("other verdict in evaluation", str(sum(map(_differs, biases.each))), ""))
    if tolerances is not None:
        harmful = sum(bool(limit.harmed) for limit in tolerances.limits)
        found.append(("do harm as given", str(harmful), f"of {len(tolerances.limits)} dead ones"))
    return found


def _plan(biases: Biases, plan: Plan) -> Any:
    findings: Sequence[Finding] = biases.audits[0].findings
    if len(biases.audits) > 1:
        findings = planning.merged(*(audit.findings for audit in biases.audits))
    sizes = {f.path: f.size for f in findings}
    order = {bias.path: bias.number for bias in biases.each}
    acts = planning.acts(findings, set(plan.remove))
    acts.sort(key=lambda act: min(order[path] for path in act.paths))
    shown = [
        {
            "what": act.what,
            "where": act.where,
            "names": tables.grouped_names(sorted(act.paths, key=order.__getitem__)),
            "count": _counted(len(act.paths)),
            "saved": _saved(act.paths, sizes),
        }
        for act in acts
    ]
    keep = tables.grouped_names(plan.keep)
    command = _SURGERY if len(biases.modes) > 1 else ""
    return _call("plan", acts=shown, keep=keep, kept=_counted(len(plan.keep)), command=command)


def _saved(paths: Sequence[str], sizes: dict[str, int]) -> str:
    size = sum(sizes[path] for path in paths)
    return f"{_counted(len(paths))}, {size:,} parameter{'' if size == 1 else 's'}"


def _map(biases: Biases) -> Any:
    counts = Counter(f.verdict for bias in biases.each for f in bias.findings[:1])
    present = {f.verdict for bias in biases.each for f in bias.findings}
    mode = biases.modes[0]
    legend = [
        (depths.kind_of(name), name, f"{counts[name]} in {mode or 'all'}" if counts[name] else "")
        for name in tables.MEANING
        if name in present
    ]
    parts = [
        (name, [(one.id, _said(one, biases.modes), [depths.kind(f) for f in one.findings]) for one in some])
        for name, some in depths.parts(biases.each)
    ]
    return _call("map", parts=parts, modes=biases.modes, legend=legend)


def _said(bias: Bias, modes: Sequence[str]) -> str:
    found = (
        f"{f.verdict} in {mode}" if mode else f.verdict for mode, f in zip(modes, bias.findings, strict=True)
    )
    return f"{bias.path}: {', '.join(found)}"


def _words(biases: Biases) -> Any:
    present = {f.verdict for bias in biases.each for f in bias.findings}
    meanings = [
        (depths.kind_of(name), name, said) for name, said in tables.MEANING.items() if name in present
    ]
    notes = [("rank", _RANK)]
    notes += [("unique", _UNIQUE)] if biases.compared else []
    notes += [] if all(audit.exact for audit in biases.audits) else [("bound", tables.BOUND)]
    if any(len(one.findings) > 1 for one in tables.groups(*(audit.findings for audit in biases.audits))):
        notes.append(("xN", tables.TIMES.removeprefix("xN: ")))
    notes += [("exactness", _EXACT)]
    return _call("words", meanings=meanings, notes=notes)


def _differs(bias: Bias) -> bool:
    return len({f.verdict for f in bias.findings}) > 1


def _counted(number: int) -> str:
    return "1 bias" if number == 1 else f"{number} biases"
