"""`avis-client camera SOURCE`: the restored video as a virtual camera."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import sys
from typing import Any

from av.error import FFmpegError

from avis_client.restoring import Frame, restore
from avis_client.session import Refused, Unreachable


def main(argv: list[str] | None = None) -> int:
    """Runs the command; 0 when the source ended, 1 with a sentence when it did not work, 130 when interrupted."""
    args = parser().parse_args(argv)
    try:
        pyvirtualcam = importlib.import_module("pyvirtualcam")
    except ImportError:
        print('avis-client: a virtual camera needs pip install "avis-client[camera]"', file=sys.stderr)
        return 1
    try:
        asyncio.run(show(args, pyvirtualcam))
    except (Refused, Unreachable, FFmpegError, OSError, ValueError, RuntimeError) as error:
        print(f"avis-client: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="avis-client", description="Live video restoration: a client.")
    camera = found.add_subparsers(dest="command", required=True).add_parser("camera", help="show a virtual camera")
    camera.add_argument("source", help="a file, /dev/videoN, or an address that FFmpeg reads")
    camera.add_argument("--url", default="http://127.0.0.1:8080", help="the server (default: %(default)s)")
    camera.add_argument("--operator", default="super_resolution", help="what is wrong with the picture")
    camera.add_argument("--fps", type=float, default=16.0, help="frames a second (default: %(default)s)")
    return found


async def show(args: argparse.Namespace, pyvirtualcam: Any) -> None:
    """Shows each frame to the virtual camera. The token comes from AVIS_TOKEN."""
    token = os.environ.get("AVIS_TOKEN")
    frames = restore(args.source, operator=args.operator, url=args.url, token=token, fps=args.fps)
    camera: Any = None
    try:
        async for frame in frames:
            camera = camera or opened(pyvirtualcam, frame, args.fps)
            await asyncio.to_thread(camera.send, frame.pixels)
    finally:
        if camera is not None:
            camera.close()


def opened(pyvirtualcam: Any, frame: Frame, fps: float) -> Any:
    camera = pyvirtualcam.Camera(width=frame.picture.width, height=frame.picture.height, fps=fps)
    print(f"avis-client: shown on {camera.device}", flush=True)
    return camera
