"""The standard variables of OpenTelemetry that decide whether, where and how much is traced.

OpenTelemetry's library reads them itself, and only warns of a value that can't work. So they are checked here.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationInfo, field_validator

from shared.secrecy import Public


def _unset_if_empty(value: Any) -> Any:
    """Return None for an empty text: the specification says that it means the same as an unset variable."""
    return None if value == "" else value


def _variable(name: str, **rules: Any) -> Any:
    return Field(validation_alias=name, **rules)


# The defaults of the specification.
QUEUE_SPANS = 2048
BATCH_SPANS = 512

Url = Annotated[Public[str] | None, Field(pattern="^https?://"), BeforeValidator(_unset_if_empty)]
# The library for another protocol, gRPC, is not installed.
Protocol = Annotated[Literal["http/protobuf"] | None, BeforeValidator(_unset_if_empty)]
Sampler = Literal[
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
]


class TracingSettings(BaseModel):
    """The same for all services, which may share one environment. docs/tracing.md describes every field."""

    otel_sdk_disabled: Annotated[Public[str], _variable("OTEL_SDK_DISABLED")] = ""
    otel_traces_exporter: Annotated[
        Literal["otlp", "none"] | None, BeforeValidator(_unset_if_empty), _variable("OTEL_TRACES_EXPORTER")
    ] = None
    otel_exporter_otlp_endpoint: Annotated[Url, _variable("OTEL_EXPORTER_OTLP_ENDPOINT")] = None
    otel_exporter_otlp_traces_endpoint: Annotated[Url, _variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")] = None
    otel_exporter_otlp_protocol: Annotated[Protocol, _variable("OTEL_EXPORTER_OTLP_PROTOCOL")] = None
    otel_exporter_otlp_traces_protocol: Annotated[Protocol, _variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")] = None
    otel_service_name: Annotated[
        Public[str] | None, BeforeValidator(_unset_if_empty), _variable("OTEL_SERVICE_NAME")
    ] = None
    otel_traces_sampler: Annotated[
        Sampler | None, BeforeValidator(_unset_if_empty), _variable("OTEL_TRACES_SAMPLER")
    ] = None
    otel_traces_sampler_arg: Annotated[
        Public[str] | None,
        BeforeValidator(_unset_if_empty),
        _variable("OTEL_TRACES_SAMPLER_ARG", validate_default=True),
    ] = None
    # Spans that wait for their export; beyond it, new ones are dropped and counted.
    otel_bsp_max_queue_size: Annotated[
        Public[str] | None, BeforeValidator(_unset_if_empty), _variable("OTEL_BSP_MAX_QUEUE_SIZE")
    ] = None

    @field_validator("otel_traces_sampler_arg")
    @classmethod
    def _ratio(cls, text: str | None, known: ValidationInfo) -> str | None:
        """Check the ratio of the samplers that take one. Without it, the library would record everything."""
        if not (known.data.get("otel_traces_sampler") or "").endswith("traceidratio"):
            return text
        try:
            ratio = float(text or "")
        except ValueError:
            ratio = -1.0
        if not 0 <= ratio <= 1:
            raise ValueError("must be a ratio from 0 to 1 for this OTEL_TRACES_SAMPLER")
        return text

    @field_validator("otel_bsp_max_queue_size")
    @classmethod
    def _holds_a_batch(cls, text: str | None) -> str | None:
        if text is not None and not (text.isdecimal() and BATCH_SPANS <= int(text) < 10**7):
            raise ValueError(f"must be an integer of at least {BATCH_SPANS}, which one export takes")
        return text

    @property
    def queue_max(self) -> int:
        """Return how many spans may wait for their export."""
        return int(self.otel_bsp_max_queue_size or QUEUE_SPANS)

    @property
    def traced(self) -> bool:
        """Return whether traces are asked for: the exporter is named, or an address for it."""
        if self.otel_sdk_disabled.lower() == "true" or self.otel_traces_exporter == "none":
            return False
        addresses = (self.otel_exporter_otlp_endpoint, self.otel_exporter_otlp_traces_endpoint)
        return self.otel_traces_exporter == "otlp" or any(addresses)
