"""`python -m dfml.data`: pack a data set into shards, describe it, verify it or draw a sample."""

from __future__ import annotations

import argparse
import errno
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.filesize import decimal

from dfml import storage
from dfml.command_line import INTERRUPTED, Parser, add_cache_flags, byte_count, count, exit_code
from dfml.data.datasets import SHIPPED
from dfml.data.format.manifest import Manifest, is_packed, manifest_sha256, read_manifest
from dfml.data.packing.cores import available, map_in_processes
from dfml.data.packing.pack import Runner, pack
from dfml.data.packing.progress import BytesDone
from dfml.data.packing.readers import BENCHMARK_SETS, check_counts, read_benchmark_set, read_folder, read_table
from dfml.data.packing.readers.imagenet import read_imagenet
from dfml.data.packing.readers.packed import read_packed
from dfml.data.packing.shard_plan import SHARD_BYTES
from dfml.data.packing.source import ImageSource
from dfml.data.streaming.cache import Cache, default_folder
from dfml.errors import InvalidInput, RunFailed

DAMAGED = 1


def parser() -> argparse.ArgumentParser:
    made = Parser(prog="python -m dfml.data", description=__doc__)
    commands = made.add_subparsers(required=True, metavar="pack|info|verify|sample")

    def command(name: str, does: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = commands.add_parser(name, help=does, description=does)
        return added

    packing = command("pack", "pack images into shards; run the same command again to resume a stopped one")
    packing.set_defaults(run=run_pack)
    add = packing.add_argument
    add(
        "--dataset",
        default="mine",
        metavar="NAME",
        help=f"{', '.join(BENCHMARK_SETS)} as published, {', '.join(SHIPPED)}, or a name of your own",
    )
    add(
        "--root",
        type=Path,
        metavar="DIR",
        help="folder of the images: a benchmark set or the folder that holds it, a folder with one subfolder per "
        "class, or a packed data set",
    )
    add(
        "--table",
        type=Path,
        metavar="CSV",
        help="CSV file with columns path (relative to --root, default: the file's folder), label and, optionally, "
        "split; replaces class folders",
    )
    add(
        "--layout",
        choices=("classes", "imagenet"),
        default="classes",
        help="layout of your own folder: one folder per class, or train/ and val/ with the same classes",
    )
    add("--out", required=True, metavar="DIR-or-S3", help="folder or s3:// URI to which the data set is written")
    add(
        "--strict",
        action="store_true",
        help="fail, instead of warning, if the counts differ from a benchmark set's official ones",
    )
    add(
        "--skip-bad",
        action="store_true",
        help="leave out images that can't be decoded; the manifest records them",
    )
    add("--overwrite", action="store_true", help="replace another data set at --out")
    add(
        "--shard-size",
        type=byte_count,
        default=f"{SHARD_BYTES // 2**20}MiB",
        metavar="BYTES",
        help="most bytes of images per shard, e.g. 64MB; a larger image gets a shard of its own",
    )
    add(
        "--test-share",
        type=share,
        default=0.5,
        metavar="F",
        help="share of your own classes kept for test, 0 to 1",
    )
    add("--seed", type=int, default=0, metavar="S", help="seed of the random choice of test classes")
    add("--workers", type=count, default=available(), metavar="N", help="number of packing processes")

    showing = command("info", "print what a packed data set holds")
    showing.set_defaults(run=run_info)
    showing.add_argument("uri", metavar="URI", help="a packed data set: a folder or an s3:// URI")
    showing.add_argument("--json", action="store_true", help="print the manifest as JSON")

    verifying = command("verify", "check hashes and counts and decode every image; exit code 1 if damaged")
    verifying.set_defaults(run=run_verify)
    verifying.add_argument("uri", metavar="URI", help="a packed data set: a folder or an s3:// URI")
    verifying.add_argument("--workers", type=count, default=available(), metavar="N", help="number of processes")

    sampling = command("sample", "draw some images with their classes into a PNG")
    sampling.set_defaults(run=run_sample)
    sampling.add_argument("uri", metavar="URI", help="a packed data set: a folder or an s3:// URI")
    sampling.add_argument("--out", type=Path, default=Path("sample.png"), metavar="PNG", help="PNG file to write")
    sampling.add_argument("--split", default="train", help="split to sample from")
    sampling.add_argument("--images", type=count, default=54, metavar="N", help="number of images")
    sampling.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the random choice")
    add_cache_flags(sampling)
    return made


def share(text: str) -> float:
    """Convert a flag's value to a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:  # false for NaN, too
        raise argparse.ArgumentTypeError(f"{text} is not a share; give a number from 0 to 1")
    return value


def sources_of(arguments: argparse.Namespace, uri: str) -> list[ImageSource]:
    """Return the images that the flags of `pack` select; warn if their counts aren't official.

    Args:
        arguments: the parsed flags.
        uri: the folder or URI to pack into.

    Raises:
        InvalidInput: there are no images, `uri` is inside --root, or --strict is set and a count
            differs.
    """
    dataset: str = arguments.dataset
    root: Path | None = arguments.root
    if root is None and dataset in SHIPPED:
        root = SHIPPED[dataset]
    if arguments.table is not None:
        return read_table(arguments.table, root, arguments.test_share, arguments.seed)
    if root is None:
        raise InvalidInput(
            f"no images given for data set {dataset!r}; name their folder with --root, or a CSV file with --table"
        )
    root = root.expanduser()
    if is_packed(root):
        if str(root.resolve()) == uri:
            raise InvalidInput(f"--out is the packed data set {root} itself; name another folder or URI")
        return read_packed(root)
    if dataset.lower() in BENCHMARK_SETS:
        sources = read_benchmark_set(dataset, root)
        differences = check_counts(dataset, sources)
        if differences and arguments.strict:
            raise InvalidInput(f"{differences[0]}; complete the data set, or pack it as it is without --strict")
        for difference in differences:
            print(f"warning: {difference}", file=sys.stderr)
        return sources
    if arguments.layout == "imagenet":
        return read_imagenet(root)
    if Path(uri).is_relative_to(root.resolve()):
        raise InvalidInput(f"--out {uri} is inside --root, whose folders are classes; name a folder outside of it")
    return read_folder(root, arguments.test_share, arguments.seed)


def run_pack(arguments: argparse.Namespace, run: Runner | None) -> None:
    uri = storage.absolute(arguments.out)
    try:
        sources = sources_of(arguments, uri)
    except PermissionError as error:
        raise InvalidInput(f"{error.filename} may not be read; fix its permissions, or name another") from error
    storage.check_writable(uri)
    total = sum(source.size for source in sources)
    print(f"packing {len(sources):,} images ({decimal(total)}) into {uri}", file=sys.stderr, flush=True)
    try:
        with BytesDone("packing") as progress:
            manifest = pack(
                sources,
                uri,
                arguments.dataset if arguments.dataset in SHIPPED else arguments.dataset.lower(),
                arguments.shard_size,
                arguments.skip_bad,
                arguments.overwrite,
                run or partial(map_in_processes, processes=arguments.workers),
                progress,
            )
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RunFailed(f"{uri} is full; make room and run the same command again to resume") from error
    for name, split in manifest.splits.items():
        print(f"{name}: {split.rows} images of {split.classes} classes")
    for image in manifest.dropped:
        print(f"left out: {image.path} ({image.reason})")
    print(f"packed into {uri}; train on it with: {_command(manifest, arguments)}")


def _command(manifest: Manifest, arguments: argparse.Namespace) -> str:
    """Return the command to run next."""
    data = f"--dataset {shlex.quote(manifest.dataset)} --data {shlex.quote(arguments.out)}"
    # A sweep scores its winner on test images.
    if {"test", "query", "gallery"}.isdisjoint(manifest.splits):
        return f"python -m dfml.train {data}"
    if manifest.dataset in {*BENCHMARK_SETS, *SHIPPED}:
        return f"python run_sweep.py {data}"
    space = "imagenet" if arguments.layout == "imagenet" else "emoji"
    return f"python run_sweep.py {data} --search-space search_spaces/{space}.yaml"


def run_info(arguments: argparse.Namespace, run: Runner | None) -> None:
    manifest = read_manifest(arguments.uri)
    if arguments.json:
        print(manifest.model_dump_json(indent=1))
        return
    print(
        f"{manifest.dataset} at {arguments.uri}: format {manifest.format_version}, "
        f"manifest {manifest_sha256(arguments.uri)}"
    )
    for name, split in manifest.splits.items():
        shards = manifest.shards_of(name)
        size = sum(shard.bytes for shard in shards)
        print(
            f"{name}: {split.rows:,} images of {split.classes:,} classes "
            f"({split.rows / split.classes:.1f} per class), {len(shards):,} "
            f"shard(s), {decimal(size)} ({decimal(size // split.rows)} per image)"
        )
    if manifest.dropped:
        print(f"left out when it was packed: {len(manifest.dropped)} image(s), the first {manifest.dropped[0].path}")


def run_verify(arguments: argparse.Namespace, run: Runner | None) -> int:
    from dfml.data.packing.verify import verify

    problems = 0
    with BytesDone("verifying") as progress:
        for problem in verify(storage.absolute(arguments.uri), arguments.workers, progress):
            problems += 1
            print(problem, flush=True)
    manifest = read_manifest(arguments.uri)
    images = sum(split.rows for split in manifest.splits.values())
    print(
        f"{problems or 'no'} problem(s) in {images:,} images and {len(manifest.shards):,} shard(s) of {arguments.uri}"
    )
    return DAMAGED if problems else 0


def run_sample(arguments: argparse.Namespace, run: Runner | None) -> None:
    from dfml.data.contact_sheet import contact_sheet
    from dfml.data.streaming.sharded_images import ShardedImages

    if arguments.out.suffix.lower() != ".png":
        raise InvalidInput(f"--out {arguments.out} isn't the name of a PNG file; end it in .png")
    cache = Cache(arguments.cache_dir or default_folder(), arguments.cache_size)
    images = ShardedImages(arguments.uri, arguments.split, cache)
    sheet = contact_sheet(images, arguments.images, arguments.seed)
    try:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(arguments.out)
    except OSError as error:
        raise InvalidInput(f"--out {arguments.out} can't be written ({error}); name another file") from error
    print(f"{min(arguments.images, len(images))} of {len(images):,} {arguments.split} images drawn to {arguments.out}")


def main(argv: Sequence[str] | None = None, run: Runner | None = None) -> int:
    """Run a command and return its exit code.

    Args:
        argv: the command-line arguments.
        run: runs the packing jobs; None: use this machine's cores.

    Returns:
        1 if `verify` finds damage, 2 for input that can't be used, 130 after Ctrl-C, else 0.
    """

    def work() -> int | None:
        arguments = parser().parse_args(argv)
        try:
            result: int | None = arguments.run(arguments, run)
            return result
        except KeyboardInterrupt:
            goes_on = "; run the same command again to resume" if arguments.run is run_pack else ""
            print(f"stopped{goes_on}", file=sys.stderr)
            return INTERRUPTED

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
