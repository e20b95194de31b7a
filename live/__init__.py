"""A face that speaks while it is spoken to: prepared once, then sound in, finished frames out.

face = live.prepare(lips, "talk.mp4")  # face.save("anna"); later live.Face.load("anna")
with live.Session(lips, face) as session:
    ...  # session.push(samples) from wherever sound comes
    for frame in session.play():  # at the video's rate
        show(frame.picture)
"""

from live.face import Face, prepare
from live.session import Frame, Session

__all__ = ["Face", "Frame", "Session", "prepare"]
