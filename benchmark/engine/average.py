"""Exponential moving average of the weights of a network."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from benchmark.model.surgery import ChannelSelection, select

STATISTICS = ("running_mean", "running_var")


class WeightAverage:
    """The moving average of a network's weights and batch norm statistics, which follows changes of its structure.

    After step t, counted from 1, the average moves by 1 - min(decay, (1 + t) / (10 + t)) towards the weights: it is not
    dominated by the initial weights.

    Args:
        network: The network, whose parameters must stay the same objects.
        decay: Largest weight of the earlier average, from 0 to 1.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = network
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in self._averaged()}

    def _averaged(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the weights and statistics that are averaged, by name."""
        yield from self.network.named_parameters()
        for name, value in self.network.named_buffers():
            if value.is_floating_point():
                yield name, value

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights after a step, counted from 1."""
        weights = [value for _, value in self._averaged()]
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.values.values()), weights, weight)

    def follow(self, changes: Sequence[ChannelSelection]) -> None:
        """Prune the average in the same way as the network was pruned."""
        names = {id(parameter): name for name, parameter in self.network.named_parameters()}
        for change in changes:
            name = names[id(change.parameter)]
            self.values[name] = select(self.values[name], change.dim, change.index)
            prefix, _, kind = name.rpartition(".")
            for statistic in STATISTICS if kind == "weight" else ():
                if (key := f"{prefix}.{statistic}") in self.values:
                    self.values[key] = select(self.values[key], 0, change.index)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the average and the weights of the network."""
        for (_, weights), average in zip(self._averaged(), self.values.values(), strict=True):
            before = weights.clone()
            weights.copy_(average)
            average.copy_(before)

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Continue from the values of a checkpoint.

        Raises:
            ValueError: They are of another network.
        """
        shapes = [{name: value.shape for name, value in state.items()} for state in (values, dict(self._averaged()))]
        if shapes[0] != shapes[1]:
            raise ValueError("the average is of another network")
        devices = {name: value.device for name, value in self._averaged()}
        self.values = {name: values[name].to(device) for name, device in devices.items()}
