"""LeRobot imports modules named ``lerobot_policy_*`` as plugins; this one registers Sigma's policy types."""

import sigma.policy.configuration_pi05_small  # noqa: F401
