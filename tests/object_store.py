"""A small server of objects on this machine: enough of S3 for s3fs, and of HTTP with ranges. It counts what it sends,
and fails as it is told.
"""

from __future__ import annotations

import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

LISTING = '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
ERROR = '<?xml version="1.0"?><Error><Code>{}</Code><Message>{}</Message></Error>'


class ObjectStore:
    """Objects by "bucket/key", served until `close`.

    Attributes
    ----------
    sent : list of int
        Bytes of objects that were sent, by answer.
    refused : dict of str to (int, str)
        Method -> status and code with which it is refused.
    delay : float
        Seconds before an answer.
    cut : bool
        Whether answers end early.
    """

    def __init__(self, *buckets):
        self.buckets = set(buckets)
        self.objects, self.parts = {}, {}
        self.sent, self.refused, self.delay, self.cut = [], {}, 0.0, False
        store = self

        class Handler(_Handler):
            pass

        Handler.store = store
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store = None

    def log_message(self, *_):
        """Tests say what is wrong."""

    def do_GET(self):
        self._do(self._get)

    def do_HEAD(self):
        self._do(self._get)

    def do_PUT(self):
        self._do(self._put)

    def do_POST(self):
        self._do(self._post)

    def do_DELETE(self):
        self._do(self._delete)

    def _do(self, action):
        time.sleep(self.store.delay)
        url = urlsplit(self.path)
        self.query = parse_qs(url.query, keep_blank_values=True)
        self.key = unquote(url.path).strip("/")
        self.body = self._body()
        bucket = self.key.partition("/")[0]
        if self.command in self.store.refused:
            status, code = self.store.refused[self.command]
            self._answer(status, ERROR.format(code, "as the test wants it").encode())
        elif bucket not in self.store.buckets:
            self._answer(404, ERROR.format("NoSuchBucket", "The specified bucket does not exist").encode())
        else:
            action()

    def _body(self):
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "chunked" not in self.headers.get("Content-Encoding", "") + self.headers.get("x-amz-content-sha256", ""):
            return data
        whole, at = b"", 0
        while at < len(data):
            end = data.index(b"\r\n", at)
            size = int(data[at:end].split(b";")[0], 16)
            if not size:
                break
            whole, at = whole + data[end + 2 : end + 2 + size], end + 4 + size
        return whole

    def _get(self):
        if "list-type" in self.query:
            prefix = f"{self.key}/" + self.query.get("prefix", [""])[0]
            rows = [
                f"<Contents><Key>{name.partition('/')[2]}</Key><Size>{len(data)}</Size>"
                "<LastModified>2024-01-01T00:00:00.000Z</LastModified></Contents>"
                for name, data in self.store.objects.items()
                if name.startswith(prefix)
            ]
            count = f"<KeyCount>{len(rows)}</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>"
            self._answer(200, "".join([LISTING, *rows, count]).encode())
        elif self.key in self.store.buckets:
            self._answer(200)
        elif self.key not in self.store.objects:
            self._answer(404, ERROR.format("NoSuchKey", "The specified key does not exist.").encode())
        else:
            self._send(self.store.objects[self.key])

    def _send(self, data):
        said = self.headers.get("Range", "")
        status, more = 200, {"ETag": f'"{hashlib.md5(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        if said:
            first, _, last = said.removeprefix("bytes=").partition("-")
            whole, stop = len(data), min(int(last) + 1 if last else len(data), len(data))
            more["Content-Range"] = f"bytes {first}-{stop - 1}/{whole}"
            status, data = 206, data[int(first) : stop]
        if self.command == "GET":
            self.store.sent.append(len(data))
        self._answer(status, data, more)

    def _put(self):
        if "uploadId" in self.query:
            self.store.parts[self.query["uploadId"][0], int(self.query["partNumber"][0])] = self.body
        else:
            self.store.objects[self.key] = self.body
        self._answer(200, more={"ETag": '"0"'})

    def _post(self):
        if "uploads" in self.query:
            answer = "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
            self.store.parts["open"] = b""
        else:
            self.store.objects[self.key] = b"".join(data for _, data in sorted(self._parts()))
            self.store.parts.clear()
            answer = "<CompleteMultipartUploadResult></CompleteMultipartUploadResult>"
        self._answer(200, answer.encode())

    def _parts(self):
        return ((part[1], data) for part, data in self.store.parts.items() if part != "open")

    def _delete(self):
        if "uploadId" in self.query:
            self.store.parts.clear()
        else:
            self.store.objects.pop(self.key, None)
        self._answer(204)

    def _answer(self, status, data=b"", more=None):
        self.send_response(status)
        for name, value in (more or {}).items():
            self.send_header(name, value)
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        self.send_header("Content-Length", str(len(data)))
        if self.store.cut:
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if self.store.cut else data)
