"""Every similarity from its published definition, one pair at a time, in float64 numpy. Slow and plain on purpose."""

import itertools

import numpy as np
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.distance import pdist, squareform
from scipy.stats import pearsonr, spearmanr


def hsic_u_statistic(k, length):
    """Song et al. 2012, equation 5."""
    n = len(k)
    k, length = k - np.diag(np.diag(k)), length - np.diag(np.diag(length))
    one = np.ones(n)
    trace = np.trace(k @ length)
    product = (one @ k @ one) * (one @ length @ one) / ((n - 1) * (n - 2))
    return (trace + product - 2 / (n - 2) * (one @ k @ length @ one)) / (n * (n - 3))


def hsic_fourth_order(k, length):
    """The same as the mean over all quadruples of different texts: the definition of the U-statistic."""
    total, count = 0.0, 0
    for i, j, q, r in itertools.permutations(range(len(k)), 4):
        total += k[i, j] * (length[i, j] + length[q, r] - 2 * length[i, q])
        count += 1
    return total / count


def u_centred(k):
    n = len(k)
    k = k - np.diag(np.diag(k))
    rows = k.sum(1)
    result = k - rows[:, None] / (n - 2) - rows[None] / (n - 2) + k.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(result, 0)
    return result


def cka(x, y):
    k, length = x @ x.T, y @ y.T
    return hsic_u_statistic(k, length) / np.sqrt(hsic_u_statistic(k, k) * hsic_u_statistic(length, length))


def cka_by_centring(x, y):
    a, b = u_centred(x @ x.T), u_centred(y @ y.T)
    return (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())


def neighbour_sets(x, k, distance="euclidean"):
    if distance == "cosine":
        x = x - x.mean(0)
    far = np.round(squareform(pdist(x, distance)), 9)  # ties, as far as float64 tells
    np.fill_diagonal(far, np.inf)
    return [set(np.argsort(row, kind="stable")[:k].tolist()) for row in far]


def mutual_knn(x, y, k=10, distance="euclidean"):
    pairs = zip(neighbour_sets(x, k, distance), neighbour_sets(y, k, distance), strict=True)
    return np.mean([len(a & b) / k for a, b in pairs])


def rsa(x, y, distance="euclidean", correlation="spearman"):
    if distance == "cosine":
        x, y = x - x.mean(0), y - y.mean(0)
    a, b = np.round(pdist(x, distance), 9), np.round(pdist(y, distance), 9)
    return (spearmanr if correlation == "spearman" else pearsonr)(a, b).statistic


def kept(x, share, most):
    """Raghu et al. 2017: leading directions that hold the share of variance."""
    u, s, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    energy = np.cumsum(s**2) / np.sum(s**2)
    rank = min(int(np.searchsorted(energy, share - 1e-12)) + 1, most or len(s))
    return u[:, :rank] * s[:rank]


def canonical_correlations(x, y, share=0.99, most=None):
    """From the covariances, through inverse square roots; source canonical variables alongside."""
    a, b = kept(x, share, most), kept(y, share, most)
    aa, bb, ab = a.T @ a, b.T @ b, a.T @ b

    def whiten(c):
        values, vectors = np.linalg.eigh(c)
        return vectors / np.sqrt(values) @ vectors.T

    left, rho, _ = np.linalg.svd(whiten(aa) @ ab @ whiten(bb))
    return rho, a @ whiten(aa) @ left[:, : len(rho)]


def svcca(x, y, share=0.99, most=None):
    return canonical_correlations(x, y, share, most)[0].mean()


def pwcca(x, y, share=0.99, most=None):
    """Morcos et al. 2018, section 3: weights sum_j |<h_i, x_j>| over the source's neurons."""
    rho, h = canonical_correlations(x, y, share, most)
    centred = x - x.mean(0)
    weights = [sum(abs(h[:, i] @ centred[:, j]) for j in range(x.shape[1])) for i in range(len(rho))]
    return np.dot(weights, rho) / np.sum(weights)


def procrustes(x, y):
    """The best turn, found and applied, with the narrower side padded with zeros."""
    width = max(x.shape[1], y.shape[1])
    x, y = (np.pad(z - z.mean(0), ((0, 0), (0, width - z.shape[1]))) for z in (x, y))
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    turn, _ = orthogonal_procrustes(y, x)
    return np.linalg.norm(x - y @ turn)


ORACLES = {"cka": cka, "mutual_knn": mutual_knn, "rsa": rsa, "svcca": svcca, "pwcca": pwcca, "procrustes": procrustes}


def all_pairs(measure, x, y, **options):
    """``[source, target]`` by one call per pair; states are ``[n, layer, d]`` tensors."""
    x, y = x.double().numpy(), y.double().numpy()
    return np.array([[measure(x[:, s], y[:, t], **options) for t in range(y.shape[1])] for s in range(x.shape[1])])
