"""Trains on a user's own photographs in one call: prepares, chooses, trains and scores."""
