"""Writes statistics.json: random metrics with the estimates that docs/evaluation-statistics.md defines.

Run it with numpy 2.3 or later, scipy 1.17 and statsmodels 0.15: `python statistics.py 40 > statistics.json`. It shares no
formula with the crate where there is another way: gradients are numerical, matrices are multiplied out, roots are
bracketed, and where a package has the number, the package gives it.
"""

import json
import random
import sys

import numpy as np
import statsmodels.api as sm
from scipy.optimize import brentq
from scipy.stats import norm, t
from statsmodels.stats.proportion import proportion_confint

Z = norm.ppf(0.975)


def tango(b, c, n, z):
    def statistic(d):
        p, q = -b - c + (2 * n - b + c) * d, -c * d * (1 - d)
        share = (np.sqrt(max(0.0, p * p - 8 * n * q)) - p) / (4 * n)
        return (b - c - n * d) / np.sqrt(n * (2 * share + d * (1 - d)))

    p = (b - c) / n
    low = brentq(lambda d: statistic(d) - z, -1 + 1e-13, p - 1e-13, xtol=1e-14) if p > -1 + 1e-9 else -1.0
    high = brentq(lambda d: statistic(d) + z, p + 1e-13, 1 - 1e-13, xtol=1e-14) if p < 1 - 1e-9 else 1.0
    return low, high


def fraction(aggregate, sums):
    """Numerators and denominators of the rows of `sums`."""
    if aggregate == "F1":
        return 2 * sums[:, 0], 2 * sums[:, 0] + sums[:, 1] + sums[:, 2]
    return sums[:, 0], sums[:, 1]


def value(aggregate, sums):
    if aggregate == "RatioOfMeans":
        model, reference = (round(x, 3) for x in sums.mean(0).tolist()[:2])
        return 100 * (model / reference)
    part, whole = fraction(aggregate, sums)
    return 100 * part.sum() / whole.sum()


def linearised(estimate, shares, groups):
    """Variance (CR2), degrees of freedom (Bell and McCaffrey) and Kish's number of clusters."""
    names = list(dict.fromkeys(groups))
    member = np.array([[group == name for group in groups] for name in names], float)
    step = 1e-6
    gradient = [(estimate(1 + step * row) - estimate(1 - step * row)) / (2 * step) for row in member]
    share = member @ shares
    keep = share > 0
    residual, share = np.array(gradient)[keep], share[keep]
    if len(share) < 2:
        return None
    weights = np.diag(1 / (1 - share))
    centring = np.eye(len(share)) - np.outer(share, np.ones(len(share)))
    product = centring.T @ weights @ centring @ np.diag(share)
    degrees = np.trace(product) ** 2 / np.trace(product @ product)
    return residual @ weights @ residual, max(1, min(degrees, len(share) - 1)), 1 / (share**2).sum()


def effective(spread, variance, kish, units, differing):
    imagined = max(0, 1 - differing / 6) / units
    return (spread + imagined) / (variance + imagined / kish)


def student(variance, degrees, kish, differing):
    none = proportion_confint(0, kish, method="wilson")[1]
    return max(t.ppf(0.975, degrees) * np.sqrt(variance), max(0, 1 - differing / 6) * none)


def result(points, ratio, limits, method, bounds, variance, differing):
    low, high = (np.clip(points + 100 * (limit - ratio), *bounds) for limit in limits)
    return {
        "points": points,
        "standardError": None if variance is None else 100 * np.sqrt(variance),
        "low": min(low, points),
        "high": max(high, points),
        "method": method,
        "few": bool(differing < 6),
    }


def clusters_where(rows, groups):
    return len({group for row, group in zip(rows, groups) if row})


def score(aggregate, sums, groups):
    part, whole = fraction(aggregate, sums)
    ratio = part.sum() / whole.sum()
    top = 1000 if aggregate == "RatioOfMeans" else 100
    found = linearised(lambda w: (w * part).sum() / (w * whole).sum(), whole / whole.sum(), groups)
    gap = {g: sum((part - ratio * whole)[[x == g for x in groups]]) for g in groups}
    differing = sum(abs(x) > 1e-7 for x in gap.values())
    if aggregate != "RatioOfMeans":
        differing = min(differing, clusters_where(part > 0, groups), clusters_where(part < whole, groups))
    done = lambda limits, method: result(value(aggregate, sums), ratio, limits, method, (0, top), found and found[0], differing)
    if len(set(groups)) == len(groups) and set(whole) == {1} and set(part) <= {0, 1}:
        return done(proportion_confint(part.sum(), len(part), method="wilson"), "Score")
    if found is None:
        return done((0, top / 100), "Range")
    variance, degrees, kish = found
    if aggregate != "RatioOfMeans" and 0 <= ratio <= 1:
        n = effective(ratio * (1 - ratio), variance, kish, (whole > 0).sum(), differing)
        alpha = 2 * norm.sf(t.ppf(0.975, degrees))
        return done(proportion_confint(ratio * n, n, alpha, "wilson"), "EffectiveScore")
    half = student(*found, differing)
    return done((ratio - half, ratio + half), "Student")


def difference(aggregate, a, b, groups):
    (ap, aw), (bp, bw) = fraction(aggregate, a), fraction(aggregate, b)
    ratio = ap.sum() / aw.sum() - bp.sum() / bw.sum()
    top = 1000 if aggregate == "RatioOfMeans" else 100
    estimate = lambda w: (w * ap).sum() / (w * aw).sum() - (w * bp).sum() / (w * bw).sum()
    found = linearised(estimate, (aw / aw.sum() + bw / bw.sum()) / 2, groups)
    line = (ap - ap.sum() / aw.sum() * aw) / aw.sum() - (bp - bp.sum() / bw.sum() * bw) / bw.sum()
    unlike = {g for g, x, y in zip(groups, zip(ap, aw), zip(bp, bw)) if x != y}
    differing = sum(abs(sum(line[[x == g for x in groups]])) > 1e-10 for g in unlike)
    points = value(aggregate, a) - value(aggregate, b)
    done = lambda limits, method: result(points, ratio, limits, method, (-top, top), found and found[0], differing)
    gain, units = ap - bp, len(ap)
    gained, lost = gain[gain > 0].sum(), -gain[gain < 0].sum()
    plain = set(aw) == set(bw) == {1}
    if len(set(groups)) == units and plain and set(ap) | set(bp) <= {0, 1}:
        return done(tango(gained, lost, units, Z), "Score")
    if found is None:
        return done((-top / 100, top / 100), "Range")
    variance, degrees, kish = found
    if plain and all(0 <= x <= 1 for x in [*ap, *bp]):
        if len({groups.count(g) for g in groups}) == 1 and variance > 1e-15:
            fit = sm.OLS(gain, np.ones(units)).fit(cov_type="cluster", cov_kwds={"groups": np.unique(groups, return_inverse=True)[1]})
            assert np.isclose(fit.bse[0] ** 2, variance, rtol=1e-6, atol=0), (fit.bse[0] ** 2, variance)
        n = effective((gained + lost) / units - ratio**2, variance, kish, units, differing)
        return done(tango(gained * n / units, lost * n / units, n, t.ppf(0.975, degrees)), "EffectiveScore")
    half = student(*found, differing)
    return done((ratio - half, ratio + half), "Student")


def draw(random):
    kind = random.choice(["binary", "partial", "f1", "objects", "judged"])
    single = random.random() < 0.4
    clusters = random.choice([2, 3, 8, 30, 60])
    sizes = [1 if single else random.choice([1, 1, 2, 3, 5, 12]) for _ in range(clusters)]
    if random.random() < 0.3:
        sizes = [random.choice([1, 3])] * clusters
    if random.random() < 0.05:
        sizes = [random.choice([1, 4])]
    groups = [f"image {g}" for g, size in enumerate(sizes) for _ in range(size)]
    differ = random.choice([0, 0.02, 0.1, 0.4, 1])

    def answer():
        if kind == "binary":
            return [float(random.random() < 0.7), 1.0]
        if kind == "partial":
            return [random.choice([0, 0.3, 0.6, 0.9, 1.0]), 1.0]
        if kind == "f1":
            return list(map(float, random.choice([(1, 0, 0), (1, 0, 0), (0, 0, 1), (0, 1, 0), (0, 0, 0)])))
        if kind == "objects":
            mentioned = random.randint(0, 9)
            return [float(random.randint(0, mentioned)), float(mentioned)]
        return [random.randint(2, 20) / 2, random.randint(12, 20) / 2, 1.0]

    b = [answer() for _ in groups]
    a = [answer() if random.random() < differ else x for x in b]
    aggregate = {"f1": "F1", "judged": "RatioOfMeans"}.get(kind, "Percentage")
    return aggregate, groups, a, b


def main(count):
    source, cases = random.Random(count), []
    while len(cases) < count:
        aggregate, groups, a, b = draw(source)
        first, second = np.array(a), np.array(b)
        if any(fraction(aggregate, sums)[1].sum() == 0 for sums in (first, second)):
            continue
        cases.append({
            "aggregate": aggregate,
            "clusters": groups,
            "model": a,
            "baseline": b,
            "score": score(aggregate, first, groups),
            "difference": difference(aggregate, first, second, groups),
        })
    for place, case in enumerate(cases):
        print("[" if place == 0 else ",", json.dumps(case, default=float))
    print("]")


main(int(sys.argv[1]))
