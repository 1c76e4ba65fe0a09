"""Checks that compare the cameras of one episode with those of all others. Each says its unit and why it matters.

Their input are signatures: by episode and camera the thumbnails uint8 [k, GRID, GRID] of a frame a second, without the
cameras that have no frame.
"""

from collections.abc import Iterator

import numpy as np

from sigma.data.audit.check import CheckGroup
from sigma.data.audit.checks.cameras import FLAT, STILL, likeness
from sigma.data.audit.measures import AcrossCheck, Measure, Signatures

# Fewer episodes have no usual view.
COMPARED = 3

FILMS = CheckGroup[AcrossCheck]()


@FILMS.check(
    warn=0.4,
    fail=0.6,
    unit="share of the way",
    reason="pictures stay within a fifth of the way; beyond the middle it is the other camera's",
)
def swapped_cameras(signatures: Signatures) -> Iterator[tuple[int, Measure]]:
    """How far a camera's picture has gone from its usual view to another camera's: 0 not at all, 1 all the way.

    The operating system numbered the cameras otherwise that day, and left and right, or wrist and top, were recorded
    under each other's name: a policy that learns from both takes one view for the other. The usual view is the median
    over episodes; distances are mean differences of grey levels.
    """
    views = {
        (episode, camera): np.median(frames, axis=0)
        for episode, cameras in signatures.items()
        for camera, frames in cameras.items()
    }
    names = sorted({camera for _, camera in views})
    usual = {name: np.median([view for (_, camera), view in views.items() if camera == name], axis=0) for name in names}
    if len(signatures) < COMPARED:
        return
    for (episode, camera), view in views.items():
        for other in names:
            between = np.abs(usual[camera] - usual[other]).mean()
            if other != camera and between > STILL:
                share = 1 - np.abs(view - usual[other]).mean() / between
                yield episode, Measure(float(max(share, 0.0)), subject=camera, detail=f"looks like {other}")


@FILMS.check(
    warn=0.0,
    fail=0.5,
    unit="likeness, 0 to 1",
    reason="two recordings are 5 times farther apart than the scale reaches; a copy keeps over four fifths",
)
def duplicate_video(signatures: Signatures) -> Iterator[tuple[int, Measure]]:
    """Likeness of an episode's picture to an earlier episode's of the same camera, 1 where they are the same.

    A film that was copied, or a file that two episodes point into: images no longer belong to the rows, and the same
    film in train and test is a leak. A copy that was encoded again still differs by little in every block; two
    recordings of one task differ widely somewhere at nearly every moment.
    """
    for camera in sorted({camera for cameras in signatures.values() for camera in cameras}):
        films = {
            episode: cameras[camera]
            for episode, cameras in signatures.items()
            if camera in cameras and cameras[camera].std(axis=(1, 2)).max() >= FLAT
        }
        episodes, moments = list(films), np.array([len(frames) for frames in films.values()])
        longest = moments.max(initial=0)
        padded = [np.pad(frames, ((0, longest - len(frames)), (0, 0), (0, 0))) for frames in films.values()]
        for row in range(1, len(films)):
            apart = np.abs(np.stack(padded[:row]).astype(np.int16) - padded[row]).max(axis=(2, 3))
            shared = np.arange(longest) < np.minimum(moments[:row], moments[row])[:, None]
            nearest = episodes[int((np.where(shared, apart, 0).sum(axis=1) / shared.sum(axis=1)).argmin())]
            value = likeness(films[episodes[row]], films[nearest])
            yield episodes[row], Measure(value, subject=camera, detail=f"as in episode {nearest}")
