"""Every kind of source gives the same bytes, from any thread, and says clearly what it cannot do."""

import array
import io
from concurrent.futures import ThreadPoolExecutor

import pytest

from nncjit.bits import FileSource, MemorySource, Source, StreamSource, as_source
from nncjit.errors import BitstreamError, ModelError

DATA = bytes(range(256)) * 40


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "data.bin"
    file.write_bytes(DATA)
    return file


class Pipe(io.RawIOBase):
    """A file object that cannot seek."""

    def __init__(self, data):
        self.data = io.BytesIO(data)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self.data.readinto(buffer)


@pytest.fixture(
    params=["bytes", "bytearray", "view", "path", "text path", "mmap", "file", "memory file", "pipe", "source"]
)
def source(request, path):
    if request.param == "file":
        with path.open("rb") as file, as_source(file) as opened:
            yield opened
        return
    made = {
        "bytes": lambda: as_source(DATA),
        "bytearray": lambda: as_source(bytearray(DATA)),
        "view": lambda: as_source(memoryview(array.array("H", DATA))),
        "path": lambda: as_source(path),
        "text path": lambda: as_source(str(path)),
        "mmap": lambda: as_source(path, mmap=True),
        "memory file": lambda: as_source(io.BytesIO(DATA)),
        "pipe": lambda: as_source(Pipe(DATA)),
        "source": lambda: as_source(as_source(DATA)),
    }
    with made[request.param]() as opened:
        yield opened


def test_every_source_gives_the_same_bytes(source):
    assert isinstance(source, Source)
    assert source.size == len(DATA)
    assert bytes(source.read(0, source.size)) == DATA
    assert bytes(source.read(300, 1000)) == DATA[300:1000]
    assert bytes(source.read(7, 7)) == b""


@pytest.mark.parametrize(("start", "stop"), [(0, len(DATA) + 1), (-1, 3), (5, 4), (len(DATA) + 1, len(DATA) + 1)])
def test_reading_outside_is_refused(source, start, stop):
    with pytest.raises(BitstreamError, match="asked for"):
        source.read(start, stop)


def test_threads_read_at_once(source):
    places = [(i * 37 % 9000, i * 37 % 9000 + 200) for i in range(200)]
    with ThreadPoolExecutor(8) as pool:
        pieces = list(pool.map(lambda place: bytes(source.read(*place)), places))
    assert pieces == [DATA[start:stop] for start, stop in places]


def test_memory_is_viewed_not_copied():
    data = bytearray(b"abc")
    view = MemorySource(data).read(0, 3)
    data[0] = ord("x")
    assert bytes(view) == b"xbc"
    assert view.readonly


def test_views_of_a_mapped_file_outlive_its_source(path):
    with FileSource(path, mmap=True) as source:
        view = source.read(0, 300)
    assert bytes(view) == DATA[:300]


def test_empty_file_can_be_mapped(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert FileSource(tmp_path / "empty", mmap=True).size == 0


def test_file_object_stays_open(path):
    with path.open("rb") as file:
        StreamSource(file).close()
        assert not file.closed


@pytest.mark.parametrize("name", ["missing.nnc", "."])
def test_path_that_cannot_be_read_is_one_clear_line(tmp_path, name):
    with pytest.raises(ModelError) as caught:
        as_source(tmp_path / name)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", [None, 3, [1], io.StringIO("text")])
def test_what_holds_no_bytes_is_refused(what):
    with pytest.raises(ModelError):
        as_source(what).read(0, 1)


def test_file_that_shrank_is_an_error(path):
    with FileSource(path) as source:
        path.write_bytes(b"short")
        with pytest.raises(BitstreamError, match="ends before"):
            source.read(0, 100)


class Failing(io.BytesIO):
    """A file object whose reads fail, or end too early."""

    def __init__(self, answer):
        super().__init__(DATA)
        self.answer = answer

    def read(self, n=-1):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_file_objects_that_fail_are_our_errors():
    with pytest.raises(BitstreamError, match="ends before"):
        StreamSource(Failing(b"")).read(0, 10)
    with pytest.raises(ModelError, match="gives text"):
        StreamSource(Failing("text")).read(0, 10)
    with pytest.raises(ModelError, match="cannot be read"):
        StreamSource(Failing(OSError("gone"))).read(0, 10)


def test_without_positioned_reads_files_are_read_under_a_lock(path, monkeypatch):
    monkeypatch.delattr("os.pread")
    with FileSource(path) as source, ThreadPoolExecutor(8) as pool:
        pieces = list(pool.map(lambda i: source.read(i, i + 100), range(0, 9000, 37)))
    assert pieces == [DATA[i : i + 100] for i in range(0, 9000, 37)]


def test_a_file_that_fails_while_it_is_read_is_one_clear_line(path, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error")

    with FileSource(path) as source:
        monkeypatch.setattr("os.pread", fail)
        with pytest.raises(ModelError, match=r"data\.bin: Input/output error"):
            source.read(0, 10)


def test_text_from_what_cannot_seek_is_refused():
    class Text:
        def read(self):
            return "text"

    with pytest.raises(ModelError, match="gives text"):
        as_source(Text())
