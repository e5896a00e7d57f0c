"""Official homes of the data sets that have one: a table, no I/O.

Sizes in bytes and SHA-256 are those of the files that the authors publish. If a home is often unreachable, a second
base URL follows; a file is accepted by its digest, wherever it comes from.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RemoteFile:
    """One file. `members`: the files to keep from an archive, as (path, size in bytes)."""

    name: str
    bytes: int
    sha256: str
    members: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Source:
    """A data set's files and the base URLs to try, the official one first."""

    name: str
    page: str
    base_urls: tuple[str, ...]
    files: tuple[RemoteFile, ...]

    @property
    def bytes(self) -> int:
        """Returns the size of all files to fetch."""
        return sum(file.bytes for file in self.files)


CIFAR10_FOLDER = "cifar-10-batches-bin"
CIFAR10_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
CIFAR10_VALIDATION = ("test_batch.bin",)
CIFAR10_RECORD_BYTES = 1 + 3 * 32 * 32  # a label, then the red, the green and the blue plane

SOURCES = {
    source.name: source
    for source in (
        Source(
            "mnist",
            "https://yann.lecun.com/exdb/mnist/",
            ("https://yann.lecun.com/exdb/mnist/", "https://ossci-datasets.s3.amazonaws.com/mnist/"),
            (
                RemoteFile(
                    "train-images-idx3-ubyte.gz", 9_912_422,
                    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                ),
                RemoteFile(
                    "train-labels-idx1-ubyte.gz", 28_881,
                    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                ),
                RemoteFile(
                    "t10k-images-idx3-ubyte.gz", 1_648_877,
                    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                ),
                RemoteFile(
                    "t10k-labels-idx1-ubyte.gz", 4_542,
                    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                ),
            ),
        ),
        Source(
            "fashion_mnist",
            "https://github.com/zalandoresearch/fashion-mnist",
            ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
            (
                RemoteFile(
                    "train-images-idx3-ubyte.gz", 26_421_880,
                    "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                ),
                RemoteFile(
                    "train-labels-idx1-ubyte.gz", 29_515,
                    "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                ),
                RemoteFile(
                    "t10k-images-idx3-ubyte.gz", 4_422_102,
                    "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                ),
                RemoteFile(
                    "t10k-labels-idx1-ubyte.gz", 5_148,
                    "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                ),
            ),
        ),
        Source(
            "cifar10",
            "https://www.cs.toronto.edu/~kriz/cifar.html",
            ("https://www.cs.toronto.edu/~kriz/",),
            (
                RemoteFile(
                    "cifar-10-binary.tar.gz", 170_052_171,
                    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                    members=tuple(
                        (f"{CIFAR10_FOLDER}/{name}", 10_000 * CIFAR10_RECORD_BYTES)
                        for name in CIFAR10_TRAIN + CIFAR10_VALIDATION
                    ),
                ),
            ),
        ),
    )
}  # fmt: skip
