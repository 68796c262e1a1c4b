"""What the paper's tables say (arXiv 2605.20624): Wan2.1-1.3B on 100 clips of its own, in 832x480, without noise.

Other model, other clips: these stand beside ours, they are no target.
"""

from __future__ import annotations

METRICS = ("psnr", "ssim", "lpips_vgg", "fvd", "fid")
"""of each method, in this order"""

Figures = tuple[float, float, float, float, float]

TABLE_1: dict[str, dict[str, Figures]] = {
    "super_resolution": {
        "flow_warp_style": (27.46, 0.722, 0.157, 225.6, 24.49),
        "vision_xl_style": (29.89, 0.800, 0.115, 76.24, 22.51),
        "lvtino_v": (30.04, 0.824, 0.102, 59.42, 18.32),
        "lvtino_ar": (30.28, 0.818, 0.113, 48.50, 21.99),
        "avis": (30.38, 0.826, 0.101, 40.36, 23.94),
        "flash": (29.95, 0.818, 0.109, 62.98, 25.46),
    },
    "inpainting": {
        "vision_xl_style": (29.39, 0.801, 0.123, 144.8, 18.92),
        "lvtino_v": (26.36, 0.737, 0.187, 322.0, 35.75),
        "avis": (31.27, 0.870, 0.075, 68.90, 10.21),
        "flash": (30.29, 0.842, 0.091, 81.75, 13.96),
    },
    "gaussian_blur": {
        "vision_xl_style": (31.10, 0.835, 0.093, 41.52, 16.38),
        "lvtino_v": (30.64, 0.835, 0.109, 47.45, 20.37),
        "avis": (30.69, 0.831, 0.110, 36.07, 24.40),
        "flash": (30.41, 0.827, 0.115, 49.66, 25.29),
    },
    "temporal_average": {
        "vision_xl_style": (30.46, 0.825, 0.095, 110.5, 12.15),
        "lvtino_v": (31.68, 0.878, 0.069, 77.76, 8.015),
        "avis": (32.10, 0.887, 0.063, 54.85, 6.803),
        "flash": (31.57, 0.878, 0.067, 57.92, 6.829),
    },
    "spatio_temporal_average": {
        "vision_xl_style": (29.62, 0.794, 0.124, 99.54, 24.13),
        "lvtino_v": (29.85, 0.818, 0.110, 95.35, 19.73),
        "avis": (29.99, 0.818, 0.112, 62.11, 25.61),
        "flash": (29.81, 0.815, 0.117, 73.23, 25.94),
    },
}
"""Each task's methods; the rivals' originals stand in the rows of our versions of them. `lvtino_ar` is of Table 4."""

TABLE_3: dict[str, Figures] = {
    "cache": (30.29, 0.842, 0.091, 81.75, 13.96),
    "no cache": (29.75, 0.830, 0.103, 108.3, 17.67),
    "t0 = 0.1": (30.29, 0.842, 0.091, 81.75, 13.96),
    "t0 = 0.2": (28.98, 0.810, 0.112, 112.0, 16.48),
    "t0 = 0.5": (25.50, 0.716, 0.192, 283.3, 30.50),
    "K = 1": (30.40, 0.843, 0.091, 81.73, 14.64),
    "K = 2": (30.29, 0.842, 0.091, 81.75, 13.96),
    "K = 4": (29.95, 0.837, 0.094, 81.78, 13.69),
}
"""Ablations of Flash on inpainting"""

TABLE_2: dict[str, tuple[float, float, float]] = {
    "flow_warp_style": (1300, 1300, 0.06),
    "vision_xl_style": (167, 167, 0.49),
    "lvtino_v": (114, 114, 0.71),
    "avis": (4, 68.5, 1.18),
    "flash": (4, 13.7, 5.91),
}
"""Seconds to the first chunk, seconds for 81 frames, and frames a second, of super-resolution on an RTX 4090"""
