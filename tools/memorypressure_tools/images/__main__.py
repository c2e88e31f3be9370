"""`make images`: builds what is not built yet and prints a table of what came out."""

import argparse
import sys
from pathlib import Path
from typing import Final

from memorypressure_tools.arguments import directory
from memorypressure_tools.images.archive import Archive
from memorypressure_tools.images.build import Image, ImageBuildError, Request, build, missing
from memorypressure_tools.toolcache import EXIT_MISSING

OUTPUT: Final = Path("build/images")
_MEGABYTE: Final = 1e6


def table(images: list[Image]) -> str:
    """One row an image: sizes in MB (10^6 bytes), compressed as it is pulled and unpacked, and what makes them up."""
    head = ("image", "pulled", "unpacked", "base", "libraries", "ours", "bytecode", "file")
    rows: list[tuple[str, ...]] = [head]
    for image in images:
        archive = Archive(image.path)
        parts = archive.sizes()
        figures = (archive.pulled_bytes, sum(parts.values()), *(parts[name] for name in head[3:7]))
        rows.append((image.reference, *(f"{figure / _MEGABYTE:.1f}" for figure in figures), str(image.path)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column in {0, len(head) - 1} else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0; 1 where a build failed; 3 after a list of what is missing."""
    parser = argparse.ArgumentParser(prog="make images", description="Build the images as OCI archives.")
    parser.add_argument("--output", type=directory, default=OUTPUT, metavar="DIR", help=f"default: {OUTPUT}")
    parser.add_argument(
        "--base",
        metavar="IMAGE",
        help="an image with Python 3.11 or newer, venv and pip, pulled from its registry (python:3.11-slim);"
        " default: Debian's Python, unpacked by mmdebstrap",
    )
    parser.add_argument("--builder", metavar="IMAGE", help="the same Python with venv and pip, where --base has none")
    parser.add_argument("--refresh", action="store_true", help="build again, the base with today's Debian packages")
    options = parser.parse_args(arguments)
    if options.builder and not options.base:
        parser.error("--builder goes with --base")
    request = Request(base=options.base, builder=options.builder, refresh=options.refresh)
    lacking = missing(request)
    if lacking:
        for each in lacking:
            print(f"images: missing: {each}", file=sys.stderr)
        return EXIT_MISSING
    try:
        images = build(request, options.output)
    except ImageBuildError as error:
        print(f"images: error: {error}", file=sys.stderr)
        return 1
    print("MB, pulled compressed; bytecode is what the three before it have beside them\n")
    print(table(images))
    return 0


if __name__ == "__main__":
    sys.exit(main())
