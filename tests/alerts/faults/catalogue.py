"""All situations."""

from tests.alerts.faults import events, postgres, security, services

SITUATIONS = [*security.SITUATIONS, *postgres.SITUATIONS, *events.SITUATIONS, *services.SITUATIONS]
