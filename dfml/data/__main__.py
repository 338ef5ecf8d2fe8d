"""`python -m dfml.data`: pack a data set to shards; look at one, check it, draw a sample of it."""

from __future__ import annotations

import argparse
import errno
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dfml import storage
from dfml.command_line import INTERRUPTED, Parser, add_cache_flags, byte_count, count, exit_code
from dfml.data.cache import Cache, default_folder
from dfml.data.cores import available, over_cores
from dfml.data.datasets import DATASETS
from dfml.data.manifest import Manifest, is_packed, manifest_sha256, read_manifest
from dfml.data.packing import SHARD_BYTES, Runner, pack
from dfml.data.progress import BytesDone
from dfml.data.readers import BENCHMARK_SETS, check_counts, read_benchmark_set, read_folder, read_table
from dfml.data.readers.imagenet import read_imagenet
from dfml.data.readers.packed import read_packed
from dfml.data.source import ImageSource
from dfml.errors import InvalidInput

DAMAGED = 1


def parser() -> argparse.ArgumentParser:
    made = Parser(prog="python -m dfml.data", description=__doc__)
    commands = made.add_subparsers(required=True, metavar="pack|info|verify|sample")

    def command(name: str, does: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = commands.add_parser(name, help=does, description=does)
        return added

    packing = command("pack", "pack images to shards; the same command again goes on where one was stopped")
    packing.set_defaults(run=run_pack)
    # fmt: off
    add = packing.add_argument
    add("--dataset", default="mine", metavar="NAME", help=f"{', '.join(BENCHMARK_SETS)} as they are published, {', '.join(DATASETS)}, or a name of your own")
    add("--root", type=Path, metavar="DIR", help="folder of the images: that of a benchmark set, or one that holds it; a folder of folders, one a class; or a packed data set")
    add("--table", type=Path, metavar="CSV", help="in place of a folder of folders: a file with columns path (from --root, or else from the file's folder), label and, if you like, split")
    add("--layout", choices=("classes", "imagenet"), default="classes", help="of your own folder: a folder a class, or train/ and val/ with the same classes")
    add("--out", required=True, metavar="DIR-or-S3", help="where the data set goes: a folder or an s3:// URI")
    add("--strict", action="store_true", help="counts that differ from a benchmark set's official ones are an error, not a warning")
    add("--skip-bad", action="store_true", help="leave out images that can't be decoded; the manifest records them")
    add("--overwrite", action="store_true", help="replace another data set at --out")
    add("--shard-size", type=byte_count, default=f"{SHARD_BYTES // 2**20}MiB", metavar="BYTES", help="of the images in a shard, at most, unless one is larger, e.g. 64MB")
    add("--test-share", type=share, default=0.5, metavar="F", help="share of your own classes kept for test, 0 to 1")
    add("--seed", type=int, default=0, metavar="S", help="decides which")
    add("--workers", type=count, default=available(), metavar="N", help="processes that pack")
    # fmt: on

    showing = command("info", "say what a packed data set holds")
    showing.set_defaults(run=run_info)
    showing.add_argument("place", metavar="URI", help="a packed data set: a folder or an s3:// URI")
    showing.add_argument("--json", action="store_true", help="as JSON")

    verifying = command("verify", "check hashes and counts, and decode every image; exit code 1 for damage")
    verifying.set_defaults(run=run_verify)
    verifying.add_argument("place", metavar="URI", help="a packed data set: a folder or an s3:// URI")
    verifying.add_argument("--workers", type=count, default=available(), metavar="N", help="processes that check")

    sampling = command("sample", "draw some images with their classes into a PNG")
    sampling.set_defaults(run=run_sample)
    sampling.add_argument("place", metavar="URI", help="a packed data set: a folder or an s3:// URI")
    sampling.add_argument("--out", type=Path, default=Path("sample.png"), metavar="PNG", help="the picture")
    sampling.add_argument("--split", default="train", help="whose images")
    sampling.add_argument("--images", type=count, default=54, metavar="N", help="how many")
    sampling.add_argument("--seed", type=int, default=0, metavar="S", help="decides which")
    add_cache_flags(sampling)
    return made


def share(text: str) -> float:
    """A flag's type: a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:  # NaN as well
        raise argparse.ArgumentTypeError(f"{text} is no share: give 0 to 1")
    return value


def sources_of(arguments: argparse.Namespace, place: str) -> list[ImageSource]:
    """The images that the flags of `pack` mean, with warnings of counts that aren't the official ones.

    Args:
        place: where they are to go.

    Raises:
        InvalidInput: there are none, or, with --strict, not as many as there should be, or `place` is among them.
    """
    dataset: str = arguments.dataset
    root: Path | None = arguments.root
    if root is None and dataset in DATASETS:
        root = DATASETS[dataset]
    if arguments.table is not None:
        return read_table(arguments.table, root, arguments.test_share, arguments.seed)
    if root is None:
        raise InvalidInput(
            f"where the images of {dataset!r} are isn't said: name their folder with --root, or a CSV file with --table"
        )
    root = root.expanduser()
    if is_packed(root):
        if str(root.resolve()) == place:
            raise InvalidInput(f"--out is the packed data set {root} itself: name another place")
        return read_packed(root)
    if dataset.lower() in BENCHMARK_SETS:
        sources = read_benchmark_set(dataset, root)
        differences = check_counts(dataset, sources)
        if differences and arguments.strict:
            raise InvalidInput(f"{differences[0]}: complete the data set, or pack it as it is without --strict")
        for difference in differences:
            print(f"warning: {difference}", file=sys.stderr)
        return sources
    if arguments.layout == "imagenet":
        return read_imagenet(root)
    if Path(place).is_relative_to(root.resolve()):
        raise InvalidInput(f"--out {place} lies in --root, where every folder is a class: name a place outside of it")
    return read_folder(root, arguments.test_share, arguments.seed)


def run_pack(arguments: argparse.Namespace, run: Runner | None) -> None:
    place = storage.absolute(arguments.out)
    try:
        sources = sources_of(arguments, place)
    except PermissionError as error:
        raise InvalidInput(f"{error.filename} may not be read: give yourself the right to, or name another") from error
    storage.check_writable(place)
    total = sum(source.size for source in sources) / 2**20
    print(f"packing {len(sources):,} images ({total:,.1f} MB) into {place}", file=sys.stderr, flush=True)
    try:
        with BytesDone("packing") as progress:
            manifest = pack(
                sources,
                place,
                arguments.dataset if arguments.dataset in DATASETS else arguments.dataset.lower(),
                arguments.shard_size,
                arguments.skip_bad,
                arguments.overwrite,
                run or partial(over_cores, processes=arguments.workers),
                progress,
            )
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InvalidInput(f"{place} is full: make room, and the same command goes on where it stopped") from error
    for name, split in manifest.splits.items():
        print(f"{name}: {split.rows} images of {split.classes} classes")
    for image in manifest.dropped:
        print(f"left out: {image.path} ({image.reason})")
    print(f"packed into {place}; train on it with: {_command(manifest, arguments)}")


def _command(manifest: Manifest, arguments: argparse.Namespace) -> str:
    """What to run next."""
    data = f"--dataset {shlex.quote(manifest.dataset)} --data {shlex.quote(arguments.out)}"
    if "test" not in manifest.splits:  # In-Shop's queries and gallery, which a sweep can't score
        return f"python -m dfml.train {data}"
    if manifest.dataset in {*BENCHMARK_SETS, *DATASETS}:
        return f"python run_sweep.py {data}"
    space = "imagenet" if arguments.layout == "imagenet" else "emoji"
    return f"python run_sweep.py {data} --search-space search_spaces/{space}.yaml"


def run_info(arguments: argparse.Namespace, run: Runner | None) -> None:
    manifest = read_manifest(arguments.place)
    if arguments.json:
        print(manifest.model_dump_json(indent=1))
        return
    print(
        f"{manifest.dataset} at {arguments.place}: format {manifest.format_version}, manifest {manifest_sha256(arguments.place)}"
    )
    for name, split in manifest.splits.items():
        shards = manifest.shards_of(name)
        size = sum(shard.bytes for shard in shards)
        print(
            f"{name}: {split.rows:,} images of {split.classes:,} classes ({split.rows / split.classes:.1f} a class), {len(shards):,} "
            f"shard(s), {size / 2**20:,.1f} MB ({size / split.rows / 1000:.1f} kB an image)"
        )
    if manifest.dropped:
        print(f"left out when it was packed: {len(manifest.dropped)} image(s), the first {manifest.dropped[0].path}")


def run_verify(arguments: argparse.Namespace, run: Runner | None) -> int:
    from dfml.data.verify import verify

    problems = 0
    with BytesDone("verifying") as progress:
        for problem in verify(storage.absolute(arguments.place), arguments.workers, progress):
            problems += 1
            print(problem, flush=True)
    manifest = read_manifest(arguments.place)
    images = sum(split.rows for split in manifest.splits.values())
    print(
        f"{problems or 'no'} problem(s) in {images:,} images and {len(manifest.shards):,} shard(s) of {arguments.place}"
    )
    return DAMAGED if problems else 0


def run_sample(arguments: argparse.Namespace, run: Runner | None) -> None:
    from dfml.data.contact_sheet import contact_sheet
    from dfml.data.dataset import ShardedImages

    if arguments.out.suffix.lower() != ".png":
        raise InvalidInput(f"--out {arguments.out} isn't a PNG file's name: end it in .png")
    cache = Cache(arguments.cache_dir or default_folder(), arguments.cache_size)
    images = ShardedImages(arguments.place, arguments.split, cache)
    sheet = contact_sheet(images, arguments.images, arguments.seed)
    try:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(arguments.out)
    except OSError as error:
        raise InvalidInput(f"--out {arguments.out} can't be written ({error}): name another file") from error
    print(f"{min(arguments.images, len(images))} of {len(images):,} {arguments.split} images drawn to {arguments.out}")


def main(argv: Sequence[str] | None = None, run: Runner | None = None) -> int:
    """Run a command; returns its exit code: 1 where `verify` finds damage, 2 for input that can't be used, 130 after Ctrl-C.

    Args:
        argv: its words.
        run: does the packing, in place of this machine's cores.
    """

    def work() -> int | None:
        arguments = parser().parse_args(argv)
        try:
            result: int | None = arguments.run(arguments, run)
            return result
        except KeyboardInterrupt:
            goes_on = "; the same command goes on from here" if arguments.run is run_pack else ""
            print(f"stopped{goes_on}", file=sys.stderr)
            return INTERRUPTED

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
