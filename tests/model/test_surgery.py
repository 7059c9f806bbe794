"""Channel pruning of layers and of the optimizer's state."""

import pytest
import torch
from torch import nn

from benchmark.model.surgery import keep_channels, keep_inputs, keep_outputs, prune_optimizer_state

ROWS = torch.tensor([0, 2, 5])


@pytest.mark.parametrize("bias", [True, False])
def test_keep_outputs(bias):
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


def test_keep_inputs():
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
def test_keep_channels(kind, affine):
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


def prune(wide: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
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
def test_training_continues_as_without_the_removed_channels(make):
    # The removed channels have zero weights in the next layer and no gradient.
    wide, slim = pair(), pair()
    removed = [1, 3, 4]
    with torch.no_grad():
        for network in (wide, slim):
            network[2].weight[:, removed] = 0
            network[0].weight[removed] = 0
            network[0].bias[removed] = -1  # below the ReLU, so without gradient
    fresh = make(slim.parameters())
    prune(slim, fresh)
    optimizer = make(wide.parameters())
    for seed in range(3):
        step(wide, optimizer, seed)
        step(slim, fresh, seed)
    prune(wide, optimizer)
    for seed in range(3, 6):
        step(wide, optimizer, seed)
        step(slim, fresh, seed)
    for a, b in zip(wide.parameters(), slim.parameters(), strict=True):
        torch.testing.assert_close(a, b)
        assert optimizer.state[a].keys() == fresh.state[b].keys()
        for name, value in optimizer.state[a].items():
            torch.testing.assert_close(value, fresh.state[b][name])


def test_parameter_object_remains_and_its_gradient_is_dropped():
    network = pair()
    before = list(network.parameters())
    network(torch.randn(1, 3, 2, 2)).sum().backward()
    keep_outputs(network[0], ROWS)
    assert all(a is b for a, b in zip(before, network.parameters(), strict=True))
    assert network[0].weight.grad is None
    assert network[2].weight.grad is not None


def test_optimizer_without_state():
    network = pair()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    prune(network, optimizer)
    step(network, optimizer, 0)
    assert optimizer.state[network[0].weight]["momentum_buffer"].shape == (3, 3, 1, 1)
