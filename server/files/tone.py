"""High dynamic range to standard: PQ and HLG of BT.2100 to BT.709, 8 bits. Pure arrays."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

WHITE = 203.0
"""nits of white in a standard picture (BT.2408)"""
HLG_PEAK = 1000.0
"""nits of the reference display of HLG (BT.2100)"""
TO_BT709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32)
"""linear BT.2020 to linear BT.709 (BT.2087)"""
LUMA = np.array([0.2627, 0.6780, 0.0593], np.float32)
"""of linear BT.2020"""
M1, M2, C1, C2, C3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
"""constants of PQ (SMPTE ST 2084)"""
A, B, C = 0.17883277, 0.28466892, 0.55991073
"""constants of HLG (BT.2100, table 5)"""


def to_sdr(codes: npt.NDArray[np.uint16], hlg: bool, peak: float) -> npt.NDArray[np.uint8]:
    """[H, W, 3] of 16-bit PQ or HLG R'G'B' in BT.2020 to 8-bit BT.709; the brightest of `peak` nits becomes white.

    The curve is the EETF of BT.2390 (5.4.1) on the largest of R, G and B, which keeps the hue.
    """
    nits = _light(hlg)[codes >> 4]
    if hlg:
        nits = HLG_PEAK * nits * (nits @ LUMA)[..., None] ** np.float32(0.2)  # the OOTF of a 1000-nit display
    brightest, mapped = _curve(HLG_PEAK if hlg else peak)
    largest = nits.max(axis=2)
    gain = np.interp(largest, brightest, mapped).astype(np.float32) / np.maximum(largest, 1e-4)
    linear = np.clip((nits * gain[..., None]) @ TO_BT709.T / WHITE, 0, 1)
    pixels: npt.NDArray[np.uint8] = np.rint(255 * linear ** np.float32(1 / 2.4)).astype(np.uint8)
    return pixels  # after the inverse of BT.1886


@lru_cache(maxsize=2)
def _light(hlg: bool) -> Floats:
    """Light by 12-bit code: nits for PQ, relative scene light for HLG."""
    code = np.arange(4096) / 4095
    if hlg:
        return np.where(code <= 0.5, code**2 / 3, (np.exp((code - C) / A) + B) / 12).astype(np.float32)
    return _from_pq(code).astype(np.float32)


@lru_cache(maxsize=4)
def _curve(peak: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Nits in and nits out at the knots of the EETF."""
    top = _to_pq(np.array(peak))
    signal = np.linspace(0, 1, 512)
    most = float(_to_pq(np.array(WHITE)) / top)
    knee = 1.5 * most - 0.5
    t = np.clip((signal - knee) / max(1e-6, 1 - knee), 0, 1)
    rolled = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * most
    return _from_pq(signal * top), _from_pq(np.where(signal < knee, signal, rolled) * top)


def _from_pq(code: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    root = code ** (1 / M2)
    light: npt.NDArray[np.float64] = 10000 * (np.maximum(root - C1, 0) / (C2 - C3 * root)) ** (1 / M1)
    return light


def _to_pq(nits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    power = (nits / 10000) ** M1
    code: npt.NDArray[np.float64] = ((C1 + C2 * power) / (1 + C3 * power)) ** M2
    return code
