"""Agreement with outputs of the evaluators of fast-reid, torchreid, CDD, RKD and pytorch-metric-learning."""

import numpy as np
import pytest
import torch

from benchmark.retrieval import (
    Embeddings,
    Matching,
    Protocol,
    Ranking,
    average_precision,
    average_precision_at_r,
    evaluate,
    first_match_rank,
    inverse_negative_penalty,
    precision_at,
    r_precision,
)


@pytest.fixture
def arrays(golden):
    return golden("retrieval").arrays


def labeled(identities: np.ndarray, cameras: np.ndarray) -> Embeddings:
    return Embeddings(torch.zeros(len(identities), 1), torch.from_numpy(identities), torch.from_numpy(cameras))


def rank(
    arrays, case: str, camera_rule: bool = True, entries: slice | np.ndarray = slice(None), ties: str = "pessimistic"
) -> Ranking:
    """Rank some entries of the gallery of a golden case."""
    query = labeled(arrays[f"{case}/q_ids"], arrays[f"{case}/q_cams"])
    gallery = labeled(arrays[f"{case}/g_ids"][entries], arrays[f"{case}/g_cams"][entries])
    matches = Matching(query, gallery, Protocol(camera_rule=camera_rule))(slice(0, len(query)))
    return Ranking.from_scores(-torch.from_numpy(arrays[f"{case}/distmat"][:, entries]), matches, ties=ties)


def assert_equals_pytorch_metric_learning(arrays, case: str, ranking: Ranking) -> None:
    valid = ranking.positives > 0
    for name, values in (
        ("mean_average_precision", average_precision(ranking)),
        ("mean_average_precision_at_r", average_precision_at_r(ranking)),
        ("r_precision", r_precision(ranking)),
        ("precision_at_1", precision_at(ranking, [1])[:, 0]),
    ):
        np.testing.assert_allclose(values[valid].mean(), arrays[f"{case}/pml_{name}"], atol=1e-9, err_msg=name)


def recall(ranking: Ranking, at: list[int]) -> np.ndarray:
    ranks = first_match_rank(ranking)[ranking.positives > 0]
    return np.array([(ranks <= k).double().mean().item() for k in at])


@pytest.mark.parametrize(
    ("case", "prefix", "entries"),
    [
        ("plain", "", None),
        ("junk_and_distractors", "junk_kept_", None),
        ("junk_and_distractors", "junk_removed_", "kept_columns"),
        ("queries_without_positives", "", None),
        ("ties", "pessimistic_", None),
        ("ties", "optimistic_", None),
    ],
)
def test_re_identification_evaluators(arrays, case: str, prefix: str, entries: str | None):
    ties = "optimistic" if prefix == "optimistic_" else "pessimistic"
    ranking = rank(arrays, case, entries=arrays[f"{case}/{entries}"] if entries else slice(None), ties=ties)
    valid = ranking.positives > 0
    expected = {name: arrays[f"{case}/{prefix}fastreid_{name}"] for name in ("AP", "INP", "mAP", "mINP", "cmc")} | {
        "valid": arrays[f"{case}/{prefix}valid_queries"]
    }
    np.testing.assert_array_equal(valid, expected["valid"])
    precision, penalty = average_precision(ranking), inverse_negative_penalty(ranking)
    assert precision[~valid].isnan().all() and penalty[~valid].isnan().all()
    np.testing.assert_allclose(precision[valid], expected["AP"], atol=1e-9)
    np.testing.assert_allclose(penalty[valid], expected["INP"], atol=1e-9)
    np.testing.assert_allclose(precision[valid].mean(), expected["mAP"], atol=1e-9)
    np.testing.assert_allclose(penalty[valid].mean(), expected["mINP"], atol=1e-9)
    np.testing.assert_allclose(recall(ranking, list(range(1, 21))), expected["cmc"], atol=1e-6)
    for other in ("torchreid", "cdd"):
        np.testing.assert_allclose(precision[valid].mean(), arrays[f"{case}/{prefix}{other}_mAP"], atol=1e-9)


@pytest.mark.parametrize("case", ["plain", "queries_without_positives"])
def test_without_the_camera_rule(arrays, case: str):
    ranking = rank(arrays, case, camera_rule=False)
    expected = arrays[f"{case}/nocamera_recall_1_2_4_8"]
    np.testing.assert_allclose(recall(ranking, [1, 2, 4, 8]), expected, atol=1e-6)
    assert_equals_pytorch_metric_learning(arrays, case, ranking)


def test_leave_one_out(arrays):
    features, identities = arrays["leave_one_out/features"], arrays["leave_one_out/ids"]
    samples = labeled(identities, np.zeros_like(identities))
    matches = Matching(samples, samples, Protocol(camera_rule=False, query_in_gallery=True))(slice(0, len(samples)))
    points = torch.from_numpy(features).double()
    ranking = Ranking.from_scores(-torch.cdist(points, points).float(), matches)
    valid = ranking.positives > 0
    np.testing.assert_array_equal(valid, arrays["leave_one_out/valid_queries"])
    assert_equals_pytorch_metric_learning(arrays, "leave_one_out", ranking)
    for name in ("fastreid_mAP", "torchreid_mAP"):
        np.testing.assert_allclose(average_precision(ranking)[valid].mean(), arrays[f"leave_one_out/{name}"], atol=1e-9)
    penalty = inverse_negative_penalty(ranking)[valid].mean()
    np.testing.assert_allclose(penalty, arrays["leave_one_out/fastreid_mINP"], atol=1e-9)
    expected = arrays["leave_one_out/recall_1_2_4_8_positives_exist"]
    np.testing.assert_allclose(recall(ranking, [1, 2, 4, 8]), expected, atol=1e-6)
    all_queries = recall(ranking, [1, 2, 4, 8]) * valid.double().mean().item()
    np.testing.assert_allclose(all_queries, arrays["leave_one_out/rkd_recall_1_2_4_8"], atol=1e-6)


def test_evaluation_of_unit_vectors(arrays):
    """Cosine similarity and Euclidean distance give the same order of unit vectors."""
    query, gallery = (
        Embeddings(
            *(torch.from_numpy(arrays[f"rerank/{key}"]) for key in (f"{name}_features", f"{i}_ids", f"{i}_cams"))
        )
        for name, i in (("query", "q"), ("gallery", "g"))
    )
    scores = evaluate(query, gallery, Protocol())
    assert scores.mAP == pytest.approx(float(arrays["rerank/before_mAP"]), abs=1e-9)


def test_junk_is_ignored_and_distractors_are_negatives(arrays):
    """The identities -1 and 0 of Market-1501, as the protocol defines them."""
    case = "junk_and_distractors"
    query = labeled(arrays[f"{case}/q_ids"], arrays[f"{case}/q_cams"])
    gallery = labeled(arrays[f"{case}/g_ids"], arrays[f"{case}/g_cams"])
    matching = Matching(query, gallery, Protocol(junk=(-1,), distractors=(0,)))
    scores = -torch.from_numpy(arrays[f"{case}/distmat"]).index_fill_(1, matching.junk(slice(None)), torch.inf)
    ranking = Ranking.from_scores(scores, matching(slice(0, len(query))))
    precision = average_precision(ranking)[ranking.positives > 0]
    np.testing.assert_allclose(precision, arrays[f"{case}/junk_removed_fastreid_AP"], atol=1e-9)


def test_coincident_points_and_single_images(arrays):
    case = "leave_one_out_duplicates"
    identities = torch.from_numpy(arrays[f"{case}/ids"])
    points = torch.from_numpy(arrays[f"{case}/features"]).double()
    samples = Embeddings(torch.zeros(len(identities), 1), identities)
    matches = Matching(samples, samples, Protocol(camera_rule=False, query_in_gallery=True))(slice(0, len(samples)))
    scores = -torch.cdist(points, points).float()
    optimistic, pessimistic = (
        Ranking.from_scores(scores.clone(), matches, ties=t) for t in ("optimistic", "pessimistic")
    )
    expected = arrays[f"{case}/recall_1_2_4_8_positives_exist"]  # between both, as ties go to the lower index there
    assert (recall(optimistic, [1, 2, 4, 8]) >= expected - 1e-6).all()
    assert (recall(pessimistic, [1, 2, 4, 8]) <= expected + 1e-6).all()
    assert recall(optimistic, [1]) - recall(pessimistic, [1]) < 2.5 / len(samples)  # two coincident points
