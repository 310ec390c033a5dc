"""Models in object stores and at web servers, over the network of this machine: what is read, what is written, and what
is said where something is wrong.
"""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from model_files import refusal

import nncjit
from nncjit.formats import create
from nncjit.model import TensorInfo
from nncjit.remote import BLOCK

fsspec = pytest.importorskip("fsspec")
s3fs = pytest.importorskip("s3fs")
from object_store import ObjectStore  # noqa: E402

RNG = np.random.default_rng(0)
ARRAYS = {f"w{k}": (RNG.standard_normal((300, 400)) * 0.1).astype("f4") for k in range(4)}
NOTHING = "/nonexistent"


@pytest.fixture
def store(monkeypatch):
    """A store with the bucket "b", which s3fs finds."""
    made = ObjectStore("b")
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": NOTHING,
        "AWS_SHARED_CREDENTIALS_FILE": NOTHING,
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    settings = {"endpoint_url": made.url, "config_kwargs": {"retries": {"max_attempts": 0}}}
    monkeypatch.setitem(fsspec.config.conf, "s3", settings)
    yield made
    made.close()
    s3fs.S3FileSystem.clear_instance_cache()


def save(path):
    with create(path, [TensorInfo(name, a.shape, a.dtype.name) for name, a in ARRAYS.items()]) as writer:
        for name, array in ARRAYS.items():
            writer.put(name, array)


def test_models_go_from_bucket_to_bucket(store):
    save("s3://b/d/m.safetensors")
    report = nncjit.compress("s3://b/d/m.safetensors", "s3://b/d/m.nnc", quantizer="raw")
    assert report.compressed_bytes == len(store.objects["b/d/m.nnc"])
    assert nncjit.verify("s3://b/d/m.nnc").checksum
    nncjit.decompress("s3://b/d/m.nnc", "s3://b/d/back.safetensors")
    assert store.objects["b/d/back.safetensors"] == store.objects["b/d/m.safetensors"]
    assert set(store.objects) == {"b/d/m.safetensors", "b/d/m.nnc", "b/d/back.safetensors"}
    assert [t.name for t in nncjit.inspect("s3://b/d/m.nnc").tensors] == list(ARRAYS)


@pytest.mark.parametrize("address", ["s3://b/", "{}/b/", "zip://{{}}::s3://b/a.zip"], ids=["s3", "http", "zip in s3"])
def test_one_tensor_is_read_without_the_others(store, address):
    nncjit.compress(ARRAYS, "s3://b/m.nnc", quantizer="raw")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("m.nnc", store.objects["b/m.nnc"])
    store.objects["b/a.zip"] = packed.getvalue()
    url = address.format(store.url)
    url = url.format("m.nnc") if "{}" in url else url + "m.nnc"
    store.sent.clear()
    with nncjit.open(url) as f:
        opened = len(store.sent)
        assert np.array_equal(f["w2"], ARRAYS["w2"])
    if "zip" not in url:  # of a short archive, zip's file system asks for all at once
        assert sum(store.sent[:opened]) <= (len(ARRAYS) + 1) * BLOCK  # the head of each unit
        assert 0 < sum(store.sent[opened:]) < ARRAYS["w2"].nbytes + 2 * BLOCK
    assert len(store.sent) < 8


def test_a_long_upload_goes_in_parts(store, monkeypatch):
    monkeypatch.setattr(s3fs.core, "calculate_chunksize", lambda size, chunksize=None: 1 << 20)
    nncjit.compress({"w": RNG.standard_normal((1000, 1000))}, "s3://b/m.nnc", quantizer="raw")
    assert nncjit.decode("s3://b/m.nnc")["w"].shape == (1000, 1000)
    assert not store.parts


@pytest.mark.parametrize("parts", [False, True], ids=["at once", "in parts"])
def test_an_upload_that_fails_leaves_what_was_there(store, monkeypatch, parts):
    store.objects["b/m.nnc"] = b"old"
    if parts:
        monkeypatch.setattr(s3fs.core, "calculate_chunksize", lambda size, chunksize=None: 1 << 19)
    store.refused["PUT"] = 403, "AccessDenied"
    message = refusal(lambda: nncjit.compress(ARRAYS, "s3://b/m.nnc", quantizer="raw"))
    assert message.startswith("s3://b/m.nnc: ")
    assert "as the test wants it" in message
    assert store.objects == {"b/m.nnc": b"old"}
    assert not store.parts


def forget_credentials(store, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


def answer_late(store, monkeypatch):
    store.delay = 0.5
    monkeypatch.setitem(
        fsspec.config.conf["s3"], "config_kwargs", {"read_timeout": 0.05, "retries": {"max_attempts": 0}}
    )


FAULTS = {
    "no such file": ("s3://b/none.nnc", lambda *_: None),
    "no bucket": ("s3://none/m.nnc", lambda *_: None),
    "no credentials": ("s3://b/m.nnc", forget_credentials),
    "not allowed": ("s3://b/m.nnc", lambda store, _: store.refused.update(HEAD=(403, "Forbidden"))),
    "late": ("s3://b/m.nnc", answer_late),
    "cut": ("s3://b/m.nnc", lambda store, _: setattr(store, "cut", True)),
    "not there": ("s3://b/m.nnc", lambda store, _: store.close()),
    "no file over http": ("{}/b/none.nnc", lambda *_: None),
    "cut over http": ("{}/b/m.nnc", lambda store, _: setattr(store, "cut", True)),
}
SAID = {
    "no such file": "there is no such file",
    "no bucket": "bucket does not exist",
    "no credentials": "credentials",
    "not allowed": "Forbidden",
    "late": "timeout",
    "not there": "onnect",
    "no file over http": "there is no such file",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_one_line(store, monkeypatch, fault):
    nncjit.compress(ARRAYS, "s3://b/m.nnc", quantizer="raw")
    s3fs.S3FileSystem.clear_instance_cache()
    url, change = FAULTS[fault]
    url = url.format(store.url)
    change(store, monkeypatch)
    message = refusal(lambda: nncjit.open(url))
    assert message.startswith(f"{url}: ")
    assert SAID.get(fault, "") in message


@pytest.mark.parametrize("url", ["s3://b", "s3://b/", "s3://"])
def test_a_bucket_is_no_target(store, url):
    assert refusal(lambda: nncjit.compress(ARRAYS, url)) == f"{url}: names no file"


@pytest.mark.parametrize(
    "address", ["{}/b/m.nnc", "HTTPS://host/m.nnc", "zip://m.nnc::s3://b/a.zip", "github://own:net@main/m.nnc"]
)
def test_what_cannot_be_written_is_refused_before_work(store, address):
    url = address.format(store.url)
    message = refusal(lambda: nncjit.compress(ARRAYS, url))
    assert message == f"{url}: files are only read there; name a target elsewhere"
    assert not store.objects
