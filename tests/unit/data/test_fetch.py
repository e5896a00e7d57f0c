"""Fetching a data set: from a real server on 127.0.0.1 with small files of the official formats."""

import functools
import gzip
import hashlib
import http.server
import io
import multiprocessing
import os
import struct
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest

from hpctrain import cli, data
from hpctrain.data import derive, downloads
from hpctrain.data import fetch as fetching
from hpctrain.data.places import IDX_FILES
from hpctrain.errors import RunFailed, UserError


class Server(http.server.SimpleHTTPRequestHandler):
    """Ranges as RFC 9110 has them; breaks off after `server.limit` bytes of a body, once a name."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        path = server.folder / self.path.rsplit("/", 1)[1]
        server.asked.append((path.name, self.headers.get("Range")))
        if not path.exists():
            return self.send_error(404)
        body, start = path.read_bytes(), 0
        if self.headers.get("Range") and server.ranges:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                return self.send_error(416)
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        cut = server.limit if server.limit and path.name not in server.broken else None
        server.broken.add(path.name)
        self.wfile.write(body[start:][:cut])
        return None


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "PAUSE_S", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        server.folder, server.asked, server.broken = tmp_path / "home", [], set()
        server.limit, server.ranges = None, True
        server.folder.mkdir()
        thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def remote(path, members=()):
    content = path.read_bytes()
    return downloads.RemoteFile(path.name, len(content), hashlib.sha256(content).hexdigest(), members)


def source(server, name, files):
    return downloads.Source(name, "http://127.0.0.1/", (f"http://127.0.0.1:{server.server_port}/",), files)


def mnist(server):
    """Twenty pictures for training, ten for validation."""
    noise = np.random.default_rng(0)
    for (split, kind), stem in IDX_FILES.items():
        count = 20 if split == "train" else 10
        array = noise.integers(0, 10, (count, 28, 28) if kind == "images" else count, dtype=np.uint8)
        header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        (server.folder / f"{stem}.gz").write_bytes(gzip.compress(header + array.tobytes()))
    paths = sorted(server.folder.iterdir())
    return source(server, "mnist", tuple(map(remote, paths)))


def cifar10(server, extra=()):
    """Two pictures a file; the archive may hold what nobody asked for."""
    noise = np.random.default_rng(0)
    members = []
    path = server.folder / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name in downloads.CIFAR10_TRAIN + downloads.CIFAR10_VALIDATION:
            rows = noise.integers(0, 10, (2, downloads.CIFAR10_RECORD_BYTES), dtype=np.uint8)
            members.append((f"{downloads.CIFAR10_FOLDER}/{name}", rows.nbytes))
            add(tar, members[-1][0], rows.tobytes())
        for name in extra:
            add(tar, name, b"surprise")
    return source(server, "cifar10", (remote(path, tuple(members)),))


def add(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def small(name, folder, train, validation):
    settings = (f"data.train_samples={train}", f"data.validation_samples={validation}")
    return derive.load(["lenet_digits", f"data={name}", f"data.path={folder}", *settings]).data


def test_mnist_is_fetched_and_read(server, tmp_path):
    fetching.fetch(mnist(server), tmp_path / "mnist")
    config = small("mnist", tmp_path / "mnist", 20, 10)
    data.check(config)
    splits = data.load(config)
    assert (len(splits.train), len(splits.validation)) == (20, 10)
    assert splits.train.batch(np.arange(3))[0].shape == (3, 1, 32, 32)


def test_cifar10_is_fetched_unpacked_and_read(server, tmp_path):
    fetching.fetch(
        cifar10(server, extra=["../../escape", "cifar-10-batches-bin/readme.html"]), tmp_path / "c"
    )
    assert not (tmp_path / "escape").exists()
    kept = {p.name for p in (tmp_path / "c" / downloads.CIFAR10_FOLDER).iterdir()}
    assert kept == set(downloads.CIFAR10_TRAIN + downloads.CIFAR10_VALIDATION)
    config = small("cifar10", tmp_path / "c", 10, 2)
    data.check(config)
    splits = data.load(config)
    images, labels = splits.validation.batch(np.arange(2))
    stored = np.fromfile(tmp_path / "c" / downloads.CIFAR10_FOLDER / "test_batch.bin", np.uint8).reshape(
        2, -1
    )
    assert labels.tolist() == stored[:, 0].tolist()
    green = (stored[0, 1 + 1024 : 1 + 2048].reshape(32, 32) / 255 - 0.4822) / 0.2435
    np.testing.assert_allclose(images[0, 1].numpy(), green, atol=1e-5)


def test_what_is_there_is_not_asked_for_again(server, tmp_path):
    for make in (mnist, cifar10):
        wanted = make(server)
        fetching.fetch(wanted, tmp_path / wanted.name)
        server.asked.clear()
        fetching.fetch(wanted, tmp_path / wanted.name)
        assert server.asked == []


def test_a_download_that_breaks_off_goes_on_where_it_was(server, tmp_path):
    server.limit = 1000
    wanted = cifar10(server)
    fetching.fetch(wanted, tmp_path / "c")
    assert server.asked == [("cifar-10-binary.tar.gz", None), ("cifar-10-binary.tar.gz", "bytes=1000-")]


def test_an_earlier_process_s_part_is_used(server, tmp_path):
    wanted = cifar10(server)
    (tmp_path / "c").mkdir()
    whole = (server.folder / "cifar-10-binary.tar.gz").read_bytes()
    (tmp_path / "c" / f"cifar-10-binary.tar.gz.{os.geteuid()}.part").write_bytes(whole[:77])
    fetching.fetch(wanted, tmp_path / "c")
    assert server.asked == [("cifar-10-binary.tar.gz", "bytes=77-")]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("junk", [b"x" * 77, b"x" * 10**6])
def test_a_part_that_is_no_beginning_is_begun_anew(server, tmp_path, ranges, junk):
    server.ranges = ranges
    wanted = cifar10(server)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / f"cifar-10-binary.tar.gz.{os.geteuid()}.part").write_bytes(junk)
    fetching.fetch(wanted, tmp_path / "c")
    assert len(list((tmp_path / "c" / downloads.CIFAR10_FOLDER).iterdir())) == 6


@pytest.mark.parametrize("change", [lambda x: x[:-1] + b"?", lambda x: x + b"more", lambda x: x[:50]])
def test_a_file_that_is_not_the_official_one_is_refused(server, tmp_path, change):
    wanted = mnist(server)
    path = server.folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(RunFailed, match=r"DATA_ERROR.*t10k-images") as caught:
        fetching.fetch(wanted, tmp_path / "mnist")
    assert "http://127.0.0.1/" in str(caught.value)
    assert not (tmp_path / "mnist" / path.name).exists()


def test_the_second_home_is_asked_where_the_first_has_nothing(server, tmp_path):
    wanted = mnist(server)
    base = wanted.base_urls[0]
    fetching.fetch(
        downloads.Source("mnist", "", (f"{base}gone/nothing-", base), wanted.files), tmp_path / "m"
    )
    assert (tmp_path / "m" / wanted.files[0].name).exists()


def fetch_silently(wanted, folder):
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 2)
    fetching.fetch(wanted, folder)


def test_of_two_processes_one_downloads(server, tmp_path):
    wanted = mnist(server)
    processes = [
        multiprocessing.get_context("spawn").Process(target=fetch_silently, args=(wanted, tmp_path / "m"))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(name for name, _ in server.asked) == sorted(file.name for file in wanted.files)


def test_the_command_fetches_the_official_files_only(server, tmp_path, monkeypatch, capsys):
    mnist(server)
    monkeypatch.setattr(fetching, "TRIES", 2)
    base = f"http://127.0.0.1:{server.server_port}/"
    assert cli.main(["data", "fetch", "mnist", "--into", str(tmp_path / "m"), "--from", base]) == 1
    assert "DATA_ERROR" in capsys.readouterr().err
    assert server.asked
    assert not list((tmp_path / "m").glob("*-ubyte.gz"))


@pytest.mark.parametrize("missing", [1, 3073])
def test_a_truncated_cifar_file_is_named(server, tmp_path, missing):
    fetching.fetch(cifar10(server), tmp_path / "c")
    path = tmp_path / "c" / downloads.CIFAR10_FOLDER / "data_batch_5.bin"
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(UserError, match=r"data\.path"):
        data.check(small("cifar10", tmp_path / "c", 10, 2))


@pytest.mark.parametrize("cut", [1, 200])
@pytest.mark.parametrize("packed", [True, False])
def test_a_truncated_idx_file_is_found_before_anything_starts(server, tmp_path, cut, packed):
    fetching.fetch(mnist(server), tmp_path / "m")
    path = tmp_path / "m" / "train-images-idx3-ubyte.gz"
    if not packed:
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
        path = path.with_suffix("")
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(UserError, match=r"data\.path.*train-images"):
        data.check(small("mnist", tmp_path / "m", 20, 10))
