from itertools import pairwise

import matplotlib

from benchmark.plots.compression import LINE_HEIGHT, compression_svg, spread_labels

TRACE = [{"epoch": e, "channels": 90 - 5 * e, "parameters": 9000 - 600 * e, "macs": 8000 - 500 * e} for e in range(8)]


def test_svg_is_reproducible():
    expected = compression_svg(TRACE)
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "svg.fonttype": "none"}):
        assert compression_svg(TRACE) == expected


def test_svg_shows_mAP_where_it_is_known():
    evaluated = [point | ({"mAP": 0.1 * point["epoch"]} if point["epoch"] % 2 else {}) for point in TRACE]
    assert compression_svg(evaluated) != compression_svg(TRACE)


def test_single_epoch():
    assert "<svg" in compression_svg(TRACE[:1])


def test_labels_keep_their_distance():
    heights = spread_labels([38.0, 39.0, 40.0, 90.0])
    assert all(second - first >= LINE_HEIGHT - 1e-9 for first, second in pairwise(heights))
    assert spread_labels([10.0, 50.0]).tolist() == [10.0, 50.0]
