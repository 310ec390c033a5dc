"""What the fuzzer found once stays mended, and the fuzzer finds what there is to find."""

import random

import pytest
from fuzz.child import VERBS
from fuzz.hunting import CORPUS, HEADERS, SECONDS, Child, judge
from fuzz.structures import RULES, broken, valid

import nncjit


@pytest.fixture(scope="module")
def child():
    child = Child()
    yield child
    child.close()


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.nnc")), ids=lambda path: path.stem)
@pytest.mark.parametrize("verb", VERBS)
def test_findings_stay_mended(child, path, verb):
    assert child.ask(verb, path.read_bytes()) is None


@pytest.mark.parametrize("seed", range(40))
def test_structures_are_valid_before_a_rule_is_broken(seed):
    nncjit.decode(valid(random.Random(seed)).write(), full_size=True)


def test_every_rule_is_broken_and_most_of_what_breaks_one_is_refused():
    rng = random.Random(1)
    made = [broken(rng) for _ in range(400)]
    assert {name for name, _ in made} == {breaks.__name__ for breaks in RULES}
    refused = 0
    for _, data in made:
        try:
            nncjit.inspect(data)
            nncjit.decode(data, max_bytes=1 << 20)
        except nncjit.NncError:
            refused += 1
    assert 200 < refused < 390


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ({}, None),
        ({"outcome": "refused"}, None),
        ({"outcome": "foreign"}, "foreign"),
        ({"outcome": "unbounded"}, "unbounded"),
        ({"peak": 2 * HEADERS[0]}, "memory"),
        ({"seconds": 2 * SECONDS}, "slow"),
    ],
)
def test_what_counts_as_a_finding(answer, kind):
    found = judge("open", b"NNC", {"outcome": "result", "told": "", "seconds": 0.1, "peak": 1000, **answer})
    assert (found.kind if found else None) == kind


def test_a_dead_child_is_a_finding_and_the_next_stream_has_a_new_one(child, monkeypatch):
    assert child.ask("inspect", b"") is None
    child._process.kill()
    assert child.ask("inspect", b"").kind == "crash"
    assert child.ask("inspect", b"") is None
