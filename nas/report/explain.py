"""What a search teaches: which genes matter, and how different the networks of its front are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from nas.space import Floats

FEWEST_ROWS = 40
WEAKEST_FIT = 0.2
_FOLDS, _TREES, _REPEATS = 5, 60, 3
_PAIRS = 2000  # of networks compared for their distance
_MOST_ROWS = 1000  # that a forest is fitted to; more would take minutes and say the same


@dataclass(frozen=True, kw_only=True, eq=False)
class Importance:
    """``share``: gene -> how much of a random forest's R^2 is lost when the gene is shuffled, largest first.

    ``r2``: of the forest on rows it has not seen, by cross-validation; without a decent one the rest means nothing.
    ``rows``: how many networks it was fitted to.
    """

    share: dict[str, float]
    r2: float
    rows: int

    @property
    def believable(self) -> bool:
        return self.rows >= FEWEST_ROWS and self.r2 >= WEAKEST_FIT


@dataclass(frozen=True, kw_only=True)
class Diversity:
    """``distance``: mean share of genes in which two networks of the front differ; ``of_all``: the same of all evaluated.

    ``values``: gene -> (values that occur on the front, values that were evaluated).
    """

    distance: float
    of_all: float
    values: dict[str, tuple[int, int]]


def gene_columns(evaluations: pd.DataFrame) -> list[str]:
    """The genes of an evaluations table: what stands behind its architecture."""
    columns = list(evaluations.columns)
    return columns[columns.index("architecture") + 1 :]


def importance(evaluations: pd.DataFrame, objective: str) -> Importance:
    """Permutation importance (Breiman 2001) of every gene for ``objective``, on held-out fifths of the good rows."""
    good = evaluations[evaluations[objective].notna() & _good(evaluations)]
    good = good.sample(min(len(good), _MOST_ROWS), random_state=0)
    genes = [g for g in gene_columns(evaluations) if good[g].nunique(dropna=False) > 1]
    if len(good) < FEWEST_ROWS or not genes or good[objective].nunique() < 2:
        return Importance(share={}, r2=float("nan"), rows=len(good))
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance
    from sklearn.metrics import r2_score
    from sklearn.model_selection import KFold

    x, y = _encoded(good[genes]), good[objective].to_numpy(float)
    predicted, lost = np.empty(len(y)), np.zeros(len(genes))
    for train, test in KFold(_FOLDS, shuffle=True, random_state=0).split(x):
        forest = RandomForestRegressor(_TREES, random_state=0).fit(x[train], y[train])
        predicted[test] = forest.predict(x[test])
        lost += permutation_importance(forest, x[test], y[test], n_repeats=_REPEATS, random_state=0).importances_mean
    order = np.argsort(-lost, kind="stable")
    share = {genes[i]: float(max(lost[i] / _FOLDS, 0.0)) for i in order}
    return Importance(share=share, r2=float(r2_score(y, predicted)), rows=len(good))


def diversity(evaluations: pd.DataFrame) -> Diversity | None:
    """Of the front's networks; None when it has fewer than two."""
    good = evaluations[_good(evaluations)]
    front = good[good["on_front"].astype(bool)]
    if len(front) < 2:
        return None
    genes = gene_columns(evaluations)
    values = {g: (int(front[g].nunique()), int(good[g].nunique())) for g in genes if good[g].nunique() > 1}
    return Diversity(distance=_distance(_encoded(front[genes])), of_all=_distance(_encoded(good[genes])), values=values)


def _good(evaluations: pd.DataFrame) -> pd.Series:
    failed = evaluations["error"].notna() & (evaluations["error"] != "") if "error" in evaluations else False
    violated = evaluations["violation"] > 0 if "violation" in evaluations else False
    return ~pd.Series(failed | violated, index=evaluations.index)


def _encoded(genes: pd.DataFrame) -> Floats:
    """Numbers as they are, names by their order, -1 where a gene is inactive, ``(n, genes)``."""
    columns = []
    for name in genes:
        numbers = pd.to_numeric(genes[name], errors="coerce")
        if (numbers.isna() & genes[name].notna()).any():
            numbers = pd.Series(
                pd.Categorical(genes[name].astype("object").astype(str).where(genes[name].notna())).codes
            )
        columns.append(numbers.fillna(-1).to_numpy(float))
    return np.column_stack(columns)


def _distance(encoded: Floats) -> float:
    """Mean share of columns in which two rows differ."""
    rng = np.random.default_rng(0)
    n = len(encoded)
    first, second = np.triu_indices(n, 1)
    if len(first) > _PAIRS:
        some = rng.choice(len(first), _PAIRS, replace=False)
        first, second = first[some], second[some]
    return float((encoded[first] != encoded[second]).mean())
