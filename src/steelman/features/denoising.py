"""Two ways to clean reconstructed features: opening of the bright pixels, and principal components.

Original: xziyue/robust_mnist_feature_py (2019).
"""

from typing import Any, Literal

import numpy as np
import torch
from scipy import ndimage

from steelman.errors import UsageError
from steelman.types import Images

Denoising = Literal["opening", "components"]

THRESHOLD, SIDE, COMPONENTS = 0.3, 2, 400  # the original's
NEARLY_ALL = 0.99  # of the variance: where 400 components tell more,
ENOUGH = 0.95  # as many as tell this at most


def denoised(x: Images, how: Denoising) -> Images:
    """The images cleaned with the original's constants.

    Of few images, or of simple ones, 400 components would tell all there is, and clean nothing: then it is as many as
    tell 95 % of the variance and no more.

    Raises:
        UsageError: components of fewer than two images.
    """
    if how == "opening":
        return opened(x)
    most = min(COMPONENTS, len(x), x[0].numel())
    scaler, pca = _fitted(x, most)
    told = np.cumsum(pca.explained_variance_ratio_)
    return _told(x, scaler, pca, max(1, int((told <= ENOUGH).sum())) if told[-1] > NEARLY_ALL else most)


def opened(x: Images, threshold: float = THRESHOLD, side: int = SIDE) -> Images:
    """The images with every pixel black that no square of `side` pixels, all brighter than `threshold`, covers.

    Raises:
        UsageError: a side below 1.
    """
    if side < 1:
        raise UsageError(f"side is {side}. Expected a square of 1 pixel or more.")
    bright = (x > threshold).cpu().numpy()
    kept = ndimage.binary_opening(bright, np.ones((1, 1, side, side), dtype=bool))
    return torch.where(torch.from_numpy(kept).to(x.device), x, 0)


def projected(x: Images, components: int = COMPONENTS) -> Images:
    """The images as their first principal components (of the standardised pixels) tell them, cut to [0, 1].

    Raises:
        UsageError: more components than images or pixels, or fewer than one.
    """
    return _told(x, *_fitted(x, components), components)


def _told(x: Images, scaler: Any, pca: Any, components: int) -> Images:
    """What the first of the fitted components tell."""
    scores = pca.transform(scaler.transform(_rows(x)))
    scores[:, components:] = 0
    cleaned = scaler.inverse_transform(pca.inverse_transform(scores))
    return torch.from_numpy(np.asarray(cleaned)).to(x).view_as(x).clamp(0, 1)


def _fitted(x: Images, components: int) -> tuple[Any, Any]:
    from sklearn.decomposition import PCA  # takes a second to import
    from sklearn.preprocessing import StandardScaler

    most = min(len(x), x[0].numel())
    if not 1 <= components <= most or len(x) < 2:
        raise UsageError(
            f"{components} components of {len(x)} images of {x[0].numel()} values. Expected 1 to {most}, and two "
            "images or more."
        )
    flat, scaler = _rows(x), StandardScaler()
    pca = PCA(components, svd_solver="full" if len(x) < 2 * flat.shape[1] else "covariance_eigh")
    pca.fit(scaler.fit_transform(flat))
    return scaler, pca


def _rows(x: Images) -> np.ndarray:
    return x.flatten(1).cpu().double().numpy()
