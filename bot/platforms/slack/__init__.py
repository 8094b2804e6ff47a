"""Slack: events into requests, messages into blocks."""
