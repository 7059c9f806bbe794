"""Test images of a dataset, embedded and scored."""

import torch

from benchmark import evaluation
from benchmark.data.loaders import Loading
from benchmark.datasets.glyphs import Glyphs
from benchmark.model.embedder import Embedder


def test_images_are_embedded_in_order(data_root):
    dataset = Glyphs(data_root, train_identities=40, test_identities=20)
    test = evaluation.TestSet(dataset, Loading((32, 32)), batch_size=16)
    torch.manual_seed(0)
    network = Embedder("resnet14t", {"channels": [8] * 4, "stem_width": 8}, dim=4).eval()
    first, again = test.embed(network, "query"), test.embed(network, "query")

    batch = next(iter(evaluation.TestSet(dataset, Loading((32, 32)), batch_size=1000).loader("query")))
    with torch.no_grad():
        expected = network(batch.images)
    assert torch.allclose(first.vectors, expected, atol=1e-5)
    assert torch.equal(first.vectors, again.vectors)
    assert torch.equal(first.identities, batch.labels)
    assert torch.equal(test.example(5), batch.images[:5])
    assert len(test.example(1000)) == 16, "only the first batch is read"
