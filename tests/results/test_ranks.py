from benchmark.results.comparison import mean_ranks
from benchmark.results.rows import summarise


def boards(record, **scores):
    """`boards(record, glyphs={"kd": 0.6})`: the rows of each dataset."""
    return [
        summarise(
            [record("none", role="teacher", dataset=dataset, mAP=0.99)]
            + [record(method, dataset=dataset, mAP=mAP) for method, mAP in methods.items()]
        )
        for dataset, methods in scores.items()
    ]


def test_places_are_averaged_over_datasets(record):
    found = boards(record, glyphs={"none": 0.5, "kd": 0.7, "rkd": 0.6}, veri776={"none": 0.4, "kd": 0.3, "rkd": 0.6})
    assert mean_ranks(found) == {"none": 2.5, "kd": 2.0, "rkd": 1.5}


def test_only_methods_on_every_dataset_and_among_each_other(record):
    found = boards(record, glyphs={"none": 0.5, "kd": 0.7, "pkt": 0.6}, veri776={"none": 0.4, "kd": 0.6, "at": 0.5})
    assert mean_ranks(found) == {"none": 2.0, "kd": 1.0}


def test_equals_share_their_places(record):
    assert mean_ranks(boards(record, glyphs={"none": 0.6, "kd": 0.6, "rkd": 0.5})) == {"kd": 1.5, "none": 1.5, "rkd": 3}


def test_the_best_of_several_rows_counts(record):
    rows = summarise([record("kd", mAP=0.5), record("kd", mAP=0.7, variant="longer"), record("none", mAP=0.6)])
    assert mean_ranks([rows]) == {"kd": 1, "none": 2}


def test_without_datasets():
    assert mean_ranks([]) == {}


def test_rows_of_other_data_do_not_count(record):
    other = record().data.model_dump() | {"broken": 4}
    rows = summarise([record("none", mAP=0.6), record("kd", mAP=0.5), record("kd", mAP=0.9, data=other, variant="b")])
    assert mean_ranks([rows]) == {"none": 1, "kd": 2}
