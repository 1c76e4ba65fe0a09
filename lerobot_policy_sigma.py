"""LeRobot discovers plugins by importing modules named ``lerobot_policy_*``; this one registers Sigma's policy types."""

import sigma.policy.configuration_pi05_small  # noqa: F401
