"""How verbs print: tables for people, the bodies of the contract for programs."""

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any


def add_output_option(parser: argparse.ArgumentParser) -> None:
    """Give a reading verb its ``-o json``; read it as ``args.output``."""
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="how to print it")


def print_json(body: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    """Print a body, or several."""
    print(json.dumps(body, indent=2, ensure_ascii=False))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows below their headings, columns aligned; None shows as ``-``."""
    print(table(headings, rows))


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Write rows below their headings."""
    texts = [[str(heading).upper() for heading in headings]]
    texts += [["-" if cell is None or cell == "" else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in texts) for column in range(len(headings))]
    return "\n".join(
        "   ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in texts
    )
