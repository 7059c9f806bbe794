"""Narrowing layers, and the optimiser's state with them."""

import pytest
import torch
from torch import nn

from benchmark.model.surgery import keep_channels, keep_inputs, keep_outputs, prune_optimizer_state

ROWS = torch.tensor([0, 2, 5])


@pytest.mark.parametrize("bias", [True, False])
def test_keep_outputs_equals_a_conv_built_with_these_rows(bias):
    conv = nn.Conv2d(4, 6, 3, padding=1, stride=2, bias=bias).to(memory_format=torch.channels_last)
    narrow = nn.Conv2d(4, 3, 3, padding=1, stride=2, bias=bias)
    with torch.no_grad():
        narrow.weight.copy_(conv.weight[[0, 2, 5]])
        if bias:
            narrow.bias.copy_(conv.bias[[0, 2, 5]])
    changed = [change.parameter for change in keep_outputs(conv, ROWS)]
    assert {id(parameter) for parameter in changed} == {id(parameter) for parameter in conv.parameters()}
    maps = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(conv(maps), narrow(maps))
    assert repr(conv) == repr(narrow)


def test_keep_inputs_equals_a_conv_built_for_these_channels():
    conv = nn.Conv2d(6, 4, 3, padding=1).to(memory_format=torch.channels_last)
    narrow = nn.Conv2d(3, 4, 3, padding=1)
    with torch.no_grad():
        narrow.weight.copy_(conv.weight[:, [0, 2, 5]])
        narrow.bias.copy_(conv.bias)
    keep_inputs(conv, ROWS)
    maps = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(conv(maps), narrow(maps))
    assert repr(conv) == repr(narrow)


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d])
@pytest.mark.parametrize("affine", [True, False])
def test_keep_channels_equals_a_batch_norm_of_these_channels(kind, affine):
    norm, narrow = kind(6, affine=affine), kind(3, affine=affine)
    shape = (4, 6) if kind is nn.BatchNorm1d else (4, 6, 2, 2)
    for value in norm.parameters():
        nn.init.normal_(value)
    norm(torch.randn(shape))
    state = norm.state_dict()
    narrow.load_state_dict({name: value[ROWS] if value.dim() else value for name, value in state.items()})
    changed = [change.parameter for change in keep_channels(norm, ROWS)]
    assert {id(parameter) for parameter in changed} == {id(parameter) for parameter in norm.parameters()}
    assert repr(norm) == repr(narrow)
    maps = torch.randn(shape)[:, ROWS]
    for mode in (True, False):
        torch.testing.assert_close(norm.train(mode)(maps), narrow.train(mode)(maps))
        assert all(torch.equal(value, narrow.state_dict()[name]) for name, value in norm.state_dict().items())


def pair() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1))


def narrowed(wide: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    prune_optimizer_state(optimizer, [*keep_outputs(wide[0], ROWS), *keep_inputs(wide[2], ROWS)])


def step(network: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    maps = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    network(maps).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.01, nesterov=True),
        lambda parameters: torch.optim.AdamW(parameters, lr=0.05),
    ],
    ids=["sgd", "adamw"],
)
def test_training_goes_on_as_if_the_rows_had_never_been(make):
    # The rows that go have zero weights into the next layer, no gradient and no decay that reaches another row.
    wide, slim = pair(), pair()
    gone = [1, 3, 4]
    with torch.no_grad():
        for network in (wide, slim):
            network[2].weight[:, gone] = 0
            network[0].weight[gone] = 0
            network[0].bias[gone] = -1  # below the ReLU: never a gradient
    fresh = make(slim.parameters())
    narrowed(slim, fresh)
    optimizer = make(wide.parameters())
    for seed in range(3):
        step(wide, optimizer, seed)
        step(slim, fresh, seed)
    narrowed(wide, optimizer)
    for seed in range(3, 6):
        step(wide, optimizer, seed)
        step(slim, fresh, seed)
    for a, b in zip(wide.parameters(), slim.parameters(), strict=True):
        torch.testing.assert_close(a, b)
        assert optimizer.state[a].keys() == fresh.state[b].keys()
        for name, value in optimizer.state[a].items():
            torch.testing.assert_close(value, fresh.state[b][name])


def test_the_parameter_stays_the_same_object_and_drops_its_gradient():
    network = pair()
    before = list(network.parameters())
    network(torch.randn(1, 3, 2, 2)).sum().backward()
    keep_outputs(network[0], ROWS)
    assert all(a is b for a, b in zip(before, network.parameters(), strict=True))
    assert network[0].weight.grad is None
    assert network[2].weight.grad is not None


def test_a_state_that_does_not_exist_yet_is_no_obstacle():
    network = pair()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    narrowed(network, optimizer)
    step(network, optimizer, 0)
    assert optimizer.state[network[0].weight]["momentum_buffer"].shape == (3, 3, 1, 1)
