"""How schemathesis sends the bodies of WHIP and WHEP. It loads this file by the name in SCHEMATHESIS_HOOKS."""

import schemathesis


@schemathesis.serializer("application/sdp", "application/trickle-ice-sdpfrag")
def as_text(context, value):
    return str(value).encode(errors="replace")
