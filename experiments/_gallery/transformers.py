"""Transformers with layer norm before or behind their sublayers."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn

from biasjax import attention

HEADS, TOKENS = 2, 5


class Attend(nn.Module):
    """`biasjax.attention` as a linen module."""

    rotary: bool
    qk_norm: bool

    @nn.compact
    def __call__(self, x):
        """Return features."""
        options = {"features": x.shape[-1], "heads": HEADS, "qk_norm": self.qk_norm}
        init: Any = functools.partial(attention.attention_init, **options)
        params: Any = self.param("heads", init)
        return attention.attention(params, x, heads=HEADS, rotary=self.rotary)


class Transformer(nn.Module):
    """One layer, layer norm before each sublayer or after each sum (Xiong et al., arXiv 2002.04745)."""

    width: int
    before: bool
    rotary: bool = False
    qk_norm: bool = False

    @nn.compact
    def __call__(self, tokens, train):
        """Return logits at every position."""

        def mlp(x):
            return nn.Dense(self.width, name="down")(nn.gelu(nn.Dense(2 * self.width)(x)))

        x = nn.Embed(TOKENS, self.width)(tokens)
        x = x + self.param("position", nn.initializers.normal(1.0), x.shape[1:])
        for sublayer in (Attend(self.rotary, self.qk_norm), mlp):
            norm = nn.LayerNorm()
            x = x + sublayer(norm(x)) if self.before else norm(x + sublayer(x))
        x = nn.LayerNorm()(x) if self.before else x
        return nn.Dense(TOKENS)(x)
