"""Which biases can go together: of findings made by hand, and of a net whose ranks are counted."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from biasjax._audit.findings import BiasAudit, Finding, Made, Shifted
from biasjax._audit.modes import ModesAudit
from biasjax.audit import audit_biases

X = jax.random.normal(jax.random.key(0), (4, 3, 4))


def finding(path, verdict="needed", absorbed_by=(), size=4, **more):
    found = Finding(path, size, size, 0, verdict, True, Shifted(0.1, 1e-16), None, absorbed_by, ())
    return found._replace(**more)


def absorbed(path, *by, **more):
    return finding(path, "absorbable", by, **more)


def plan(*findings):
    return BiasAudit(findings).plan()


def test_what_does_nothing_goes():
    found = plan(finding("a", "cancelled"), finding("b", "partly cancelled"), finding("c", "unused"))
    assert (found.remove, found.parameters, found.keep) == (("a", "c"), 8, ())


def test_of_two_that_absorb_each_other_the_larger_goes():
    found = plan(absorbed("a", "b"), absorbed("b", "a", size=9))
    assert (found.remove, found.parameters, found.keep) == (("b",), 9, ("a",))


def test_all_that_one_makes_up_for():
    leaves = [absorbed(f"leaf/{i}", "hub") for i in range(5)]
    found = plan(absorbed("hub", "leaf/0", size=100), *leaves, finding("rest"))
    assert found.remove == tuple(f.path for f in leaves)
    assert found.keep == ("hub",)
    assert found.text.splitlines()[0] == "5 of 7 biases can go together, 20 of 124 parameters."
    assert "leaf/* x5: drop it where it is added" in found.text


def test_a_chain():
    found = plan(absorbed("a", "b"), absorbed("b", "c"), absorbed("c", "d"), absorbed("d", "c"))
    assert found.remove == ("a", "c")
    assert found.keep == ("b", "d")


def test_nothing_to_do():
    found = plan(finding("a"))
    assert (found.remove, found.keep) == ((), ())
    assert found.text == "0 of 1 bias can go together, 0 of 4 parameters."


HEADS = Made("net.py:3 (f)", "flax.linen.MultiHeadDotProductAttention", "use_bias=False", "")


def heads(owner, *dead):
    parts = ("key", "query", "value")
    return [
        finding(
            f"{owner}/{part}/bias", "cancelled" if part in dead else "needed", made=HEADS._replace(part=part)
        )
        for part in parts
    ]


def test_a_flag_that_serves_several():
    found = plan(*heads("a", "key"), *heads("b", "key", "query", "value"))
    lines = found.text.splitlines()
    assert lines[1].startswith("a/key/bias: hold the key bias at zero")
    text = " ".join(line.strip() for line in lines)
    for part in ("key", "query", "value"):
        assert (
            f"b/{part}/bias: use_bias=False of flax.linen.MultiHeadDotProductAttention, net.py:3 (f)" in text
        )


def test_modes():
    conv, norm, value, out = "conv/bias", "norm/bias", "value/bias", "out/bias"
    train = (finding(conv, "cancelled"), finding(norm), absorbed(value, out), absorbed(out, value))
    evaluation = (absorbed(conv, norm), absorbed(norm, conv), absorbed(value, norm), finding(out))
    found = ModesAudit(BiasAudit(train), BiasAudit(evaluation)).plan()
    assert found.remove == (conv, value)
    assert found.keep == (norm, out)
    # What only a cancelled one makes up for in evaluation
    evaluation = (*evaluation[:2], absorbed(value, conv), finding(out))
    assert ModesAudit(BiasAudit(train), BiasAudit(evaluation)).plan().remove == (conv,)


def test_those_that_stay_can_do_all_that_those_that_go_did(standard_promotion):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(4, name="first")(x)
            x = x + nn.MultiHeadDotProductAttention(2, name="heads")(nn.LayerNorm(name="norm")(x))
            y = nn.Dense(4, name="second")(x)
            return nn.Dense(2, name="last")(y - y.mean((0, 1)))

    params = Net().init(jax.random.key(1), X)["params"]
    found = audit_biases(lambda p, x: Net().apply({"params": p}, x), params, X).plan()
    assert "second/bias" in found.remove
    assert len(found.remove) >= 4

    with jax.enable_x64(True):
        leaves = {"/".join(key.key for key in path): leaf for path, leaf in jax.tree.leaves_with_path(params)}
        drawn = {
            path: jnp.asarray(np.random.default_rng(i).standard_normal(leaf.shape))
            for i, (path, leaf) in enumerate(leaves.items())
        }
        structure = jax.tree.structure(params)
        x = jnp.asarray(np.random.default_rng(99).standard_normal((16, *X.shape[1:])))

        def net(biases):
            return Net().apply({"params": structure.unflatten((drawn | biases).values())}, x)

        rows = jax.jacobian(net)({path: leaf for path, leaf in drawn.items() if path.endswith("bias")})
        flat = {path: np.asarray(row).reshape(16 * 3 * 2, -1) for path, row in rows.items()}
    staying = np.concatenate([row for path, row in flat.items() if path not in found.remove], 1)
    everyone = np.concatenate(list(flat.values()), 1)
    ranks = [np.linalg.matrix_rank(rows, 1e-9 * np.linalg.norm(rows)) for rows in (staying, everyone)]
    assert ranks[0] == ranks[1]
