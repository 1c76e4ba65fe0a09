"""LeRobot imports modules named ``lerobot_policy_*`` as plugins; this one registers Sigma's policies and simulator."""

import sigma.policy.lerobot.configuration_sigma
import sigma.policy.pi05.small.configuration_pi05_small
import sigma.simulation.lerobot_registration  # noqa: F401
