"""Who sends spans and metrics, as OpenTelemetry names it."""

import secrets
from functools import lru_cache

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from cnm.version import VERSION

SCOPE = InstrumentationScope("cnm", VERSION)


@lru_cache
def resource_of(service: str, node: str | None) -> Resource:
    """Return the resource of this process, with what ``OTEL_RESOURCE_ATTRIBUTES`` adds."""
    return Resource.create(
        {
            "service.name": service,
            "service.namespace": "cnm",
            "service.version": VERSION,
            "service.instance.id": secrets.token_hex(16),
            **({"host.name": node} if node else {}),
        }
    )
