"""The moving average of weights."""

import copy

import pytest
import torch
from torch import nn

from benchmark.engine.average import WeightAverage
from benchmark.methods.none import NoDistillation
from benchmark.model.surgery import keep_channels, keep_inputs, keep_outputs


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1))


def step(network):
    """Change all weights and statistics."""
    with torch.no_grad():
        for value in (*network.parameters(), *network.buffers()):
            value += 1 if not value.is_floating_point() else torch.randn_like(value)


def floats(network):
    return {name: value.clone() for name, value in network.state_dict().items() if value.is_floating_point()}


def test_equals_the_recurrence(network):
    average, expected = WeightAverage(network, 0.4), floats(network)
    for number in range(1, 8):
        step(network)
        average.update(number)
        decay = min(0.4, (1 + number) / (10 + number))
        expected = {name: decay * expected[name] + (1 - decay) * value for name, value in floats(network).items()}
    assert average.values.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(average.values[name], value)


def test_follows_pruning(network):
    average = WeightAverage(network, 0.9)
    step(network)
    average.update(5)
    kept, before = torch.tensor([0, 3, 4]), copy.deepcopy(average.values)
    average.follow([*keep_outputs(network[0], kept), *keep_channels(network[1], kept), *keep_inputs(network[2], kept)])
    for name, value in before.items():
        if name == "2.weight":
            value = value[:, kept]
        elif not name.startswith("2."):
            value = value[kept]
        assert torch.equal(average.values[name], value), name
    average.update(6)  # the shapes fit the network


def test_swap(network):
    average, first = WeightAverage(network, 0.9), floats(network)
    step(network)
    second = floats(network)
    average.swap()
    assert all(torch.equal(value, first[name]) for name, value in floats(network).items())
    average.swap()
    assert all(torch.equal(value, second[name]) for name, value in floats(network).items())


def test_values_of_another_network(network):
    with pytest.raises(ValueError, match="of another network"):
        WeightAverage(network, 0.9).load({"weight": torch.zeros(2)})


def test_the_average_is_the_result(tiny, train_tiny, tmp_path):
    weights = []

    class Noting(NoDistillation):
        def after_backward(self, student):
            weights.append(student.neck[-1].weight.detach().clone())  # before the step

        def after_epoch(self, student, progress):
            if progress.epoch == progress.epochs:
                weights.append(student.neck[-1].weight.detach().clone())
            return []

    trained = train_tiny(tiny("none", "train.ema=0.5"), tmp_path, method=Noting())
    expected, *following = weights
    for number, value in enumerate(following, start=1):
        decay = min(0.5, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(trained.student.neck[-1].weight.detach(), expected)
