"""Tensor types of the public signatures; under pytest every call is checked against them (jaxtyping + beartype)."""

from typing import TypeAlias

from jaxtyping import Bool, Float, Int
from torch import Tensor

Images: TypeAlias = Float[Tensor, "b c h w"]  # pixels in [0, 1]
Labels: TypeAlias = Int[Tensor, "b"]  # class indices, 0 .. k - 1
Logits: TypeAlias = Float[Tensor, "b k"]  # before any softmax
PerExample: TypeAlias = Float[Tensor, "b"]
Mask: TypeAlias = Bool[Tensor, "b"]
Counts: TypeAlias = Int[Tensor, "b"]
