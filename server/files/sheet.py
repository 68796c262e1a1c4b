"""A contact sheet: pictures side by side, each over an enlarged part of itself, with labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np

from core.contract import Pixels

ZOOM = 3
LABEL = 18
"""height of a line of text, in pixels"""
GAP = 4


@dataclass(frozen=True)
class SheetRow:
    """One clip under one operator."""

    title: str
    cells: tuple[tuple[str, Pixels], ...]
    """label and picture [H, W, 3], left to right; the last one is the original"""


def sheet(rows: Sequence[SheetRow]) -> Pixels:
    """The whole sheet, [H, W, 3]."""
    drawn = [draw_row(row) for row in rows]
    width = max(row.shape[1] for row in drawn)
    return np.concatenate([np.pad(row, ((0, GAP), (0, width - row.shape[1]), (0, 0))) for row in drawn])


def draw_row(row: SheetRow) -> Pixels:
    original = row.cells[-1][1]
    top, left, height, width = busiest(original)
    columns = []
    for label, pixels in row.cells:
        part = pixels[top : top + height, left : left + width].repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)
        framed = outline(pixels, top, left, height, width)
        columns.append(stack(text(label, framed.shape[1]), framed, part))
    spaced = np.concatenate([np.pad(column, ((0, 0), (0, GAP), (0, 0))) for column in columns], axis=1)
    return stack(text(row.title, spaced.shape[1]), spaced)


def busiest(pixels: Pixels) -> tuple[int, int, int, int]:
    """Top, left, height and width of the part with the most detail that fits its column when enlarged."""
    height, width = pixels.shape[0] // ZOOM, pixels.shape[1] // ZOOM
    grey = pixels.astype(np.float32).mean(axis=2)
    detail = np.abs(np.diff(grey, axis=0))[:, 1:] + np.abs(np.diff(grey, axis=1))[1:]
    sums = np.pad(detail, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    boxes = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    top, left = np.unravel_index(int(boxes.argmax()), boxes.shape)
    return int(top), int(left), height, width


def outline(pixels: Pixels, top: int, left: int, height: int, width: int) -> Pixels:
    framed = pixels.copy()
    rows, columns = slice(top, top + height), slice(left, left + width)
    framed[[top, top + height - 1], columns] = (255, 220, 0)
    framed[rows, [left, left + width - 1]] = (255, 220, 0)
    return framed


def stack(*parts: Pixels) -> Pixels:
    """One under the other, filled up with black to the widest."""
    width = max(part.shape[1] for part in parts)
    return np.concatenate([np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0))) for part in parts])


def text(words: str, width: int) -> Pixels:
    line = np.zeros((LABEL, width, 3), np.uint8)
    return cast(Pixels, cv2.putText(line, words, (3, LABEL - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 1))
