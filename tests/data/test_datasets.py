"""kitlib.data.datasets: every data set is written without TensorFlow and read by TFDS's own, unchanged classes.

The original files are replaced by tiny ones in the same formats; no test uses the network.
"""

import functools
import gzip
import io
import socket
import sys
import tarfile
import threading
import time
from http.server import HTTPServer, SimpleHTTPRequestHandler

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

from kitlib import data
from kitlib.data import datasets


@pytest.fixture(autouse=True)
def no_tensorflow_and_no_network(monkeypatch):
    """TensorFlow is not imported, and only this machine can be reached."""
    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def local(host):
        if host not in ("127.0.0.1", "localhost"):
            raise socket.gaierror(f"the test asked for {host}")
        return host

    monkeypatch.setattr(socket.socket, "connect", lambda self, address: local(address[0]) and connect(self, address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *args, **kwargs: resolve(local(host), *args, **kwargs))
    yield
    assert "tensorflow" not in sys.modules


def idx(array) -> bytes:
    return gzip.compress(b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes())


def tar(path, files: dict[str, bytes], mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def write_fashion(folder, seed=0):
    """Seven training and four test pictures as the four IDX files; returns them by split."""
    rng = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    made = {}
    for split, part, n in (("train", "train", 7), ("test", "t10k", 4)):
        images, labels = rng.integers(0, 256, (n, 28, 28), np.uint8), rng.integers(0, 10, n).astype(np.uint8)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(images))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(labels))
        made[split] = (images[..., None], labels)
    return made


def write_cifar(folder, num_classes):
    """Two records per file, in the binary layout: label bytes, then the red, green and blue plane."""
    rng = np.random.default_rng(num_classes)
    folder.mkdir(exist_ok=True)
    if num_classes == 10:
        prefix, kinds, names = "cifar-10-batches-bin/", (10,), {"batches.meta.txt": "c"}
        parts = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
    else:
        prefix, kinds = "cifar-100-binary/", (20, 100)
        names = {"coarse_label_names.txt": "k", "fine_label_names.txt": "f"}
        parts = {"train": ["train.bin"], "test": ["test.bin"]}
    files = {
        prefix + file: ("\n".join(f"{letter}{i}" for i in range(n)) + "\n\n").encode()
        for (file, letter), n in zip(names.items(), kinds, strict=True)
    }
    made = {}
    for split, batch_files in parts.items():
        images = rng.integers(0, 256, (2 * len(batch_files), 32, 32, 3), np.uint8)
        labels = np.stack([rng.integers(0, n, len(images)) for n in kinds], axis=1)
        planes = images.transpose(0, 3, 1, 2)
        records = [bytes(label.tolist()) + x.tobytes() for x, label in zip(planes, labels, strict=True)]
        files |= {prefix + file: records[2 * i] + records[2 * i + 1] for i, file in enumerate(batch_files)}
        made[split] = images, labels
    tar(folder / f"cifar-{num_classes}-binary.tar.gz", files, "w:gz")
    return made


def jpeg(array, mode=None) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array, mode).save(file, format="JPEG", quality=95)
    return file.getvalue()


def by_picture(images, labels):
    return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


def test_fashion_mnist_is_read_by_tfds_and_by_load(tmp_path):
    made = write_fashion(tmp_path / "files")
    datasets.prepare("fashion_mnist", tmp_path / "tfds", files=tmp_path / "files")
    for split, (images, labels) in made.items():
        records = tfds.data_source("fashion_mnist", split=split, data_dir=tmp_path / "tfds", download=False)
        got = by_picture([r["image"] for r in records], [r["label"] for r in records])
        assert got == by_picture(images, labels)
        source = data.load("fashion_mnist", split, full=True, data_dir=tmp_path / "tfds")
        assert by_picture(*source.arrays()) == got
        assert source.class_names[9] == "Ankle boot" and source.image_shape == (28, 28, 1)
        assert source[1]["image"].dtype == np.uint8 and isinstance(source[1]["label"], int)
        assert by_picture(*source[1:3].arrays()) == by_picture(*source.take([1, 2]))


@pytest.mark.parametrize("num_classes", [10, 100])
def test_cifar_is_read_by_tfds_and_by_load(num_classes, tmp_path):
    name = f"cifar{num_classes}"
    made = write_cifar(tmp_path / "files", num_classes)
    datasets.prepare(name, tmp_path / "tfds", files=tmp_path / "files")
    for split, (images, labels) in made.items():
        records = list(tfds.data_source(name, split=split, data_dir=tmp_path / "tfds", download=False))
        order = [int(r["id"].decode().removeprefix(f"{split}_")) for r in records]
        assert sorted(order) == list(range(len(images)))
        for i, record in zip(order, records, strict=True):
            np.testing.assert_array_equal(record["image"], images[i])
            assert record["label"] == labels[i, -1]
            assert num_classes == 10 or record["coarse_label"] == labels[i, 0]
        source = data.load(name, split, full=True, data_dir=tmp_path / "tfds")
        assert source.num_classes == num_classes and source.class_names[3] == ("c3" if num_classes == 10 else "f3")
        assert by_picture(*source.arrays()) == by_picture(images, labels[:, -1])


def write_imagenet(folder, train=True):
    """Train: two classes in nested archives, one picture in CMYK. Validation: two pictures in RGB and a grey one."""
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    classes = {}
    for name in ("n01440764_1.JPEG", "n01739381_1309.JPEG", "n01739381_2.JPEG"):
        cmyk = name in datasets.imagenet.CMYK_IMAGES
        pixels = rng.integers(0, 256, (12, 10, 4 if cmyk else 3), np.uint8)
        classes.setdefault(name.split("_")[0], {})[name] = jpeg(pixels, "CMYK" if cmyk else None)
    if train:
        inner = {f"{synset}.tar": tar(folder / synset, files).read_bytes() for synset, files in classes.items()}
        tar(folder / "ILSVRC2012_img_train.tar", inner)
    pictures = {}
    for i, shape in ((9, (9, 12)), (1, (8, 6, 3)), (3, (10, 10, 3))):  # not in the order of their names, some missing
        pictures[f"ILSVRC2012_val_{i:08d}.JPEG"] = jpeg(rng.integers(0, 256, shape, np.uint8))
    tar(folder / "ILSVRC2012_img_val.tar", pictures)
    return pictures


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
def test_imagenet_is_read_by_tfds_and_by_load(tmp_path):
    pictures = write_imagenet(tmp_path / "tfds" / "downloads" / "manual")
    train = data.load("imagenet2012", "train", full=True, data_dir=tmp_path / "tfds")
    assert train.num_classes == 1000 and train.image_shape == (None, None, 3) and len(train) == 3
    names = [train.class_names[record["label"]] for record in train]
    assert sorted(names) == ["n01440764", "n01739381", "n01739381"]
    assert all(record["image"].shape == (12, 10, 3) for record in train)  # CMYK became RGB
    with pytest.raises(ValueError, match=r"differ in size.*image_batches\.batches"):
        train.arrays()

    # TFDS lists the validation labels by the numbers of the files; where one is missing, the others keep theirs.
    ids = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt").read_text().split()
    records = tfds.data_source("imagenet2012", split="validation", data_dir=tmp_path / "tfds", download=False)
    for record in records:
        name = record["file_name"].decode()
        expected = np.asarray(Image.open(io.BytesIO(pictures[name])).convert("RGB"))
        np.testing.assert_array_equal(record["image"], expected)  # JPEG bytes are kept, grey has three equal channels
        assert train.class_names[record["label"]] == ids[int(name[15:23]) - 1]
    images, _ = data.load("imagenet2012", "validation", full=True, data_dir=tmp_path / "tfds").take([0, 1, 2])
    assert sorted(image.shape for image in images) == [(8, 6, 3), (9, 12, 3), (10, 10, 3)]


def test_imagenets_error_names_the_files_and_their_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ILSVRC2012_img_train\.tar and ILSVRC2012_img_val\.tar") as error:
        data.load("imagenet2012", full=True, data_dir=tmp_path)
    assert str(tmp_path / "downloads" / "manual") in str(error.value)
    write_imagenet(tmp_path / "downloads" / "manual", train=False)
    with pytest.raises(ValueError, match="was prepared with validation only"):
        data.load("imagenet2012", "train", full=True, data_dir=tmp_path)
    (tmp_path / "other").mkdir()
    tar(tmp_path / "other" / "ILSVRC2012_img_val.tar", {"cat.JPEG": jpeg(np.zeros((4, 4, 3), np.uint8))})
    with pytest.raises(ValueError, match=r"img_val\.tar is not the whole original archive \('cat\.JPEG'\)"):
        datasets.prepare("imagenet2012", tmp_path / "new", files=tmp_path / "other")


def test_names_and_info_are_tfdss_own(tmp_path):
    for name, builder in datasets.BUILDERS.items():
        ours, theirs = builder(data_dir=tmp_path), tfds.builder(name, data_dir=tmp_path)
        assert (ours.name, ours.version, ours.data_dir) == (theirs.name, theirs.version, theirs.data_dir)
        assert ours.info.features.to_json() == theirs.info.features.to_json()
        assert ours.info.citation == theirs.info.citation and type(theirs).__module__.startswith("tensorflow_datasets")


@pytest.fixture
def server(tmp_path):
    """A web server on this machine that offers tmp_path/files; yields its address."""
    (tmp_path / "files").mkdir()
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path / "files")
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def fashion_urls(base):
    return tuple(base + url.rsplit("/", 1)[-1] for url in datasets.FashionMNIST.urls)


def test_load_downloads_once_and_then_needs_no_network(tmp_path, server, monkeypatch):
    made = write_fashion(tmp_path / "files")
    monkeypatch.setattr(datasets.FashionMNIST, "urls", fashion_urls(server))
    source = data.load("fashion_mnist", "train", full=True, data_dir=tmp_path / "tfds")
    assert by_picture(*source.arrays()) == by_picture(*made["train"])
    for path in (tmp_path / "files").iterdir():
        path.unlink()
    monkeypatch.setattr(datasets.FashionMNIST, "urls", fashion_urls("http://127.0.0.1:9/"))
    monkeypatch.setenv("KIT_DATA_DIR", str(tmp_path / "tfds"))
    assert len(data.load("fashion_mnist", "test", full=True)) == 4


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "cifar100"])
def test_without_a_network_the_error_is_one_sentence_and_comes_soon(name, tmp_path):
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=f"{name} must be downloaded once from http.*prepare") as error:
        data.load(name, full=True, data_dir=tmp_path)
    assert "\n" not in str(error.value) and time.monotonic() - start < 10
    assert not (tmp_path / name).exists()


def test_file_with_the_wrong_checksum_is_refused(tmp_path, server, monkeypatch):
    write_cifar(tmp_path / "files", 10)
    url = server + "cifar-10-binary.tar.gz"
    info = tfds.download.checksums.UrlInfo(size=5, checksum="0" * 64, filename="cifar-10-binary.tar.gz")
    monkeypatch.setattr(datasets.Cifar10, "urls", (url,))
    monkeypatch.setattr(datasets.Cifar10, "url_infos", {url: info})
    with pytest.raises(NonMatchingChecksumError, match="wrong checksum"):
        data.load("cifar10", full=True, data_dir=tmp_path / "tfds")
    assert not (tmp_path / "tfds" / "cifar10" / "3.0.2").exists()


def test_a_failed_preparation_leaves_nothing_that_counts_as_prepared(tmp_path):
    made = write_fashion(tmp_path / "files")
    damaged = tmp_path / "files" / "t10k-labels-idx1-ubyte.gz"
    good = damaged.read_bytes()
    damaged.write_bytes(good[:-4])
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte\.gz is not a whole"):
        datasets.prepare("fashion_mnist", tmp_path / "tfds", files=tmp_path / "files")
    assert not (tmp_path / "tfds" / "fashion_mnist" / "3.0.1").exists()
    damaged.write_bytes(good)
    datasets.prepare("fashion_mnist", tmp_path / "tfds", files=tmp_path / "files")
    source = data.load("fashion_mnist", "test", full=True, data_dir=tmp_path / "tfds")
    assert by_picture(*source.arrays()) == by_picture(*made["test"])
    write_cifar(tmp_path / "files", 10)
    path = tmp_path / "files" / "cifar-10-binary.tar.gz"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"cifar-10-binary\.tar\.gz is not the whole original archive"):
        datasets.prepare("cifar10", tmp_path / "tfds", files=tmp_path / "files")
    with pytest.raises(FileNotFoundError, match=r"cifar-100-binary\.tar\.gz is missing"):
        datasets.prepare("cifar100", tmp_path / "tfds", files=tmp_path / "files")


def test_data_folder_that_cannot_be_written_or_holds_something_else(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionError, match=r"cannot be written.*KIT_DATA_DIR"):
        data.load("cifar10", full=True, data_dir=tmp_path / "file" / "tfds")
    (tmp_path / "cifar10" / "3.0.2").mkdir(parents=True)
    with pytest.raises(ValueError, match="is there but is not a prepared data set"):
        data.load("cifar10", full=True, data_dir=tmp_path)
