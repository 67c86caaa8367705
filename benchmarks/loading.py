"""Images a second from disk to a batch, and what they take of the cores, against torchvision's ImageFolder and WebDataset.

    python benchmarks/loading.py [--images=10000] [--tiny]

All read the same generated JPEGs of 500 x 375 pixels, which have the spectrum of photographs, objects with edges, and 110 KB
each, twice from the first to the last. Ours is what a training waits for: batches of a pack (data.packed=jpeg, data.size=256),
decoded some steps ahead; the views are made on the device (benchmarks/views.py). The others decode, crop at random, resize to
224 and flip in worker processes, which is the least that makes a batch of them: ImageFolder with torchvision's transforms, and,
where it is installed (pip install webdataset), WebDataset from shards of the same files. Seconds of a core are those of all
processes and threads. Packing is timed, too.

Then the memory of this process, with a sparse pack of a million images (raw, 151 GB of holes; and JPEG) in the same loop. And
how many JPEGs of 341 x 256 a second each decoder gives on one core, of those installed (simplejpeg, torchcodec, Pillow),
with the largest difference of a pixel from Pillow. Prints JSON.
"""

import argparse
import importlib.util
import io
import json
import os
import resource
import sys
import tarfile
import tempfile
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from torchvision.datasets import ImageFolder

sys.path.insert(0, str(Path(__file__).parents[1]))
from moco.data import load_image_folder
from moco.data.decode import decode_jpeg, encode_jpeg
from moco.data.pack import RECORD, About, Pack, index_of
from moco.data.packed_images import PackedImages, threads
from moco.data.pixels import fetch
from moco.training.batches import AHEAD

WIDTH, HEIGHT, SIZE, VIEW, BATCH, EPOCHS = 500, 375, 256, 224, 256, 2
MANY = 1_000_000
CROP = transforms.Compose(
    [transforms.RandomResizedCrop(VIEW), transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
)


def noise(n: int, side: int) -> np.ndarray:
    """n fields [n, side, side] whose amplitude falls with the frequency, as that of photographs does; deviation 1."""
    draw, frequency = np.random.default_rng(0), np.fft.fftfreq(side)
    radius = np.hypot(frequency[:, None], frequency[None])
    radius[0, 0] = np.inf
    fields = [np.fft.ifft2(np.fft.fft2(draw.standard_normal((side, side))) / radius).real for _ in range(n)]
    return np.stack([field / field.std() for field in fields]).astype(np.float32)


def photograph(fields: np.ndarray, draw: np.random.Generator) -> Image.Image:
    """One scene before another, with edges where they meet; brightness varies more than colour."""
    layers = []
    for _ in range(2):
        top, left = draw.integers(fields.shape[1] - HEIGHT), draw.integers(fields.shape[2] - WIDTH)
        layers.append(fields[:, top : top + HEIGHT, left : left + WIDTH])
    whole = np.where(layers[0][:1] > draw.normal() / 2, *layers)
    levels = 45 * whole[:1] + 15 * whole[1:2] + 10 * whole[2:5] + draw.uniform(90, 160, (3, 1, 1))
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def generate(root: Path, n: int) -> None:
    """root/train/<class> with n photographs in ten classes, and one for testing in each."""
    fields, draw = noise(5, 1024), np.random.default_rng(1)
    for i in range(n + 10):
        folder = root / ("train" if i < n else "test") / str(i % 10)
        folder.mkdir(parents=True, exist_ok=True)
        photograph(fields, draw).save(folder / f"{i:05d}.jpg", quality=90)


def cpu() -> float:
    """Seconds of a core that this process and those that it has waited for have used."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def measured(batches: Iterator[int]) -> dict[str, float]:
    """Images a second, and a second of a core; the batches tell how many came, and who made them ends with them."""
    busy, began = cpu(), time.monotonic()
    images = sum(batches)
    wall = time.monotonic() - began
    busy = cpu() - busy
    return {
        "images a second": round(images / wall),
        "images a second of a core": round(images / busy),
        "cores busy": round(busy / wall, 2),
    }


def ours(images: PackedImages, epochs: int = EPOCHS) -> Iterator[int]:
    """Batches in another order in each epoch, AHEAD of them on their way, as moco.training.batches takes them."""
    coming = deque[Callable[[], Any]]()
    draw = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=draw).split(BATCH):
            coming.append(fetch(images, rows))
            if len(coming) > AHEAD:
                yield len(coming.popleft()().x)
    for load in coming:
        yield len(load().x)


def of_workers(dataset: Any, shuffle: bool) -> Iterator[int]:
    """What a DataLoader with a worker per core gives."""
    loader = torch.utils.data.DataLoader(
        dataset, BATCH, shuffle=shuffle, num_workers=threads(), persistent_workers=True, multiprocessing_context="fork"
    )
    for _ in range(EPOCHS):
        for x, _ in loader:
            yield len(x)
    loader._iterator._shutdown_workers()  # so that their time is counted


def shards(root: Path, folder: Path) -> list[str]:
    """The training files as WebDataset's shards of a thousand."""
    folder.mkdir()
    files, paths = sorted((root / "train").glob("*/*")), []
    for start in range(0, len(files), 1000):
        paths.append(str(folder / f"{start:06d}.tar"))
        with tarfile.open(paths[-1], "w") as tar:
            for file in files[start : start + 1000]:
                tar.add(file, f"{file.stem}.jpg")
                label = tarfile.TarInfo(f"{file.stem}.cls")
                label.size = 1
                tar.addfile(label, io.BytesIO(file.parent.name.encode()))
    return paths


def of_webdataset(paths: list[str]) -> Iterator[int]:
    import webdataset

    made = webdataset.WebDataset(paths, shardshuffle=len(paths), empty_check=False).shuffle(1000)
    return of_workers(made.decode("pil").to_tuple("jpg", "cls").map_tuple(CROP, int), shuffle=False)


def memory() -> int:
    """Megabytes of this process: its own pages, and those of files."""
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return round(int(fields["VmRSS"].split()[0]) / 1e3)


def sparse(path: Path, kind: str, n: int) -> Pack:
    """A pack of n images: raw ones are all in holes of the file, and JPEG ones are all the same."""
    records = np.zeros(n, RECORD)
    data = encode_jpeg(np.asarray(photograph(noise(5, 1024), np.random.default_rng(2)).resize((341, 256))))
    blob = bytes(3 * VIEW * VIEW) if kind == "raw" else data
    records["length"], records["crc"] = len(blob), zlib.crc32(blob)
    records["height"], records["width"] = (VIEW, VIEW) if kind == "raw" else (256, 341)
    records["offset"] = np.arange(n) * len(blob) if kind == "raw" else 0
    end = n * len(blob) if kind == "raw" else len(blob)
    with open(path, "wb") as file:
        if kind == "jpeg":
            file.write(blob)
        file.seek(end)
        file.write(index_of(records, About(kind, "", ["a"], [n, 0, 0], []), end))
    return Pack(path)


def million(folder: Path, n: int, seconds: float) -> dict[str, Any]:
    """How the memory grows when a pack of so many images is opened, and when batches of it are loaded for a while."""
    found: dict[str, Any] = {}
    for kind in ("raw", "jpeg"):
        path = folder / f"{kind}.pack"
        sparse(path, kind, n)
        size, before = round(path.stat().st_size / 1e9, 1), memory()
        images = PackedImages(Pack(path))
        opened, peaks = memory(), []
        began = time.monotonic()
        for _ in ours(images):
            peaks.append(memory())
            if time.monotonic() - began > seconds:
                break
        images.pack.path.unlink()
        half = len(peaks) // 2
        found[kind] = {
            "gigabytes of the file": size,
            "megabytes opened": opened - before,
            "loading, first half": max(peaks[: half + 1]) - before,
            "loading, second half": max(peaks[half:]) - before,
            "of the process": max(peaks),
        }
    return found


def decoders(seconds: float) -> dict[str, dict[str, float]]:
    """Images of 341 x 256 a second that each decoder gives on one core."""
    fields, draw = noise(5, 1024), np.random.default_rng(3)
    photos = [encode_jpeg(np.asarray(photograph(fields, draw).resize((341, 256)))) for _ in range(50)]

    def pillow(data: bytes) -> np.ndarray:
        with Image.open(io.BytesIO(data)) as file:
            return np.asarray(file)

    known: dict[str, Callable[[bytes], np.ndarray]] = {"Pillow": pillow}
    if importlib.util.find_spec("simplejpeg"):
        known["simplejpeg"] = decode_jpeg
    if importlib.util.find_spec("torchcodec"):
        from torchcodec.decoders import decode_jpeg as codec

        known["torchcodec"] = lambda data: codec(data).permute(1, 2, 0).numpy()
    found = {}
    for name, decode in known.items():
        difference = max(int(np.abs(decode(photo).astype(int) - pillow(photo)).max()) for photo in photos)
        began, n = time.process_time(), 0
        while time.process_time() - began < seconds:
            for photo in photos:
                decode(photo)
            n += len(photos)
        speed = round(n / (time.process_time() - began))
        found[name] = {"images a second": speed, "largest difference of a pixel": difference}
    return found


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--tiny", action="store_true", help="whether it runs at all")
    given = parser.parse_args()
    n, seconds, many = (20, 0.01, 1000) if given.tiny else (given.images, 10, MANY)
    torch.set_num_threads(threads())
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "photographs"
        generate(root, n)
        began, busy = time.monotonic(), cpu()
        data = load_image_folder(str(root), SIZE, "jpeg")
        packing = {
            "images a second": round((n + 10) / (time.monotonic() - began)),
            "images a second of a core": round((n + 10) / (cpu() - busy)),
            "kilobytes an image": round((root / ".moco" / f"{SIZE}-jpeg.pack").stat().st_size / (n + 10) / 1e3, 1),
        }
        assert isinstance(data.train_images, PackedImages)
        images = data.train_images
        loading = {"ours": measured(ours(images))}
        loading["ImageFolder"] = measured(of_workers(ImageFolder(str(root / "train"), CROP), shuffle=True))
        if importlib.util.find_spec("webdataset"):
            loading["WebDataset"] = measured(of_webdataset(shards(root, Path(name) / "shards")))
        report = {
            "loading": loading,
            "times as fast": {
                f"loading{where} as {other}": round(loading["ours"][key] / loading[other][key], 2)
                for where, key in (("", "images a second"), (" on a core", "images a second of a core"))
                for other in loading
                if other != "ours"
            },
            "packing": packing,
            "decoders": decoders(seconds / 2),
            "memory of a million": million(Path(name), many, seconds),
            "cores": os.cpu_count(),
            "processor": processor(),
            "load before": [round(value, 1) for value in os.getloadavg()],
        }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
