"""GStreamer's RTSP server with a test picture, run by the system's Python: PORT USER PASSWORD."""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

PICTURE = "videotestsrc is-live=true pattern=ball ! video/x-raw,width=128,height=96,framerate=16/1"
H264 = f"( {PICTURE} ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=16 ! rtph264pay name=pay0 )"
SOUND = "( audiotestsrc is-live=true ! mulawenc ! rtppcmupay name=pay0 )"


def main(port, user, password):
    Gst.init(None)
    server = GstRtspServer.RTSPServer(address="127.0.0.1", service=port)
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "user")
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    server.set_auth(auth)
    for path, launch in (("/cam", H264), ("/sound", SOUND)):
        factory = GstRtspServer.RTSPMediaFactory(launch=launch, shared=True)
        factory.add_role_from_structure(allowed())
        server.get_mount_points().add_factory(path, factory)
    server.attach(None)
    print("ready", flush=True)
    GLib.MainLoop().run()


def allowed():
    found = Gst.Structure.new_empty("user")
    for right in ("media.factory.access", "media.factory.construct"):
        found.set_value(right, True)
    return found


main(*sys.argv[1:4])
