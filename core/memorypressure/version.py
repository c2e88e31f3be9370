"""The one version number: package, console scripts, chart, images and `build_info` carry it."""

VERSION = "0.1.0"
