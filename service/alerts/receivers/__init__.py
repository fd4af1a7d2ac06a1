"""The ways out: Slack, e-mail, webhook, and the heartbeat. One message, one attempt."""
