"""The full public image sets, prepared without TensorFlow for TensorFlow Datasets (TFDS), whose own classes read them.

    prepare("cifar10", data_dir)                                    # downloads once, writes array_record files
    tfds.data_source("cifar10", data_dir=data_dir, download=False)  # TFDS's own, unchanged class reads them

TFDS's own builders need TensorFlow to write, because they open files and encode pictures with it. The classes here keep
the name, version, features and keys of TFDS's own, and so the order of the records; they read with gzip and tarfile and
encode with Pillow. Users call `images.load(..., full=True)`.
"""

import contextlib
import io
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import requests
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.datasets.imagenet2012 import imagenet2012_dataset_builder as imagenet
from tensorflow_datasets.image_classification import cifar, mnist

from kitlib.data.files import cannot_write, disk_error, read_idx


def png(image: np.ndarray) -> io.BytesIO:
    """The PNG file of a picture uint8[H, W, 1] or uint8[H, W, 3]: TFDS writes such a file without encoding it."""
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, format="PNG")
    file.seek(0)
    return file


class FashionMNIST(mnist.FashionMNIST, skip_registration=True):
    """TFDS's `fashion_mnist`, written without TensorFlow."""

    files: Path | None = None  # a folder with the four original files; None downloads them
    urls = tuple(
        f"{mnist.FashionMNIST.URL}{part}-{kind}-ubyte.gz"
        for part in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    )

    def _split_generators(self, dl_manager):
        paths = _originals(self, dl_manager)
        return {"train": self._generate_examples(*paths[:2]), "test": self._generate_examples(*paths[2:])}

    def _generate_examples(self, images, labels):
        pairs = zip(read_idx(images)[..., None], read_idx(labels), strict=True)
        for i, (image, label) in enumerate(pairs):
            yield i, {"image": png(image), "label": int(label)}


class _Cifar:
    """Writes TFDS's Cifar10 and Cifar100. A record is its label bytes, then three colour planes of 32 x 32 bytes."""

    files: Path | None = None  # a folder with the original .tar.gz; None downloads it

    @property
    def urls(self):
        return (self._cifar_info.url,)

    def _split_generators(self, dl_manager):
        info = self._cifar_info
        (path,) = _originals(self, dl_manager)
        with _reading(path), tarfile.open(path) as archive:
            files = (*info.label_files, *info.train_files, *info.test_files)
            content = {file: archive.extractfile(info.prefix + file).read() for file in files}
        for key, file in zip(info.label_keys, info.label_files, strict=True):
            self.info.features[key].names = content[file].decode().split()
        return {
            "train": self._generate_examples("train_", [content[file] for file in info.train_files]),
            "test": self._generate_examples("test_", [content[file] for file in info.test_files]),
        }

    def _generate_examples(self, prefix, contents):
        keys = self._cifar_info.label_keys
        records = np.frombuffer(b"".join(contents), np.uint8).reshape(-1, len(keys) + 3072)
        for i, record in enumerate(records):
            labels = {key: int(label) for key, label in zip(keys, record, strict=False)}
            image = record[len(keys) :].reshape(3, 32, 32).transpose(1, 2, 0)
            yield i, {**labels, "id": f"{prefix}{i:05d}", "image": png(np.ascontiguousarray(image))}


class Cifar10(_Cifar, cifar.Cifar10, skip_registration=True):
    """TFDS's `cifar10`, written without TensorFlow."""


class Cifar100(_Cifar, cifar.Cifar100, skip_registration=True):
    """TFDS's `cifar100`, written without TensorFlow."""


IMAGENET_ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "validation": "ILSVRC2012_img_val.tar"}


class Imagenet2012(imagenet.Builder, skip_registration=True):
    """TFDS's `imagenet2012`, train and validation, written without TensorFlow from archives that users provide."""

    files: Path | None = None  # a folder with the archives; None means <data_dir>/downloads/manual
    urls = ()  # registration is needed, so nothing is downloaded
    pkg_dir_path = tfds.core.tfds_path("datasets/imagenet2012")  # the folder of its description

    def _split_generators(self, dl_manager):
        folder = self.files or Path(self.data_dir_root) / "downloads" / "manual"
        paths = {split: folder / file for split, file in IMAGENET_ARCHIVES.items() if (folder / file).is_file()}
        if not paths:
            raise FileNotFoundError(
                f"imagenet2012 must be fetched by hand: register at https://image-net.org/download-images and put "
                f"{' and '.join(IMAGENET_ARCHIVES.values())} (one is enough) into {folder}."
            )
        return {split: self._generate_examples(split, path) for split, path in paths.items()}

    def _generate_examples(self, split, path):
        members = _train_members(path) if split == "train" else _validation_members(path)
        for file, label, content in members:
            if file in imagenet.CMYK_IMAGES or file in imagenet.PNG_IMAGES:  # the 23 that are not RGB JPEG files
                jpeg = io.BytesIO()
                Image.open(io.BytesIO(content)).convert("RGB").save(jpeg, format="JPEG", quality=95)
                content = jpeg.getvalue()
            yield file, {"image": io.BytesIO(content), "label": label, "file_name": file}


def _train_members(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """(file, class id, JPEG) of the train archive, which holds one archive per class, named by the class id."""
    with _reading(path), tarfile.open(path, "r:") as outer:
        for entry in outer:
            with tarfile.open(fileobj=outer.extractfile(entry), mode="r:") as inner:
                for picture in inner:
                    yield picture.name, Path(entry.name).stem, inner.extractfile(picture).read()


def _validation_members(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """(file, class id, JPEG) of the validation archive; TFDS lists the class ids by the number in the file's name."""
    lines = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt").read_text().split()
    label = {f"ILSVRC2012_val_{i:08}.JPEG": line for i, line in enumerate(lines, start=1)}
    with _reading(path), tarfile.open(path, "r:") as archive:
        for picture in archive:
            yield picture.name, label[picture.name], archive.extractfile(picture).read()


BUILDERS = {"fashion_mnist": FashionMNIST, "cifar10": Cifar10, "cifar100": Cifar100, "imagenet2012": Imagenet2012}


def prepare(name: str, data_dir: str | Path, *, files: str | Path | None = None) -> None:
    """Writes a full public set as TFDS's array_record files under data_dir; does nothing if they exist.

    An interrupted call leaves no folder that counts as prepared: TFDS renames a temporary one at the end.

    Args:
        name: a key of `BUILDERS`.
        data_dir: TFDS's data folder; originals that are downloaded go to its subfolder downloads/.
        files: a folder with the set's original files (*-ubyte.gz, *-binary.tar.gz, ILSVRC2012_img_*.tar): nothing is
            downloaded.

    Raises:
        FileNotFoundError: an original file is missing from `files`.
        ValueError: an original file is damaged, or the set's folder in data_dir is not a prepared data set.
        ConnectionError: the download cannot be reached.
        PermissionError: data_dir cannot be written.
        OSError: the disk is full; what was written of this set is deleted.
    """
    root = Path(data_dir).expanduser()
    builder = BUILDERS[name](data_dir=root)
    if Path(builder.data_dir).exists():
        if builder.is_prepared():
            return
        raise ValueError(f"{builder.data_dir} is there but is not a prepared data set: delete it and try again.")
    try:
        root.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=root).close()
    except OSError as error:
        raise PermissionError(
            f"{name} must be prepared once, but the data folder {root} cannot be written ({error.strerror}): "
            f"pass data_dir or set KIT_DATA_DIR to a folder that can."
        ) from error
    if files is not None:
        builder.files = Path(files).expanduser()
    elif builder.urls:
        _check_reachable(name, builder.urls[0])
    # With try_download_gcs TFDS would look for a prepared copy on the network even if `files` is given.
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        builder.download_and_prepare(
            download_dir=root / "downloads", download_config=config, file_format="array_record"
        )
    except (OSError, RuntimeError) as error:
        if (number := disk_error(error)) is None:
            raise
        raise cannot_write(builder.data_dir, OSError(number, "")) from error


def open_records(name: str, split: str, data_dir: str | Path):
    """TFDS's own data source of one split, a sequence of {"image": uint8[H, W, C], "label": int, ...}.

    Raises as `prepare`, which it calls first, and ValueError if data_dir lacks the split or allows no random access.
    """
    prepare(name, data_dir)
    builder = tfds.builder(name, data_dir=Path(data_dir).expanduser())
    if split not in builder.info.splits:
        raise ValueError(
            f"{builder.data_dir} was prepared with {' and '.join(builder.info.splits)} only: delete that folder, add "
            f"the original file of {split!r} and try again."
        )
    try:
        return builder.as_data_source(split=split)
    except NotImplementedError as error:
        got = f"{builder.data_dir} holds {builder.info.file_format.value} files"
        raise ValueError(f"{got}, expected array_record: pass another data_dir.") from error


def _originals(builder, dl_manager) -> list[Path]:
    """The paths of a set's original files: from `builder.files`, else downloaded and checked by TFDS."""
    if builder.files is None:
        return [Path(os.fspath(path)) for path in dl_manager.download(list(builder.urls))]
    paths = [builder.files / url.rsplit("/", 1)[-1] for url in builder.urls]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: put it there, or leave out `files` to download it.")
    return paths


def _check_reachable(name: str, url: str) -> None:
    """One short attempt, so that the user sees an error soon: TFDS retries a dead connection for minutes."""
    try:
        requests.get(url, stream=True, timeout=5).close()
    except requests.RequestException as error:
        raise ConnectionError(
            f"{name} must be downloaded once from {url}, which cannot be reached ({type(error).__name__}): connect to "
            f"the network, or put the original files into a folder and call "
            f"kitlib.data.datasets.prepare({name!r}, data_dir, files=folder)."
        ) from error


@contextlib.contextmanager
def _reading(path: Path):
    """Turns the many errors of a damaged archive into one sentence with its name."""
    try:
        yield
    except (tarfile.TarError, EOFError, KeyError, OSError) as error:
        raise ValueError(f"{path} is not the whole original archive ({error}): get it again.") from error
