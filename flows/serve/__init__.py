"""Schedules: deployments, automations and the server of `logitlake serve`."""
