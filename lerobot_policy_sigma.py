"""LeRobot imports modules named ``lerobot_policy_*`` as plugins; this one registers Sigma's policies and simulator."""

import sigma.lerobot_environment
import sigma.policy.configuration_pi05_small
import sigma.policy.configuration_sigma  # noqa: F401
