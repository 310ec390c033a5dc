"""Flower: clients send updates, and the server makes models of them before its strategy aggregates.

    app = ClientApp(mods=[sends_updates(size=20_000)])                     # on the client
    strategy = ReceivesUpdates(FedAvg(fraction_train=0.5))                 # on the server

The server sends models as Flower does. A client answers with what leads from that model to its own, and keeps what was
left over in its context, so that the next answer says it. Each answer stands for itself: clients may come and go.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Unpack

import numpy as np

from nncjit.errors import ModelError, NncError, NncWarning
from nncjit.updates.in_memory import apply, update
from nncjit.updates.update_options import UpdateKeywords, UpdateOptions

__all__ = ["ReceivesUpdates", "sends_updates"]

STYPE = "nncjit.update"
"""Serialisation type of the one array of a record that is an update: whoever does not know it refuses it."""
RESIDUAL = "nncjit.residual"

Arrays = dict[str, np.ndarray[Any, Any]]


def sends_updates(**options: Unpack[UpdateKeywords]) -> Callable[[Any, Any, Any], Any]:
    """A client mod that answers training with updates.

    Parameters
    ----------
    **options
        As for `nncjit.update`, for example ``size``, ``qp`` or ``zeros``. With ``carry``, which is the default here,
        what an update left over stays in the context's state and is added to the next one.

    Raises
    ------
    OptionError
        An option is wrong: now, not in the middle of a training.
    """
    asked = UpdateOptions.of(None, {"carry": True} | dict(options))
    chosen = replace(asked, carry=False)  # the context carries what is left over, since no sender is kept

    def mod(message: Any, context: Any, call_next: Callable[[Any, Any], Any]) -> Any:
        records = _array_records(message.content)
        bases = {key: _arrays(record) for key, record in records.items()}
        reply = call_next(message, context)
        if getattr(reply, "has_error", lambda: False)():
            return reply
        for key, record in _array_records(reply.content).items():
            if key not in bases:
                raise ModelError(f"the answer has a record {key!r} of arrays, the model that came has none")
            reply.content[key] = _as_update(key, bases[key], _arrays(record), context if asked.carry else None, chosen)
        return reply

    return mod


class ReceivesUpdates:
    """A strategy around another one, which sees models where clients have sent updates.

    Parameters
    ----------
    strategy : flwr.serverapp.strategy.Strategy
        What aggregates; all that is not told here is its own.
    """

    def __init__(self, strategy: Any) -> None:
        self.strategy = strategy
        self.received_bytes = 0
        """Of all updates so far."""
        self._base: Arrays = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.strategy, name)

    def start(self, *args: Any, **keywords: Any) -> Any:
        """Run the rounds of the strategy with the steps of this one."""
        return type(self.strategy).start(self, *args, **keywords)

    def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Iterable[Any]:
        """Remember the model of the round."""
        self._base = _arrays(arrays)
        messages: Iterable[Any] = self.strategy.configure_train(server_round, arrays, config, grid)
        return messages

    def aggregate_train(self, server_round: int, replies: Iterable[Any]) -> tuple[Any, Any]:
        """Make models of the updates; a client whose update does not fit takes no part in the round."""
        fitting = [reply for reply in replies if self._decoded(reply)]
        result: tuple[Any, Any] = self.strategy.aggregate_train(server_round, fitting)
        return result

    def _decoded(self, reply: Any) -> bool:
        if getattr(reply, "has_error", lambda: False)():
            return True  # the strategy tells of it
        for key, record in _array_records(reply.content).items():
            if [array.stype for array in record.values()] != [STYPE]:
                continue
            data = next(iter(record.values())).data
            self.received_bytes += len(data)
            try:
                reply.content[key] = _record(apply(self._base, data))
            except NncError as error:
                node = getattr(getattr(reply, "metadata", None), "src_node_id", "?")
                warnings.warn(f"client {node}: its update is refused: {error}", NncWarning, stacklevel=3)
                return False
        return True


def _as_update(key: str, base: Arrays, new: Arrays, context: Any, options: UpdateOptions) -> Any:
    """The record of an update, in Flower's own class."""
    from flwr.app import Array, ArrayRecord

    name = f"{RESIDUAL}.{key}"
    left_over = _arrays(context.state[name]) if context is not None and name in context.state else {}
    wanted = {n: a + left_over[n] if n in left_over and left_over[n].shape == a.shape else a for n, a in new.items()}
    data = update(base, wanted, options)
    if context is not None:
        found = apply(base, data)
        floats = [n for n, a in wanted.items() if a.dtype.kind == "f"]
        context.state[name] = _record({n: wanted[n] - found[n] for n in floats})
    return ArrayRecord(array_dict={"update": Array("uint8", (len(data),), STYPE, data)})


def _record(arrays: Mapping[str, Any]) -> Any:
    from flwr.app import Array, ArrayRecord

    return ArrayRecord(array_dict={name: Array(np.ascontiguousarray(array)) for name, array in arrays.items()})


def _arrays(record: Mapping[str, Any]) -> Arrays:
    return {name: array.numpy() for name, array in record.items()}


def _array_records(content: Any) -> dict[str, Any]:
    return dict(content.array_records)
