"""Weights that make up for what coding loses in the layers before them.

A calibration takes a layer's inputs to be what they were. They are not, since the layers before it are coded too. Let X
be the inputs in the original network, a column for each place of a sample, and Z those that coded layers give. The
outputs change least with

    W' = W (X Z' + d I) (Z Z' + d I)^-1

instead of W; d keeps W' near W where the samples say little. So the layers are coded one after another, each with the
inputs that it will have. The original network runs in a thread of its own, product by product beside the coded one:
no more than one layer's inputs are in memory.
"""

from __future__ import annotations

import copy
import io
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, closing
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import torch
from torch import Tensor, nn

from nncjit.arrays import to_torch
from nncjit.calibrate import opened
from nncjit.decoder.stream_decoder import decode
from nncjit.dtypes import DTYPES
from nncjit.encoder.execution import Data
from nncjit.encoder.model_encoder import planned, write_planned
from nncjit.encoder.options import OptionKeywords, Options
from nncjit.errors import ModelError, OptionError
from nncjit.model import Model
from nncjit.option_values import Number, checked
from nncjit.torch.calibration_inputs import Forward, as_in_use, check_plain, runner, to_device, unwrapped, weights_of
from nncjit.torch.calibration_uses import Use, WeightUses

if TYPE_CHECKING:
    from nncjit.calibrate import Statistics

__all__ = ["compensate"]

DAMPING = 0.1
"""d, as a share of the mean power of the inputs."""
_UNLIKE = "the network does not run the same layers each time: nothing can be compensated"


def compensate(
    model: nn.Module | Mapping[str, Tensor],
    batch: Any,
    options: Options | None = None,
    *,
    calibration: Statistics | str | PathLike[str],
    forward: Forward | None = None,
    strength: float = 1.0,
    **keywords: Unpack[OptionKeywords],
) -> int:
    """Change the weights of a network so that each layer makes up for what coding will lose in those before it.

    Afterwards, compress it with the same options and calibration. No labels and no gradients are needed, and it costs
    no byte. Linear layers and convolutions of all kinds take part that have statistics. A target (``bits``, ``ratio``,
    ``loss``) is searched for once, by samples, in the weights as they are; the steps found are those that weights are
    compensated at.

    Parameters
    ----------
    model : torch.nn.Module or mapping of str to Tensor
        The network, or the weights of a network that `forward` runs; changed in place.
    batch
        Inputs as in use, some hundreds, all in one batch; see `nncjit.torch.calibrate`.
    options, **keywords
        How the weights are going to be compressed.
    calibration : Statistics or path
        Of this network, with its names.
    forward : function of model and batch, optional
        How to run a batch, if not by ``model(batch)``.
    strength : float
        Share of the change that is made, 0 to 1.

    Returns
    -------
    int
        How many weights were changed. Those that nothing of the batch reaches are not.

    Raises
    ------
    OptionError
        An argument is out of range, or an option.
    ModelError
        The network does not run the same layers each time, or the calibration is of another one.
    """
    chosen = Options.of(options, keywords)
    strength = checked("strength", Number(0, 1), strength)
    model = unwrapped(model)
    run, weights = runner(forward), weights_of(model)
    check_plain(model)
    with opened(calibration) as statistics:
        if statistics is None:
            raise OptionError("calibration is None: compensation follows statistics")
        coder = _Coder(weights, chosen, statistics.under_names_of(weights))
        with torch.inference_mode(False), torch.no_grad(), ExitStack() as kept:
            coded = copy.deepcopy(model) if isinstance(model, nn.Module) else {k: t.clone() for k, t in model.items()}
            moved = to_device(batch, model)
            kept.enter_context(as_in_use(model))
            kept.enter_context(as_in_use(coded))
            of_coded = weights_of(coded)
            for name, values in coder.all().items():
                of_coded[name].copy_(values)
            originals = kept.enter_context(closing(_products(model, weights, moved, run)))
            follow = _Following(of_coded, weights, originals, coder, strength)
            with follow:
                run(coded, moved)
            if next(originals, None) is not None:
                raise ModelError(_UNLIKE)
            for name, values in follow.changed.items():
                weights[name].copy_(values)
    return len(follow.changed)


class _Product(NamedTuple):
    """One product of a network."""

    use: Use
    y: Tensor


def _products(
    model: Any, weights: Mapping[str, Tensor], batch: Any, run: Callable[[Any, Any], Any]
) -> Generator[_Product, None, None]:
    """The products of a network, while it runs: it stands still until the next one is asked for."""
    found: queue.Queue[_Product | BaseException | None] = queue.Queue()
    go_on = threading.Semaphore(0)
    stopped = threading.Event()

    def see(use: Use, y: Tensor) -> Tensor:
        found.put(_Product(use, y))
        go_on.acquire()
        if stopped.is_set():
            raise _StoppedError
        return y

    def work() -> None:
        try:
            with torch.no_grad(), WeightUses(weights, see):
                run(model, batch)
            found.put(None)
        except BaseException as error:  # noqa: BLE001 - raised where the products are asked for
            found.put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (product := found.get()) is not None:
            if isinstance(product, BaseException):
                raise product
            yield product
            go_on.release()
    finally:
        stopped.set()
        go_on.release()
        thread.join()


class _StoppedError(Exception):
    """Ends the run of the original network when the coded one has failed."""


class _Coder:
    """What the decoder will find of weights, whether all are coded or one."""

    def __init__(self, weights: Mapping[str, Tensor], options: Options, statistics: Statistics) -> None:
        self.statistics = statistics
        self._model = Model.from_mapping({name: weight.detach().cpu() for name, weight in weights.items()})
        self._plan = planned(self._model, options, Data(calibration=statistics))

    def all(self) -> dict[str, Tensor]:
        """All weights."""
        return self._found(self._model)

    def one(self, name: str, values: Tensor) -> Tensor:
        """One weight that has other values."""
        return self._found(Model.from_mapping({name: values.cpu()}))[name]

    def _found(self, model: Model) -> dict[str, Tensor]:
        file = io.BytesIO()
        write_planned(model, file, self._plan)
        kinds = {tensor.name: tensor.dtype for tensor in model}
        decoded = decode(file.getvalue())
        return {name: to_torch(a.view(DTYPES[kinds[name]].storage), kinds[name]) for name, a in decoded.items()}

    def follows(self, use: Use, weight: Tensor, outputs: int) -> bool:
        """Whether a product is that of a whole weight with statistics, by inputs that it is known by."""
        found = self.statistics.get(use.name)
        if found is None or found.positions or not found.record.samples or found.record.is_stacked:
            return False
        record = found.record
        whole = use.kind == "convolution" or outputs == record.outputs
        return record.kind == use.kind and use.kind in ("linear", "convolution") and whole and weight.ndim > 1


class _Following(WeightUses):
    """Runs a coded network beside the original one, and codes each weight anew when it is first used."""

    def __init__(
        self,
        coded: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
        originals: Iterator[_Product],
        coder: _Coder,
        strength: float,
    ) -> None:
        super().__init__(coded, self._compensate)
        self.changed: dict[str, Tensor] = {}
        self._coded, self._weights, self._originals, self._coder = coded, weights, originals, coder
        self._strength, self._seen, self._is_new = strength, set[str](), False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._is_new = False
        y = super().__torch_function__(func, types, args, kwargs)
        return func(*args, **(kwargs or {})) if self._is_new else y

    def _compensate(self, use: Use, y: Tensor) -> Tensor:
        original = next(self._originals, None)
        if original is None or original.use.name != use.name or original.y.shape != y.shape:
            raise ModelError(_UNLIKE)
        name, weight = use.name, self._weights[use.name]
        if name in self._seen or not y.numel() or not self._coder.follows(use, weight, y.shape[-1]):
            return y
        self._seen.add(name)
        wanted = _compensated(weight, original, _Product(use, y), self._strength)
        if not torch.isfinite(wanted).all():
            raise ModelError(f"{name}: its inputs are not finite")
        self.changed[name] = wanted
        self._coded[name].copy_(self._coder.one(name, wanted))
        self._is_new = True
        return y


def _compensated(weight: Tensor, original: _Product, coded: _Product, strength: float) -> Tensor:
    """W'."""
    use = coded.use
    groups = use.groups
    stored = weight.reshape(groups, len(weight) // groups, -1)
    matrix = (stored.mT if use.inputs_first else stored).double()
    n = matrix.shape[2]
    both, own = (torch.zeros(groups, n, n, dtype=torch.double, device=weight.device) for _ in range(2))
    pairs = zip(_inputs(original), _inputs(coded), strict=True)
    for x, z in pairs:
        own += (z.mT @ z).double()
        both += (x.mT @ z).double()
    damping = DAMPING * own.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    damping = (damping + torch.finfo(torch.float32).tiny) * torch.eye(n, device=weight.device)
    moved = torch.linalg.solve(own + damping, ((both + damping).mT @ matrix.mT)).mT
    changed: Tensor = (matrix + strength * (moved - matrix)).to(weight.dtype)
    return (changed.mT if use.inputs_first else changed).reshape(weight.shape)


def _inputs(product: _Product) -> Iterator[Tensor]:
    """Inputs of a product, [groups, places, inputs], some at a time."""
    for part in product.use.parts(product.use.x, product.y, 1):
        yield part.x.float().flatten(1, 2)
