"""The convolution with gradients and a batching rule of its own is XLA's, in all derivatives and vmaps."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biasjax import audit, linear
from biasjax._linear import faces, form

KEY = jax.random.key(0)
# window, input, (strides, pads, dilation), groups, outputs
CASES = {
    "1d": ((3,), (3, 7, 4), ((1,), ((1, 1),), (1,)), 1, 5),
    "same": ((3, 3), (8, 6, 6, 4), ((1, 1), "SAME", (1, 1)), 1, 4),
    "strides": ((3, 2), (3, 7, 8, 4), ((2, 3), ((1, 2), (0, 1)), (1, 1)), 1, 6),
    "dilation": ((3, 2), (3, 9, 8, 4), ((1, 2), ((1, 2), (0, 1)), (2, 3)), 1, 6),
    "cropped": ((3, 3), (3, 8, 8, 4), ((1, 1), ((-1, 0), (2, -2)), (1, 1)), 1, 4),
    "1x1": ((1, 1), (3, 4, 4, 4), ((2, 2), "SAME", (1, 1)), 1, 6),
    "groups": ((3, 3), (3, 5, 6, 4), ((1, 2), "SAME", (1, 1)), 2, 6),
    "3d": ((2, 3, 2), (2, 4, 5, 4, 4), ((1, 2, 1), "VALID", (1, 1, 2)), 1, 6),
    "few examples, wide": ((3, 3), (2, 4, 4, 40), ((1, 1), "SAME", (1, 1)), 1, 40),
}


def functions(case):
    """Ours, XLA's, and operands."""
    window, shape, (strides, pads, dilation), groups, outputs = CASES[case]
    x = jax.random.normal(KEY, shape)
    kernel = jax.random.normal(jax.random.key(1), (*window, shape[-1] // groups, outputs)) / 4

    def ours(x, kernel):
        return form.convolve(x, kernel, strides, pads, dilation, groups)

    def xla(x, kernel):
        rank = len(window)
        spec = (0, rank + 1, *range(1, rank + 1))
        numbers = jax.lax.ConvDimensionNumbers(spec, (rank + 1, rank, *range(rank)), spec)
        options = {"rhs_dilation": dilation, "dimension_numbers": numbers, "feature_group_count": groups}
        return jax.lax.conv_general_dilated(x, kernel, strides, pads, **options)

    return ours, xla, x, kernel


def with_gradients(fn):
    def run(x, kernel):
        return fn(x, kernel), *jax.grad(lambda *both: jnp.sum(jnp.sin(fn(*both))), (0, 1))(x, kernel)

    return run


def agree(ours, theirs, relative):
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        assert np.abs(one - other).max() <= relative * np.abs(other).max()


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_xla(case):
    ours, xla, x, kernel = functions(case)
    agree(with_gradients(ours)(x, kernel), with_gradients(xla)(x, kernel), 1e-5)
    with jax.enable_x64(True):
        wide = jnp.asarray(x, jnp.float64), jnp.asarray(kernel, jnp.float64)
        agree(with_gradients(ours)(*wide), with_gradients(xla)(*wide), 1e-12)


@pytest.mark.parametrize("case", ["strides", "groups"])
def test_second_derivatives_of_every_kind(case, x64):
    ours, xla, x, kernel = functions(case)

    def kinds(fn):
        def loss(kernel):
            return jnp.sum(jnp.sin(fn(x * x, kernel)) * fn(x, kernel))

        return [
            jax.hessian(loss)(kernel),
            jax.jacrev(jax.grad(loss))(kernel),
            jax.jvp(jax.grad(loss), (kernel,), (kernel,))[1],
        ]

    agree(jax.jit(functools.partial(kinds, ours))(), jax.jit(functools.partial(kinds, xla))(), 1e-12)


# Which operands have the inner and the outer axis of networks
AXES = [(0, 0), (0, None), (None, 0)]


@pytest.mark.parametrize("case", ["same", "dilation", "groups", "1d"])
@pytest.mark.parametrize("inner", AXES)
@pytest.mark.parametrize("outer", AXES)
def test_vmaps_of_networks_nest(case, inner, outer):
    ours, xla, x, kernel = functions(case)
    factors = jnp.array([1.0, -2.0, 0.5])
    operands = []
    for array, axes in zip((x, kernel), zip(inner, outer, strict=True), strict=True):
        for size in [2 + place for place, axis in enumerate(axes) if axis == 0]:
            array = jnp.stack([factor * array for factor in factors[:size]])
        operands.append(array)

    def mapped(fn):
        return jax.vmap(jax.vmap(fn, inner), outer)

    agree(mapped(with_gradients(ours))(*operands), mapped(with_gradients(xla))(*operands), 1e-5)
    # Gradients of all networks at once: what they share has the sum of theirs
    agree(with_gradients(mapped(ours))(*operands), with_gradients(mapped(xla))(*operands), 1e-5)


def test_a_vmap_over_any_axis():
    ours, xla, x, kernel = functions("same")
    images, kernels = jnp.stack([x, 2 * x], 3), jnp.stack([kernel, -kernel], 1)
    agree(jax.vmap(ours, (3, 1), 2)(images, kernels), jax.vmap(xla, (3, 1), 2)(images, kernels), 1e-5)
    agree(jax.vmap(ours, (3, None), 2)(images, kernel), jax.vmap(xla, (3, None), 2)(images, kernel), 1e-5)


@pytest.mark.parametrize("shape", [(0, 6, 6, 4), (3, 0, 6, 4)])
def test_nothing_to_convolve(shape):
    kernel = jnp.ones((3, 3, 4, 2))
    x = jnp.ones(shape)
    y = form.convolve(x, kernel, (1, 1), "SAME", (1, 1))
    assert y.shape == (*shape[:-1], 2)
    assert jax.vmap(lambda k: form.convolve(x, k, (1, 1), "SAME", (1, 1)))(kernel[None]).shape == (
        1,
        *y.shape,
    )


@pytest.mark.parametrize("case", ["same", "groups"])
@pytest.mark.parametrize("axes", AXES)
def test_no_networks_at_all(case, axes):
    ours, xla, *operands = functions(case)
    none = [x if axis is None else x[None][:0] for x, axis in zip(operands, axes, strict=True)]
    agree_in_shape(*(jax.vmap(with_gradients(fn), axes)(*none) for fn in (ours, xla)))
    agree_in_shape(*(with_gradients(jax.vmap(fn, axes))(*none) for fn in (ours, xla)))


def agree_in_shape(ours, theirs):
    assert [x.shape for x in ours] == [x.shape for x in theirs]


def test_large_examples_go_one_by_one():
    """As many windows at once as a batch has would fill the memory."""
    x, kernel = jnp.ones((4, 80, 80, 48)), jnp.ones((3, 3, 48, 48)) / 48
    loss = jax.jit(jax.grad(lambda kernel: jnp.sum(form.convolve(x, kernel, (1, 1), "SAME", (1, 1)))))
    memory: Any = loss.lower(kernel).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 9 * x.nbytes  # what the windows of all take
    _, xla, *_ = functions("same")
    agree(loss(kernel), jax.grad(lambda kernel: jnp.sum(xla(x, kernel)))(kernel), 1e-5)


def test_bfloat16_stays():
    ours, xla, x, kernel = functions("same")
    narrow = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    agree(with_gradients(ours)(*narrow), with_gradients(xla)(*narrow), 0.02)


def test_on_several_devices():
    ours, xla, x, kernel = functions("same")
    kernels = jnp.stack([kernel, -kernel, 2 * kernel, kernel + 1])
    mesh = jax.make_mesh((2,), ("points",), axis_types=(jax.sharding.AxisType.Auto,))
    whole, parted = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("points")
    placed = jax.device_put(kernels, jax.sharding.NamedSharding(mesh, parted))

    def over(fn):
        return jax.vmap(with_gradients(fn), (None, 0))

    agree(jax.jit(over(ours))(x, placed), over(xla)(x, kernels), 1e-5)
    specs: dict = {"in_specs": (whole, parted), "out_specs": parted}
    mapped = [jax.jit(jax.shard_map(over(fn), mesh=mesh, **specs))(x, kernels) for fn in (ours, xla)]
    agree(mapped[0], mapped[1], 1e-5)


def test_what_an_accelerator_computes_is_the_same():
    """Batched products, which CPUs do not use in float32."""
    for case in CASES:
        _, xla, x, kernel = functions(case)
        strides, pads, dilation = CASES[case][2]
        window = faces.make_window(x.shape, kernel.shape, strides, pads, dilation, CASES[case][3])
        g = jnp.cos(xla(x, kernel))
        operands = {faces.OUTPUT: (x, kernel), faces.INPUT: (g, kernel), faces.KERNEL: (x, g)}
        for face, (a, b) in operands.items():
            agree(faces.products(face, window, a, b), faces.plain(face, window, a, b), 1e-5)


def test_an_audit_reads_it_as_the_convolution_of_xla():
    params = linear.conv_init(KEY, 4, 5, (3, 3), bias_init=1.0)

    def apply(params, x):
        y = linear.conv(params, x)
        return y - jnp.mean(y, (0, 1, 2))

    found = audit.audit_biases(apply, params, jax.random.normal(KEY, (2, 5, 5, 4)))
    assert [one.verdict for one in found.findings] == ["cancelled"]
    assert "conv_general_dilated" in str(jax.make_jaxpr(apply)(params, jnp.ones((2, 5, 5, 4))))


def test_the_program_has_the_precision_of_products_that_is_set():
    ours, _, x, kernel = functions("same")
    assert "HIGHEST" not in str(jax.make_jaxpr(ours)(x, kernel))
    with jax.default_matmul_precision("highest"):
        assert "HIGHEST" in str(jax.make_jaxpr(ours)(x, kernel))
