"""Models in several streams: any executor, any order, resumed at any moment; the bytes are the same."""

from __future__ import annotations

import errno
import json
import math
import os
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import chdir
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from convert.models import OddExecutor, tensors, write_model

import nncjit
from nncjit.convert import job_plan, sharded_compression
from nncjit.convert.job_status import status_of
from nncjit.convert.sharded_compression import encode_shard

SHARD = 30_000
TIES = {"head.weight": "embed.weight"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("source") / "m.safetensors.index.json", tensors(), shard_size=50_000)


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.suffix != ".journal"}


@pytest.fixture(scope="module")
def expected(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("expected")
    nncjit.compress(source, folder / "m.nnc", shard_bytes=SHARD)
    return files(folder)


def test_streams_and_index_hold_the_model(source, expected, tmp_path):
    index = json.loads(expected["m.nnc.index.json"])
    assert list(index["weight_map"]) == list(tensors())
    shards = [name for name in expected if name.endswith(".nnc")]
    assert shards == sorted(set(index["weight_map"].values()))
    assert len(shards) > 3
    whole = nncjit.decode(nncjit.encode(tensors()))
    for name in shards:
        for tensor, array in nncjit.decode(expected[name]).items():
            np.testing.assert_array_equal(array, whole[tensor])


@pytest.mark.parametrize("kind", ["threads", "odd", "odd again", "one thread"])
def test_bytes_do_not_depend_on_the_executor(kind, source, expected, tmp_path):
    if kind.startswith("odd"):
        report = nncjit.compress(source, tmp_path / "m.nnc", executor=OddExecutor(len(kind)), shard_bytes=SHARD)
    else:
        with ThreadPoolExecutor(3 if kind == "threads" else 1) as pool:
            report = nncjit.compress(source, tmp_path / "m.nnc.index.json", executor=pool, shard_bytes=SHARD)
    assert files(tmp_path) == expected
    assert [row.name for row in report.tensors] == list(tensors())
    assert report.compressed_bytes == sum(len(data) for name, data in expected.items() if name.endswith(".nnc"))
    assert report.snr is not None


def test_processes_do_the_same(source, expected, tmp_path):
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        nncjit.compress(source, tmp_path / "m.nnc", executor=pool, shard_bytes="30KB")
    assert files(tmp_path) == expected


def test_one_shard_is_what_a_single_file_is(source, tmp_path):
    nncjit.compress(source, tmp_path / "a.nnc")
    nncjit.compress(source, tmp_path / "b.nnc", shard_bytes="1GB")
    assert (tmp_path / "b-00001-of-00001.nnc").read_bytes() == (tmp_path / "a.nnc").read_bytes()


def counted(monkeypatch):
    """How many streams are encoded."""
    made = []

    def work(task):
        made.append(task.number)
        return encode_shard(task)

    monkeypatch.setattr(sharded_compression, "encode_shard", work)
    return made


class Interrupted(Exception):  # noqa: N818 - stands for what ends a process
    pass


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_job_goes_on_where_it_was_ended(after, source, expected, tmp_path, monkeypatch):
    target = tmp_path / "m.nnc"
    with monkeypatch.context() as patch:
        made = []

        def work(task):
            if len(made) == after:
                raise Interrupted
            made.append(task.number)
            return encode_shard(task)

        patch.setattr(sharded_compression, "encode_shard", work)
        with pytest.raises(Interrupted):
            nncjit.compress(source, target, shard_bytes=SHARD)
    assert not (tmp_path / "m.nnc.index.json").exists()
    again = counted(monkeypatch)
    nncjit.compress(source, target, shard_bytes=SHARD)
    assert len(again) == len(expected) - 1 - after
    assert files(tmp_path) == expected


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_a_journal_that_was_cut_off_is_read_as_far_as_it_goes(cut, source, expected, tmp_path):
    nncjit.compress(source, tmp_path / "m.nnc", shard_bytes=SHARD)
    journal = tmp_path / "m.nnc.journal"
    journal.write_bytes(journal.read_bytes()[:-cut])
    (tmp_path / "m.nnc.index.json").unlink()
    nncjit.compress(source, tmp_path / "m.nnc", shard_bytes=SHARD)
    assert files(tmp_path) == expected


def test_a_journal_of_noise_is_passed_over(source, expected, tmp_path):
    (tmp_path / "m.nnc.journal").write_bytes(b'\xff\n[1]\n{"file": 3}\n{"plan": 7}\n{"file": "m.nnc", "key": []}')
    nncjit.compress(source, tmp_path / "m.nnc", shard_bytes=SHARD)
    assert files(tmp_path) == expected


DAMAGE = {
    "no report": lambda line: line.pop("report", None),
    "strange rows": lambda line: line.get("report", {}).update(tensors=[{"a": 1}]),
    "rows of other tensors": lambda line: line.get("report", {}).update(tensors=[]),
    "sums of text": lambda line: line.get("report", {}).update(power="1"),
    "marks of another kind": lambda line: line.update(mark=[]),
    "a plan of other tensors": lambda line: line.get("plan", {}).update(shards=[["strange"]]),
    "a plan without decisions": lambda line: line.get("plan", {}).update(decisions=5),
    "names of files elsewhere": lambda line: line.update(announced=["../m.safetensors", "a\0b", 5]),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_what_is_damaged_in_a_journal_is_made_anew(case, source, expected, tmp_path):
    target, journal = tmp_path / "m.nnc", tmp_path / "m.nnc.journal"
    nncjit.compress(source, target, shard_bytes=SHARD)
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    for line in lines:
        DAMAGE[case](line)
    journal.write_text("[" * 100_000 + "\n" + "".join(json.dumps(line) + "\n" for line in lines))
    assert set(status_of(target).files) <= {*expected}
    nncjit.compress(source, target, shard_bytes=SHARD)
    assert files(tmp_path) == expected
    assert status_of(target).complete


def test_a_file_that_goes_while_others_are_made_is_told(source, expected, tmp_path):
    gone = tmp_path / min(name for name in expected if name.endswith(".nnc"))
    with pytest.raises(nncjit.ModelError, match="is gone, or was changed"):
        nncjit.compress(source, tmp_path / "m.nnc", shard_bytes=SHARD, progress=lambda *_: gone.unlink(missing_ok=True))
    assert not (tmp_path / "m.nnc.index.json").exists()
    nncjit.compress(source, tmp_path / "m.nnc", shard_bytes=SHARD)
    assert files(tmp_path) == expected


def test_files_of_an_earlier_job_are_told(source, tmp_path):
    nncjit.compress(source, tmp_path / "m.nnc", shard_bytes=SHARD)
    with pytest.warns(nncjit.NncWarning, match=r"of-00004\.nnc and 3 more of an earlier job"):
        nncjit.compress(source, tmp_path / "m.nnc", shard_bytes=10 * SHARD)


def test_streams_of_another_version_are_made_anew(source, expected, tmp_path, monkeypatch):
    nncjit.compress(source, tmp_path / "m.nnc", shard_bytes=SHARD)
    monkeypatch.setattr(job_plan, "__version__", "0.0.1")
    made = counted(monkeypatch)
    nncjit.compress(source, tmp_path / "m.nnc", shard_bytes=SHARD)
    assert len(made) == len(expected) - 1


def test_only_what_is_missing_or_damaged_is_made_again(source, expected, tmp_path, monkeypatch):
    target = tmp_path / "m.nnc"
    nncjit.compress(source, target, shard_bytes=SHARD)
    shards = sorted(tmp_path.glob("m-*.nnc"))
    shards[0].unlink()
    shards[1].write_bytes(shards[1].read_bytes()[:-1])
    made = counted(monkeypatch)
    nncjit.compress(source, target, shard_bytes=SHARD)
    assert sorted(made) == [0, 1]
    assert files(tmp_path) == expected
    nncjit.compress(source, target, shard_bytes=SHARD)
    assert sorted(made) == [0, 1]
    nncjit.compress(source, target, shard_bytes=SHARD, resume=False)
    assert len(made) == 2 + len(shards)


def test_a_rule_for_one_tensor_makes_one_stream_anew(source, tmp_path, monkeypatch):
    target = tmp_path / "m.nnc"
    nncjit.compress(source, target, shard_bytes=SHARD)
    made = counted(monkeypatch)
    nncjit.compress(source, target, shard_bytes=SHARD, rules={r"layers\.3\.norm\.weight": "raw"})
    assert len(made) == 1
    home = json.loads((tmp_path / "m.nnc.index.json").read_text())["weight_map"]["layers.3.norm.weight"]
    np.testing.assert_array_equal(
        nncjit.decode(tmp_path / home)["layers.3.norm.weight"], tensors()["layers.3.norm.weight"]
    )


@pytest.mark.parametrize("target", [{"bits": 4.0}, {"snr": 25.0}, {"ratio": 20.0}])
def test_targets_are_hit_in_two_phases(target, tmp_path):
    source = write_model(tmp_path / "m.safetensors", tensors(10, seed=4))
    out = tmp_path / "out"
    out.mkdir()
    report = nncjit.compress(source, out / "m.nnc", executor=OddExecutor(), shard_bytes=SHARD, **target)
    kind, wanted = next(iter(target.items()))
    reached = {"bits": report.bits_per_weight, "snr": report.snr, "ratio": report.ratio}[kind]
    assert reached == pytest.approx(wanted, rel=0.01)


def test_a_target_that_is_missed_is_warned_of(source, tmp_path):
    with pytest.warns(nncjit.NncWarning, match="bits is 0.05, reached"):
        nncjit.compress(source, tmp_path / "m.nnc", shard_bytes=SHARD, bits=0.05)


def test_tied_tensors_stay_together(tmp_path):
    shared = np.random.default_rng(0).normal(0, 1, (200, 100)).astype(np.float32)
    model = {"a": shared, **tensors(3)}
    np.savez(tmp_path / "plain.npz", **model)
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(np.array(array)) for name, array in model.items()}
    state["z.tied"] = state["a"]
    torch.save(state, tmp_path / "m.pt")
    nncjit.compress(tmp_path / "m.pt", tmp_path / "m.nnc", shard_bytes=SHARD)
    home = json.loads((tmp_path / "m.nnc.index.json").read_text())["weight_map"]
    assert home["a"] == home["z.tied"]
    assert nncjit.decode(tmp_path / home["a"])["z.tied"].shape == (200, 100)


def test_a_plan_is_written_kept_and_followed(source, expected, tmp_path):
    plan, one, two = tmp_path / "plan.json", tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    report = nncjit.compress(source, one / "m.nnc", shard_bytes=SHARD, plan=plan, dry_run=True)
    assert report.estimated
    assert not files(one)
    nncjit.compress(source, one / "m.nnc", plan=plan)
    assert files(one) == expected
    content = json.loads(plan.read_text())
    content["shards"] = [[name for names in content["shards"] for name in names]]
    content["options"] = {"qp": -20}
    plan.write_text(json.dumps(content))
    nncjit.compress(source, two / "m.nnc", plan=plan)
    assert sorted(files(two)) == ["m-00001-of-00001.nnc", "m.nnc.index.json"]
    with pytest.raises(nncjit.OptionError, match="has other options"):
        nncjit.compress(source, two / "m.nnc", plan=plan, bits=3)


def edited(change):
    def edit(content):
        change(content)
        return json.dumps(content)

    return edit


BROKEN_PLANS = {
    "no JSON": lambda _: "{",
    "a list": lambda _: "[]",
    "another version": edited(lambda c: c.update({"nncjit plan": 99})),
    "a tensor twice": edited(lambda c: c["shards"][0].append(c["shards"][0][0])),
    "a tensor less": edited(lambda c: c["shards"][0].pop()),
    "a strange tensor": edited(lambda c: c["shards"][0].append("strange")),
    "no options": edited(lambda c: c.pop("options")),
    "an unknown option": edited(lambda c: c["options"].update({"bitz": 3})),
    "a text as scale": edited(lambda c: c["decisions"].update({"scale": "1"})),
    "a decision more": edited(lambda c: c["decisions"].update({"more": 1})),
    "shards of numbers": edited(lambda c: c.update({"shards": 5})),
    "an endless scale": edited(lambda c: c["decisions"].update({"scale": math.inf})),
    "a scale of many digits": edited(lambda c: c["decisions"].update({"scale": 10**400})),
    "steps of nothing": edited(lambda c: c["decisions"].update({"own_scales": {"steps": 0}})),
    "no size": edited(lambda c: c["decisions"].update({"median_size": 0})),
    "a density that no stream has": edited(lambda c: c["decisions"].update({"density": 8})),
    "steps of a strange tensor": edited(lambda c: c["decisions"].update({"own_scales": {"strange": 1.0}})),
    "a field more": edited(lambda c: c.update({"dicisions": {}})),
    "half a rank": edited(lambda c: c["decisions"].update({"ranks": {"embed.weight": 2.5}})),
    "a list of zeros": edited(lambda c: c["decisions"].update({"zero_counts": [1]})),
}


@pytest.mark.parametrize("case", BROKEN_PLANS)
def test_plans_that_are_none_are_refused(case, source, tmp_path):
    plan = tmp_path / "plan.json"
    nncjit.compress(source, tmp_path / "m.nnc", plan=plan, dry_run=True)
    plan.write_text(BROKEN_PLANS[case](json.loads(plan.read_text())))
    with pytest.raises(nncjit.OptionError) as caught:
        nncjit.compress(source, tmp_path / "m.nnc", plan=plan)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.nnc"))


def test_a_source_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    source = write_model(tmp_path / "m.safetensors", tensors())
    real = sharded_compression.encode_piece

    def changing(*args):
        encoded = real(*args)
        write_model(source, tensors(seed=1))
        return encoded

    monkeypatch.setattr(sharded_compression, "encode_piece", changing)
    with pytest.raises(nncjit.ModelError, match="changed"):
        nncjit.compress(source, tmp_path / "m.nnc", shard_bytes=SHARD)
    assert not list(tmp_path.glob("*.nnc"))
    assert not list(tmp_path.glob("*.tmp"))


class LosingExecutor:
    """Its only worker dies at once."""

    def submit(self, work, *args):
        future: Future = Future()
        future.set_exception(BrokenProcessPool("gone"))
        return future


class DyingExecutor:
    """Takes some tasks and dies: `submit` itself fails then."""

    def __init__(self, error, after=2):
        self.error, self.left = error, after

    def submit(self, work, *args):
        if not self.left:
            raise self.error
        self.left -= 1
        future: Future = Future()
        future.set_result(work(*args))
        return future


class FailingExecutor:
    """What its worker raises is not ours."""

    def __init__(self, error):
        self.error = error

    def submit(self, work, *args):
        future: Future = Future()
        future.set_exception(self.error)
        return future


class DirectExecutor:
    """Gives results instead of futures."""

    def submit(self, work, *args):
        return {}


EXECUTORS = {
    "lost": (LosingExecutor, nncjit.ModelError, "worker was lost"),
    "dying": (lambda: DyingExecutor(BrokenProcessPool("gone")), nncjit.ModelError, "same call goes on"),
    "shut down": (lambda: DyingExecutor(RuntimeError("shut down")), nncjit.OptionError, "takes no tasks"),
    "far away": (
        lambda: DyingExecutor(ConnectionRefusedError("refused")),
        nncjit.OptionError,
        "takes no tasks: refused",
    ),
    "of another kind": (DirectExecutor, nncjit.OptionError, "gives a dict, must be"),
    "stale": (lambda: FailingExecutor(OSError(errno.ESTALE, "Stale file handle")), nncjit.ModelError, "stale file"),
    "hungry": (
        lambda: FailingExecutor(MemoryError("Unable to allocate 9 TiB")),
        nncjit.ModelError,
        "ran out of memory .Unable to allocate",
    ),
}


@pytest.mark.parametrize("case", EXECUTORS)
def test_executors_that_fail_are_one_clear_error(case, source, expected, tmp_path, monkeypatch):
    make, kind, words = EXECUTORS[case]
    with pytest.raises(kind, match=words) as caught:
        nncjit.compress(source, tmp_path / "m.nnc", executor=make(), shard_bytes=SHARD)
    assert "\n" not in str(caught.value)
    done = len(list(tmp_path.glob("m-*.nnc")))
    made = counted(monkeypatch)
    nncjit.compress(source, tmp_path / "m.nnc", shard_bytes=SHARD)
    assert len(made) == len(expected) - 1 - done, "what was at work when it failed is kept"
    assert files(tmp_path) == expected


class ElsewhereExecutor:
    """Its worker was started in another folder."""

    def __init__(self, folder):
        self.folder = folder

    def submit(self, work, *args):
        future: Future = Future()
        with chdir(self.folder):
            future.set_result(work(*args))
        return future


def test_workers_may_be_started_in_any_folder(source, expected, tmp_path, monkeypatch):
    there = tmp_path / "there"
    there.mkdir()
    monkeypatch.chdir(source.parent)
    executor, target = ElsewhereExecutor(there), os.path.relpath(tmp_path)
    nncjit.compress(source.name, f"{target}/m.nnc", executor=executor, shard_bytes=SHARD)
    assert nncjit.verify(f"{target}/m.nnc.index.json", executor=executor).checksum
    nncjit.decompress(f"{target}/m.nnc.index.json", f"{target}/back.safetensors.index.json", executor=executor)
    assert {name: (tmp_path / name).read_bytes() for name in expected} == expected
    assert not list(there.iterdir())


REFUSED = {
    "no executor": {"executor": 3},
    "a model in memory": {"source": tensors()},
    "metadata": {"metadata": {"a": 5}, "shard_bytes": 5},
    "sensitivity": {"sensitivity": {}, "shard_bytes": 5},
    "no size": {"shard_bytes": "many"},
    "no flag": {"shard_bytes": 5, "resume": "no"},
    "a target of another format": {"target": "m.npz", "shard_bytes": 5},
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_arguments_are_refused(case, source, tmp_path):
    given = {"source": source, "target": tmp_path / "m.nnc", "shard_bytes": SHARD} | REFUSED[case]
    with pytest.raises(nncjit.OptionError):
        nncjit.compress(given.pop("source"), tmp_path / given.pop("target"), **given)


def test_two_jobs_on_one_target_are_refused(source, tmp_path):
    from nncjit.convert.journal import Journal

    with Journal(tmp_path / "m.nnc.journal").locked(), pytest.raises(nncjit.ModelError, match="at work"):
        nncjit.compress(source, tmp_path / "m.nnc", shard_bytes=SHARD)
