"""Schedules, optimizer, state and step; checkpoints, hooks and the loop."""
