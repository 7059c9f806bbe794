"""Clustering scores of embeddings: agreement of k-means clusters with identities."""

from dataclasses import dataclass

import torch

from benchmark.retrieval.embeddings import Embeddings
from benchmark.retrieval.protocol import Protocol


@dataclass(frozen=True, slots=True)
class ClusteringScores:
    """Agreement of clusters with identities: 1 for equal partitions.

    Source: Vinh, Epps, Bailey, "Information Theoretic Measures for Clusterings Comparison", JMLR 2010.
    """

    images: int
    """Number of images that were clustered."""
    clusters: int
    """Number of clusters, which is the number of identities."""
    NMI: float
    """Mutual information, divided by the mean of the entropies of clusters and identities. It grows with the number of
    clusters."""
    AMI: float
    """Mutual information, adjusted for chance: 0 is expected for random clusters."""


def clustering_scores(gallery: Embeddings, protocol: Protocol, seed: int = 0) -> ClusteringScores:
    """Cluster a gallery by k-means into as many clusters as it has identities.

    Junk and distractors, which have no identity, are left out. Embeddings are normalized. Memory: a copy of the gallery
    in float32.

    Args:
        gallery: Gallery images.
        protocol: States which identities are junk or distractors.
        seed: Seed of the first centers (k-means++).

    Raises:
        ValueError: The gallery has no images with an identity.
    """
    from sklearn.cluster import KMeans  # slow to import
    from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

    others = torch.tensor([*protocol.junk, *protocol.distractors], dtype=torch.int64, device=gallery.identities.device)
    kept = ~torch.isin(gallery.identities, others)
    if not kept.any():
        raise ValueError("there are no clusters: all gallery images are junk or distractors")
    identities = gallery.identities[kept].cpu().numpy()
    vectors = (gallery.vectors[kept].float() * gallery.scale[kept, None]).cpu().numpy()
    clusters = len(set(identities.tolist()))
    found = KMeans(clusters, n_init=1, random_state=seed).fit_predict(vectors)
    return ClusteringScores(
        images=len(identities),
        clusters=clusters,
        NMI=float(normalized_mutual_info_score(identities, found)),
        AMI=float(adjusted_mutual_info_score(identities, found)),
    )
