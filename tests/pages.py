"""What tests of pages share: an outline that a page is whole by, and findings made by hand."""

from html.parser import HTMLParser

import numpy as np

from biasjax._audit.findings import Basis, BiasAudit, Death, Finding, Made, Shifted
from biasjax._audit.modes import ModesAudit
from biasjax._audit.tolerance import Limit, Tolerances
from biasjax._surgery.proofs import Error
from biasjax._surgery.receipts import Change, Receipt

HOSTILE = "</style><script>alert(1)</script>\"'&\n\udcffü"
VOID = {"meta", "link", "br", "wbr", "input", "img", "hr"}


class Outline(HTMLParser):
    """Elements of a page: that they close in order, their names and links."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.tags, self.text = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute twice in <{tag}>"
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [value for name, value in attrs if name == "href"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "script" not in self.open and "style" not in self.open:
            self.text.append(data)


def outline(html):
    """Outline of a page that is whole: elements close, names are unique, links lead to them."""
    found = Outline()
    found.feed(html)
    found.close()
    assert not found.open
    assert len(set(found.ids)) == len(found.ids)
    assert {link[1:] for link in found.links if link.startswith("#")} <= set(found.ids)
    html.encode()
    return found


LAYERS = ("attention/query", "attention/key", "attention/value", "attention/out", "mlp/dense", "norm")
KINDS = ("needed", "partly cancelled", "absorbable", "needed", "cancelled", "needed")


def finding(number, evaluation=False):
    """One of many biases, six to a block, with long names."""
    block, layer = divmod(number, len(LAYERS))
    start = f"encoder_with_a_long_name/transformer_block_{block}"
    verdict = "absorbable" if evaluation and KINDS[layer] == "cancelled" else KINDS[layer]
    rank = {"cancelled": 0, "partly cancelled": 767}.get(verdict, 768)
    death = Death(
        "sub", f"{start}/norm", "/somewhere/lib/site-packages/flax/linen/normalization.py:142 (_stats)"
    )
    where = f"/somewhere/model/transformer_blocks.py:{40 + layer} (TransformerBlock.__call__)"
    return Finding(
        path=f"{start}/{LAYERS[layer]}/bias",
        size=768,
        rank=rank,
        unique=rank if verdict == "needed" else 0,
        verdict=verdict,
        is_zero=False,
        evidence=Shifted(0.0, 1e-16),
        basis=Basis("uniform", np.full((768, 1), 768**-0.5)) if rank == 767 else None,
        absorbed_by=(f"{start}/norm/bias",) if verdict == "absorbable" else (),
        deaths=(death,) if rank < 768 else (),
        made=Made(where, "flax.linen.Dense", "use_bias=False", "", 7 * number),
    )


def modes(count):
    """Both modes of so many biases, in the tree's order."""
    order = sorted(range(count), key=lambda number: finding(number).path)
    return ModesAudit(*(BiasAudit(tuple(finding(i, mode) for i in order)) for mode in (False, True)))


def tolerances(audit):
    """Limits of all dead biases; every other is harmful."""
    dead = [f.path for f in audit.findings if f.rank < f.size]
    sizes = {"float32": np.inf, "bfloat16": 2.5}
    limits = tuple(Limit(path, 768, 5.0 * (i % 2), sizes) for i, path in enumerate(dead))
    return Tolerances(limits, 1e-2, {"float32": 1e-7, "bfloat16": 4e-3})


def receipt(audit):
    """What was done with all dead biases."""
    changes = [Change(f.path, "zeroed", ("state/norm/mean",), 768) for f in audit.findings if f.rank == 0]
    kept = Change("norm", "kept", why="a gain is <0>")
    errors = (
        Error("evaluation", "float64", "given", 2e-16, 1e-10),
        Error("training", "own", "fresh", 3e-7, 1e-5),
    )
    return Receipt((*changes, kept), errors)
