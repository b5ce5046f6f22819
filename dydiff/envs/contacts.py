"""The contacts of MuJoCo 2, with which D4RL's data were made, on newer versions."""

import mujoco

_RAISES_INVERSE_WEIGHT = (3, 0)  # of a body with two slide joints, by a half: only Maze2d's ball
_SUMS_MARGINS = (3, 5)  # of two geoms, where their maximum was taken before: Hopper and Maze2d


def restore_mujoco2_contacts(model: mujoco.MjModel) -> None:
    """Correct a freshly loaded model in place; a second call would correct it twice."""
    version = tuple(int(number) for number in mujoco.__version__.split(".")[:2])
    if version >= _SUMS_MARGINS:
        model.geom_margin[:] *= 0.5
    if version >= _RAISES_INVERSE_WEIGHT:
        slides = [list(model.jnt_type[model.jnt_bodyid == body]) for body in range(model.nbody)]
        two = [joints == [mujoco.mjtJoint.mjJNT_SLIDE] * 2 for joints in slides]
        model.body_invweight0[two, 0] *= 2 / 3
