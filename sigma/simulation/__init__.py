"""The simulated SO-101: scene, tasks, scripted expert, recording and closed-loop rollouts."""
