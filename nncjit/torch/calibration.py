"""Statistics of a PyTorch network from inputs alone, no labels: which errors of its weights its output feels.

The network runs once over the inputs, forwards and backwards from random probes of its output. Weights get no gradients
of their own: each product of a weight is seen as it happens, and what its input and the gradient of its output say is
added up.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from operator import length_hint
from typing import Any

import torch
from torch import Tensor, nn

from nncjit.calibrate import Calibration
from nncjit.calibrate.statistics_record import WIDEST_BLOCK
from nncjit.errors import ModelError, NncWarning, OptionError
from nncjit.option_values import Flag, Named, Whole, checked, optional, shown
from nncjit.progress import Progress, reporting
from nncjit.torch.calibration_inputs import (
    MEASURED,
    Forward,
    as_in_use,
    check_batches,
    check_plain,
    runner,
    to_device,
    unwrapped,
    weights_of,
)
from nncjit.torch.calibration_moments import WeightMoments, is_positions
from nncjit.torch.calibration_outputs import Output, check_logits, probe_of, select
from nncjit.torch.calibration_partial import Partial
from nncjit.torch.calibration_parts import WeightParts
from nncjit.torch.calibration_uses import Use, WeightUses, no_parts

__all__ = ["PROBES", "SEEDS", "calibrate"]

PROBES, SEEDS = Whole(1, 1024), Whole(0, 1 << 62)

HALF_SCALE = 1024.0
"""Of gradients in float16, which would otherwise be lost below its smallest number."""
_KINDS = ("table", "convolution", "linear")
"""A weight that is used in several ways is what comes first here."""


def calibrate(
    model: nn.Module | Mapping[str, Tensor],
    batches: Iterable[Any],
    *,
    output: Output = "logits",
    fisher: bool | None = None,
    probes: int = 1,
    forward: Forward | None = None,
    autocast: torch.dtype | None = None,
    widest_block: int = WIDEST_BLOCK,
    seed: int = 0,
    names: Mapping[str, str] | None = None,
    parts: Mapping[str, Tensor] | None = None,
    resume: str | os.PathLike[str] | None = None,
    save_every: int = 50,
    progress: Progress | bool | None = None,
) -> Calibration:
    """Collect the statistics with which `nncjit.compress` and `nncjit.encode` choose what to keep of a network.

    Parameters
    ----------
    model : torch.nn.Module or mapping of str to Tensor
        The network, or the weights of a network that `forward` runs. It is left as it was.
    batches : iterable
        Inputs as in use, a thousand samples or two; labels are not needed. A tensor or array is the network's argument,
        a tuple or list its arguments, a mapping its keywords. Texts of like length together save time.
    output : {"logits", "embedding"} or function
        What counts: logits before a softmax; an embedding, of which only the direction counts; or what the function
        takes from the network's result, [samples, ...], of which the squared error counts.
    fisher : bool, optional
        Whether the output is logits, whose Kullback-Leibler divergence counts. By default, where `output` is "logits".
    probes : int
        Backward passes of each batch. One is enough for embeddings, two help classifiers.
    forward : function of model and batch, optional
        How to run a batch, if not by ``model(batch)``. For loaders that give labels too:
        ``forward=lambda model, batch: model(batch[0])``.
    autocast : torch.dtype, optional
        Run in mixed precision of this type. A network of half precision runs as it is.
    widest_block : int
        Most inputs of a layer whose products are kept: of wider layers, blocks of so many.
    seed : int
    names : mapping of str to str, optional
        Names of weights in the model file, by their names in the network. Weights that it leaves out are not collected.
    parts : mapping of str to Tensor, optional
        Matrices of the model file that the network holds in larger tensors, as experts or fused projections, by their
        names in the file: views ``weight.detach()[k]`` of whole rows. They have statistics of their own, and matrices
        that lie in the same places of a stack of three dimensions count as alike (`nncjit.calibrate`).
    resume : path, optional
        A file that is written every `save_every` batches and gone on from if it exists; deleted at the end. The batches
        must be the same, in the same order: others are refused.
    save_every : int
    progress : callable or bool, optional
        True shows a bar. A function is called with the batches done, how many there are in all (0 if not known), and
        the samples in words.

    Returns
    -------
    Calibration
        ``.save(path)`` writes the file for ``nncjit compress --calibration``; ``.statistics()`` is for
        ``nncjit.encode(..., calibration=...)``.

    Raises
    ------
    ModelError
        The output does not depend on the weights, or is not finite; or the partial file is of another run, or of other
        batches.
    OptionError
        An argument is out of range.
    """
    probes, widest_block, seed, save_every = (
        checked(name, numbers, value)
        for name, numbers, value in (
            ("probes", PROBES, probes),
            ("widest_block", Whole(16, 1 << 31), widest_block),
            ("seed", SEEDS, seed),
            ("save_every", Whole(1, 1 << 62), save_every),
        )
    )
    check_batches(batches)
    if autocast not in (None, torch.float16, torch.bfloat16):
        raise OptionError(f"autocast is {shown(autocast)}, must be torch.float16 or torch.bfloat16")
    optional("names", Named("names"), names)
    for name, part in (optional("parts", Named("tensors"), parts) or {}).items():
        if not isinstance(part, Tensor):
            raise OptionError(f"parts: {name} is {shown(part)}, must be a tensor")
    fisher = output == "logits" if fisher is None else checked("fisher", Flag(), fisher)
    model = unwrapped(model)
    collector = _Collector(model, runner(forward), output, fisher, probes, autocast, widest_block, seed, parts or {})
    names = {name: name for name in collector.weights} if names is None else dict(names)
    said = Counter(name for weight, name in names.items() if weight in collector.weights)
    if not said or said.total() > len(said):
        twice = next((name for name, count in said.items() if count > 1), None)
        what = "none of the network's weights" if twice is None else f"{twice} for two weights"
        raise OptionError(f"names has {what}")
    partial = Partial(resume, collector.facts())
    total = length_hint(batches, 0)
    with torch.inference_mode(False), as_in_use(model), reporting(progress, "calibrate", "batches") as told:
        for count, batch in enumerate(batches, 1):
            if count == 1:
                collector.look_around(batch)
                partial.load(collector)
            if not partial.knows(batch):
                collector.add(batch, count)
                if count % save_every == 0:
                    partial.save(collector)
            if told is not None:
                told(count, total, f"{collector.samples} samples")
    partial.check_end()
    if not collector.samples:
        raise ModelError("no batches: there is nothing to calibrate on")
    result = collector.result(names)
    partial.remove()
    return result


def _version(x: Tensor) -> int:
    """Counts changes in place."""
    return 0 if x.is_inference() else x._version  # noqa: SLF001 - the only way to see them


def _some_of(weight: Tensor) -> list[str]:
    """A few values of a weight, by which another model of the same shapes is known."""
    flat = weight.detach().reshape(-1)
    return [str(value) for value in flat[:: -(-len(flat) // 8)].tolist()]


class _Collector:
    """Runs batches and adds up what they say of each weight."""

    def __init__(
        self,
        model: Any,
        forward: Forward,
        output: Output,
        fisher: bool,
        probes: int,
        autocast: torch.dtype | None,
        widest_block: int,
        seed: int,
        parts: Mapping[str, Tensor],
    ) -> None:
        self._model, self._forward, self._output, self._fisher = model, forward, output, fisher
        self._probes, self._autocast, self._widest, self._seed = probes, autocast, widest_block, seed
        self.weights = weights_of(model)
        check_plain(model)
        self._first = next(iter(self.weights.values()))
        self._stacks = WeightParts(self.weights, parts)
        self.weights = self._stacks.weights
        self._device = self._first.device
        self.moments: dict[str, WeightMoments] = {}
        self.samples, self.power = 0, 0.0
        self._copied: set[str] = set()
        self._unseen: dict[str, Tensor] = {}
        self._reached: set[str] = set()

    def facts(self) -> dict[str, Any]:
        """What a run must share with one that goes on from it."""
        output = self._output if isinstance(self._output, str) else "function"
        shapes = {name: list(weight.shape) for name, weight in self.weights.items()}
        values = {name: _some_of(weight) for name, weight in self.weights.items()}
        settings = [output, self._fisher, self._probes, str(self._autocast), self._widest, self._seed]
        return {"settings": settings, "shapes": shapes, "values": values}

    def add(self, batch: Any, number: int) -> None:
        """Run a batch and add what it says.

        Raises
        ------
        ModelError
            Its output cannot be used.
        """
        try:
            self._add(to_device(batch, self._model), number)
        except ModelError as error:
            raise ModelError(f"batch {number}: {error}") from None

    def _add(self, batch: Any, number: int) -> None:
        with self._gradients_of(self._unseen):
            self._reached = set()
            self._run(batch, torch.Generator().manual_seed(self._seed + number))

    @contextmanager
    def _gradients_of(self, chosen: Collection[str]) -> Iterator[None]:
        """Gradients are recorded, of these weights alone."""
        before = {name: (weight.requires_grad, weight.grad) for name, weight in self.weights.items()}
        try:
            for name, weight in self.weights.items():
                weight.requires_grad_(name in chosen)
                weight.grad = None
            with torch.enable_grad():
                yield
        finally:
            for name, weight in self.weights.items():
                wanted, weight.grad = before[name]
                weight.requires_grad_(wanted)

    def look_around(self, batch: Any) -> None:
        """Learn which weights' uses are seen, which inputs change later, and which tables are looked up by position.

        Of a product that the network itself takes a gradient of while it runs, as those that give forces do, the
        gradient of its output does not tell all.
        """
        uses: list[tuple[Use, int]] = []
        inside: set[str] = set()

        def see(use: Use, y: Tensor) -> Tensor:
            uses.append((use, _version(use.x)))
            hooked: Any = y
            if hooked.requires_grad:
                hooked.register_hook(lambda _: inside.add(use.name))
            return y

        with self._gradients_of(()), WeightUses(self.weights, see), self._precision():
            self._forward(self._model, to_device(batch, self._model))
        known = (self.moments, self._stacks.replaced, inside)
        for kind in _KINDS:
            for use, _ in uses:
                if use.kind == kind and not any(use.name in names for names in known):
                    self._begin(use).positions = kind == "table" and not use.by_gradient and is_positions(use.x)
                    if use.by_gradient:
                        self._unseen[use.name] = self.weights[use.name]
        for use in self._stacks.unused(self.moments):
            self._begin(use)
        changing = [use for use, version in uses if _version(use.x) != version]
        self._copied = {use.name for use in changing}
        untold = {use.bias for use in changing}  # a gradient for it would need the product's input as it was
        for name, weight in self.weights.items():
            told = name in self.moments or name in untold or name in self._stacks.parts or name in self._stacks.replaced
            if not told and weight.ndim and not MEASURED.search(name):
                matrix = weight.ndim == 2 and min(weight.shape) > 1
                self._unseen[name] = weight
                self._begin(Use(name, weight, no_parts, "linear" if matrix else "rows"))

    def _begin(self, use: Use) -> WeightMoments:
        """Sums of a weight, all zero."""
        weight = self.weights[use.name]
        self.moments[use.name] = WeightMoments(use, tuple(weight.shape), weight.device, self._widest)
        return self.moments[use.name]

    def _precision(self) -> Any:
        if self._autocast is None:
            return nullcontext()
        return torch.autocast(self._device.type, self._autocast)

    def _run(self, batch: Any, generator: torch.Generator) -> None:
        """Run a batch forwards, and backwards from each probe of its output."""
        samples, scale = 0, 1.0

        def see(use: Use, y: Tensor) -> Tensor:
            moments = self.moments.get(use.name)
            if moments is None or use.name in self._unseen or not moments.can_add(use) or y.is_inference():
                return y
            x = use.x.detach()
            x = x.clone() if use.name in self._copied else x
            hooked: Any = y
            if not y.requires_grad:  # a first layer: gradients are taken from a leaf, a copy may be changed in place
                hooked = y.detach().requires_grad_()
                y = hooked.clone()

            def take(g: Tensor) -> None:
                if not samples:  # the network's own gradient, of no probe
                    return
                self._reached.add(use.name)
                with torch.no_grad():
                    gradient = g.float() if scale == 1.0 else g.float() / scale
                    for part in use.parts(x, gradient, samples):
                        moments.add(use, part, samples)

            hooked.register_hook(take)
            return y

        with WeightUses(self.weights, see), self._precision():
            y: Any = select(self._output, self._forward(self._model, batch))
        exact = self._exact(y)
        samples = len(y)
        half = torch.float16 in (y.dtype, self._autocast, self._first.dtype)
        scale = HALF_SCALE if half else 1.0
        for k in range(self._probes):
            v = probe_of(exact.float(), self._probes, generator, fisher=self._fisher)
            y.backward((v * scale).to(y.dtype), retain_graph=k + 1 < self._probes)
            self._take_unseen(scale)
        self.samples += samples
        if self._fisher:
            self.power += exact.numel() / exact.shape[-1]  # in nats, of each distribution
        else:
            self.power += float(samples) if self._output == "embedding" else exact.square().sum().item()
        for name in self._reached:
            self.moments[name].samples += samples

    def _exact(self, y: Tensor) -> Tensor:
        """The output's values, of which something can be learned."""
        if self._fisher:
            check_logits(y)
        if not y.requires_grad:
            said = "is the network run under torch.no_grad() or inference_mode()?"
            raise ModelError(f"the output does not depend on any weight: {said}")
        exact = y.detach().double()
        if not torch.isfinite(exact).all():
            raise ModelError("the output is not finite")
        return exact

    def _take_unseen(self, scale: float) -> None:
        """Gradients of weights whose uses nobody saw, over the whole batch."""
        for name, weight in self._unseen.items():
            if weight.grad is not None:
                gradient = weight.grad.to_dense() if weight.grad.is_sparse else weight.grad
                self.moments[name].add_gradient(gradient.float() / scale)
                self._reached.add(name)
                weight.grad = None

    def result(self, names: Mapping[str, str]) -> Calibration:
        """The calibration that writes the file."""
        loss = "divergence of the outputs, in nats" if self._fisher else "half the squared error of the output"
        loss = "1 - cosine of the embedding" if self._output == "embedding" else loss
        calibration = Calibration(loss=loss, widest_block=self._widest)
        calibration.end_samples(self.samples, output_power=self.power)
        names = {name: said for name, said in names.items() if name not in self._stacks.replaced}
        names |= {name: name for name in self._stacks.parts}
        for name, moments in self.moments.items():
            if not torch.isfinite(moments.metric).all():
                raise ModelError(f"{name}: the network's gradients are not finite there; try without half precision")
            if moments.samples and name in names:
                moments.into(calibration, names[name])
                if self.weights[name].ndim > 1:
                    calibration.values(names[name], self.weights[name].detach().float().cpu().numpy())
        if not any(moments.metric.any() for moments in self.moments.values()):
            raise ModelError("no error of any weight changes the output: it is constant")
        for alike in self._stacks.alike():
            calibration.alike(alike)
        reached = {name for name, moments in self.moments.items() if moments.samples}
        missing = [name for name, weight in self.weights.items() if weight.ndim > 1 and name not in reached]
        missing = [name for name in missing if name in names]
        for name in missing:
            calibration.unreached(names[name], tuple(self.weights[name].shape))
        if missing:
            said = f"no statistics of {missing[0]}" + (f" and {len(missing) - 1} more" if missing[1:] else "")
            warnings.warn(f"{said}: no sample reached them, or in a way that is not known", NncWarning, stacklevel=3)
        return calibration
