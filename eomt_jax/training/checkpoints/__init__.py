"""Saves, restores, keeps and resumes runs."""
