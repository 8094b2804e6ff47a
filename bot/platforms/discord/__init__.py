"""Discord. The one home of discord.py."""
