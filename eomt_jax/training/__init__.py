"""Trains: schedules, optimizer, state and step, checkpoints, reports and the loop."""
